"""One record of a shard, read by its row of the index and checked: its fields, its pixels, or all of it.

The frame's checksum is that of the whole record, the index has that of the pixels: so the fields of a record
are checked without a look at its pixels, and the pixels without a look at its fields.
"""

import functools
import struct
from collections.abc import Callable

import numpy as np
from crc32c import crc32c

from cxr_data.core.errors import DataError
from cxr_data.records.example import Fields, parse_example
from cxr_data.records.tfrecord import FRAME_FOOTER_BYTES, FRAME_HEADER_BYTES, masked_crc

ReadAt = Callable[[int, int], bytes]
"""Reads (bytes, offset) of a shard, as `storage.opened_at` gives it."""


def read_fields(read_at: ReadAt, row: np.void, *, checked: int = 0) -> Fields:
    """Read the fields of one record, without its pixels where they come last.

    Args:
      read_at: reads the shard.
      row: the record's row of `index.INDEX_DTYPE`.
      checked: bytes of the pixels, where the fields are to be checked; 0 leaves that out, and saves a remote
        store a request for each record.

    Raises:
      ValueError: it is not of the schema, or its fields fail the checksum.
    """
    header = read_header(read_at, row)
    try:
        example = parse_example(header)
        is_whole = example.payload_start + example.payload_bytes >= int(row["length"])
    except ValueError:  # the label may come after the pixels, where another program wrote it
        is_whole = False
    if not is_whole:
        example = parse_example(read_at(int(row["length"]), int(row["record"]) + FRAME_HEADER_BYTES))
    if checked:
        _check_fields(read_at, row, header, checked)
    return example.fields


def read_header(read_at: ReadAt, row: np.void, *, checked: int = 0) -> bytes:
    """Read what stands before the pixels of one record; see `read_fields`."""
    start = int(row["record"]) + FRAME_HEADER_BYTES
    header = read_at(int(row["payload"]) - start, start)
    if checked:
        _check_fields(read_at, row, header, checked)
    return header


def read_payload(read_at: ReadAt, row: np.void, payload_bytes: int) -> bytes:
    """Read the pixels of one record. Raises ValueError: they fail their checksum."""
    payload = read_at(payload_bytes, int(row["payload"]))
    if crc32c(payload) != row["crc32c"]:
        raise ValueError("the pixels fail their checksum")
    return payload


def read_content(read_at: ReadAt, row: np.void) -> bytes:
    """Read all of a record.

    Raises:
      ValueError: its length or its content fail their checksum, or the shard ends inside it.
    """
    size, start = int(row["length"]), int(row["record"])
    try:
        whole = read_at(FRAME_HEADER_BYTES + size + FRAME_FOOTER_BYTES, start)
    except (OSError, DataError) as error:
        raise ValueError("the shard ends inside it, or cannot be read") from error
    head, content = whole[:FRAME_HEADER_BYTES], whole[FRAME_HEADER_BYTES:-FRAME_FOOTER_BYTES]
    if struct.unpack("<QI", head) != (size, masked_crc(crc32c(head[:8]))):
        raise ValueError("its length is damaged")
    if masked_crc(crc32c(content)) != int.from_bytes(whole[-FRAME_FOOTER_BYTES:], "little"):
        raise ValueError("it fails its checksum")
    return content


def pixels_in(content: bytes, row: np.void, payload_bytes: int) -> memoryview:
    """Return the pixels in what `read_content` gave. Raises ValueError: they are not those of the index."""
    first = int(row["payload"]) - int(row["record"]) - FRAME_HEADER_BYTES
    pixels = memoryview(content)[first : first + payload_bytes]
    if crc32c(pixels) != row["crc32c"]:
        raise ValueError("it is not the record of the index")
    return pixels


def _check_fields(read_at: ReadAt, row: np.void, before: bytes, payload_bytes: int) -> None:
    """Raise ValueError unless what stands before and behind the pixels fits the frame's checksum."""
    end = int(row["record"]) + FRAME_HEADER_BYTES + int(row["length"])
    behind = int(row["payload"]) + payload_bytes
    rest = read_at(end + FRAME_FOOTER_BYTES - behind, behind)
    checksum = _behind(crc32c(before), payload_bytes) ^ int(row["crc32c"])  # of both, one after the other
    checksum = crc32c(rest[:-FRAME_FOOTER_BYTES], checksum)
    if masked_crc(checksum) != int.from_bytes(rest[-FRAME_FOOTER_BYTES:], "little"):
        raise ValueError("its fields fail the checksum")


def _behind(checksum: int, size: int) -> int:
    """Return what the checksum of some bytes adds to that of `size` more: crc(a + b) = this ^ crc(b).

    It is linear in the bits of the checksum, see crc32_combine in zlib's crc32.c.
    """
    result = 0
    for bit, column in enumerate(_columns(size)):
        if checksum >> bit & 1:
            result ^= column
    return result


@functools.cache
def _columns(size: int) -> tuple[int, ...]:
    zeros = bytes(size)
    nothing = crc32c(zeros)
    return tuple(crc32c(zeros, 1 << bit) ^ nothing for bit in range(32))
