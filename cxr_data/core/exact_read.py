"""Bytes at a position of a local file: all of them, or an error.

The kernel may give fewer bytes than were asked for: at the end of a file, after a signal, and above 2 GB.
"""

import os


def read_at(file: int, size: int, offset: int) -> bytes:
    """Return the `size` bytes that begin at byte `offset` of an open file.

    Raises:
      EOFError: the file ends before them.
      OSError: it cannot be read.
    """
    content = os.pread(file, size, offset)
    if len(content) == size:  # the usual case: one call, no copy
        return content
    whole = bytearray(size)
    whole[: len(content)] = content
    read_into(file, memoryview(whole)[len(content) :], offset + len(content))
    return bytes(whole)


def read_into(file: int, buffer: memoryview, offset: int) -> None:
    """Fill `buffer`, of single bytes, with what begins at byte `offset` of an open file; nothing is copied.

    Raises:
      EOFError: the file ends before the buffer is full.
      OSError: it cannot be read.
    """
    while buffer.nbytes:
        count = os.preadv(file, [buffer], offset)
        if not count:
            raise EOFError(f"the file ends at byte {offset}")
        buffer, offset = buffer[count:], offset + count
