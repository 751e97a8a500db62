"""The bytes of one input file, read safely: it may have changed in any way since it was listed."""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterator

from cxr_data.core import exact_read, storage
from cxr_data.core.local_store import SpecialFileError, open_regular
from cxr_data.images.undecodable import Undecodable

HEAD_BYTES = 132
"""Bytes that tell the format of a file."""

_PART, _OBJECT_PART = 1 << 20, 16 << 20


def read_source(
    path: str, max_pixels: int, listed_bytes: int | None = None, memory: int | None = None
) -> bytes:
    """Return the bytes of an input, at most as many as an image of `max_pixels` can have.

    Args:
      path: local or remote.
      max_pixels: of an image.
      listed_bytes: size of the file as it was found: an object is fetched whole, however large it is.
      memory: bytes that the file may take in memory.

    Raises:
      Undecodable: it cannot be read, is no regular file any more, or is too large.
    """
    limit = _largest(max_pixels, memory)
    _check_size(listed_bytes or 0, limit)
    if not storage.store_of(path).is_local:
        return storage.read_bytes(path, listed_bytes)
    with _opened(path, limit) as (file, size):
        return exact_read.read_at(file, size, 0)


def read_head(path: str, listed_bytes: int) -> bytes:
    """Return the first bytes of an input, as `decode.sniff` takes them. Raises Undecodable."""
    if not storage.store_of(path).is_local:
        with storage.opened_at(path) as read:
            return read(min(listed_bytes, HEAD_BYTES), 0) if listed_bytes else b""
    with _opened(path, sys.maxsize) as (file, size):
        return exact_read.read_at(file, min(size, HEAD_BYTES), 0)


def digest_of(path: str, max_pixels: int, listed_bytes: int | None = None) -> str:
    """Return the SHA-256 of an input, of which only a part is in memory.

    Args and raises as of `read_source`.
    """
    limit = _largest(max_pixels)
    if not storage.store_of(path).is_local:
        size = storage.size(path) or 0
        _check_size(size, limit)
        if size <= _OBJECT_PART:  # one request, where parts need several
            return hashlib.sha256(storage.read_bytes(path, size)).hexdigest()
        with storage.opened_at(path) as read:
            return _digest(read, size, _OBJECT_PART)
    _check_size(listed_bytes or 0, limit)
    with _opened(path, limit) as (file, size):
        return _digest(lambda count, offset: exact_read.read_at(file, count, offset), size, _PART)


def _digest(read: Callable[[int, int], bytes], size: int, part: int) -> str:
    digest = hashlib.sha256()
    for offset in range(0, size, part):
        digest.update(read(min(part, size - offset), offset))
    return digest.hexdigest()


def _largest(max_pixels: int, memory: int | None = None) -> int:
    size = 64 * (1 << 20) + 8 * max_pixels
    return size if memory is None else min(size, memory)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise Undecodable("too_large", f"{size} bytes")


@contextlib.contextmanager
def _opened(path: str, limit: int) -> Iterator[tuple[int, int]]:
    """Open a local input; give its descriptor and its size, at most `limit`."""
    try:
        # Links were resolved when the file was found: one that is there now was put there since.
        file = open_regular(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            size = os.fstat(file).st_size
            _check_size(size, limit)
            yield file, size
        finally:
            os.close(file)
    except EOFError as error:
        raise Undecodable("unreadable", "it became shorter while it was read") from error
    except SpecialFileError as error:
        raise Undecodable("special_file", "it is no longer a regular file") from error
    except OSError as error:
        raise Undecodable("unreadable", error.strerror or str(error)) from error
