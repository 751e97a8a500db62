"""The TFRecord file: the frame around each record, and its checksums.

    frame = length: u64 | masked crc32c of length: u32 | content | masked crc32c of content: u32

Source of the format: tensorflow/core/lib/io/record_writer.h.
"""

import os
import struct
import sys
from collections.abc import Iterator

from crc32c import crc32c

from cxr_data.core import exact_read
from cxr_data.core.errors import DataError
from cxr_data.core.local_store import open_regular

FRAME_HEADER_BYTES = 12
FRAME_FOOTER_BYTES = 4

MOST_BESIDES_PIXELS = 1 << 26
"""Most bytes of a record besides its pixels: names, labels, and what another program put into it."""

_MASK_DELTA = 0xA282EAD8


def masked_crc(crc: int) -> int:
    """Return the TFRecord mask over a crc32c, both as unsigned 32-bit integers."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def frame(header: bytes, payload: memoryview | bytes) -> tuple[bytes, bytes]:
    """Return the bytes before and after `payload` in a TFRecord file.

    Args:
      header: what comes before the payload, as `example.example_header` makes it.
      payload: the pixels, one contiguous buffer.

    Returns:
      (frame header + Example header, frame footer): written around the payload they are one record.
    """
    length = struct.pack("<Q", len(header) + memoryview(payload).nbytes)
    length_crc = struct.pack("<I", masked_crc(crc32c(length)))
    data_crc = struct.pack("<I", masked_crc(crc32c(payload, crc32c(header))))
    return length + length_crc + header, data_crc


_COMPRESSED = {"GZIP": (b"\x1f\x8b",), "ZLIB": (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")}
"""TensorFlow's names of the compressions, and the first bytes of such a file."""


def begins_with_frame(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as TFRecord files do, whatever its name is: with a length and its checksum."""
    try:
        with open(path, "rb", opener=open_regular) as file:
            head = file.read(FRAME_HEADER_BYTES)
    except OSError:
        return False
    return len(head) == FRAME_HEADER_BYTES and masked_crc(crc32c(head[:8])) == int.from_bytes(
        head[8:], "little"
    )


def _refuse_compressed(name: str, head: bytes) -> None:
    for compression, magics in _COMPRESSED.items():
        if head.startswith(magics):
            way_out = f"gunzip < {name} > PLAIN.tfrecord, or " if compression == "GZIP" else ""
            raise DataError(
                f"{name} is compressed ({compression}), and a compressed file cannot be read by position: "
                f"write it again without compression, by {way_out}tf.io.TFRecordWriter on the records of "
                f'tf.data.TFRecordDataset(..., compression_type="{compression}")'
            )


class DamagedRecordError(DataError):
    """A record of a file is damaged; those behind it may be whole."""


def read_frames(
    path: str | os.PathLike[str],
    name: str = "",
    *,
    offset: int = 0,
    number: int = 0,
    largest: int = sys.maxsize,
) -> Iterator[tuple[int, memoryview]]:
    """Yield (file offset of the frame, content) of a TFRecord file, every checksum checked.

    The bytes are valid until the next step: one buffer serves all records.

    Args:
      path: local.
      name: what errors call it, where `path` is a copy.
      offset, number: of the record to begin with.
      largest: bytes of the largest content that can be: so much memory a length may claim.

    Raises:
      DamagedRecordError: a checksum is wrong, a record is too large, or the file ends inside it; names file
        and record.
      DataError: the file cannot be read.
    """
    name = name or os.fspath(path)
    buffer = bytearray()
    try:
        with open(path, "rb", buffering=0, opener=open_regular) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(offset)
            while offset < size:
                head = file.read(FRAME_HEADER_BYTES)
                length, length_crc = (
                    struct.unpack("<QI", head) if len(head) == FRAME_HEADER_BYTES else (0, -1)
                )
                if masked_crc(crc32c(head[:8])) != length_crc and not offset:
                    _refuse_compressed(name, head)
                if masked_crc(crc32c(head[:8])) != length_crc:
                    raise DamagedRecordError(
                        f"{name}: record {number} at byte {offset}: the length is damaged"
                    )
                if offset + FRAME_HEADER_BYTES + length + FRAME_FOOTER_BYTES > size:
                    raise DamagedRecordError(
                        f"{name}: record {number} at byte {offset}: the file ends inside it"
                    )
                if length > largest:
                    raise DamagedRecordError(
                        f"{name}: record {number} at byte {offset}: it claims {length} bytes, and "
                        f"{largest} can be"
                    )
                if len(buffer) < length + FRAME_FOOTER_BYTES:
                    buffer = bytearray(length + FRAME_FOOTER_BYTES)
                view = memoryview(buffer)[: length + FRAME_FOOTER_BYTES]
                exact_read.read_into(file.fileno(), view, offset + FRAME_HEADER_BYTES)
                (data_crc,) = struct.unpack("<I", view[length:])
                if masked_crc(crc32c(view[:length])) != data_crc:
                    raise DamagedRecordError(
                        f"{name}: record {number} at byte {offset}: the content is damaged"
                    )
                yield offset, view[:length]
                offset += FRAME_HEADER_BYTES + length + FRAME_FOOTER_BYTES
                file.seek(offset)
                number += 1
    except EOFError as error:
        raise DataError(
            f"{name}: record {number} at byte {offset}: the file became shorter while it was read"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror}") from error
