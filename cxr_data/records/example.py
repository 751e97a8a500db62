"""The record: one image as a `tf.train.Example` inside a TFRecord frame.

The bytes are written around the image array's own buffer, without the protobuf
API (which makes 14 FloatList records a second): on the wire a packed FloatList is
a tag, a length and the raw little-endian floats. `image` is the last feature, so
everything else is known before the pixels are and the pixels lie in one piece:

    frame   = length: u64 | masked crc32c of length: u32 | Example | masked crc32c of Example: u32
    Example = label, id, sha256, group, image     (a protobuf map: any reader, any order)

Sources of the formats: tensorflow/core/lib/io/record_writer.h (frame and mask),
tensorflow/core/example/{example,feature}.proto, protobuf.dev/programming-guides/encoding.
"""

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from crc32c import crc32c

from cxr_data.core import exact_read
from cxr_data.core.errors import DataError

DTYPES = ("float32", "float16", "uint8")
"""How pixels are stored: float32 as a FloatList in [0, 1]; float16 in [0, 1] and uint8 in
[0, 255] as one bytes value. All row-major [size, size, channels], little-endian."""

INDEX_DTYPE = np.dtype(
    [
        ("shard", "<u4"),  # position in manifest.shards
        ("label", "<i4"),
        ("record", "<i8"),  # file offset of the frame
        ("length", "<u4"),  # bytes of the Example, without the frame
        ("payload", "<i8"),  # file offset of the first pixel
        ("crc32c", "<u4"),  # of the pixels alone, not masked
    ]
)
"""One row per record: where it lies and how to check it. Offsets are signed, because numpy makes
float64 of an unsigned 64-bit integer plus a Python integer."""

FRAME_HEADER_BYTES = 12
FRAME_FOOTER_BYTES = 4

_MASK_DELTA = 0xA282EAD8
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5


class Fields(NamedTuple):
    """Everything in a record but its pixels.

    Attributes:
      label: index into `Manifest.class_names`.
      id: path of the image relative to the source, with forward slashes.
      sha256: of the source file's bytes, 64 hexadecimal digits.
      group: the patient (or whatever must not be split).
    """

    label: int
    id: str
    sha256: str
    group: str


@dataclass(frozen=True)
class Example:
    """A parsed Example: its fields, and where in its bytes the pixels are."""

    fields: Fields
    payload_start: int
    payload_bytes: int
    is_float_list: bool


# -- writing -----------------------------------------------------------------------------------


def masked_crc(crc: int) -> int:
    """The TFRecord mask over a crc32c, both as unsigned 32-bit integers."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def example_header(fields: Fields, dtype: str, payload_bytes: int) -> bytes:
    """The bytes of an Example up to the first pixel; the pixels are the rest of it.

    Args:
      fields: label, id, sha256 and group.
      dtype: one of `DTYPES`.
      payload_bytes: size of the pixels that will follow.
    """
    entries = b"".join(
        [
            _delimited(1, _entry("label", _INT64_LIST, _delimited(1, _varint(fields.label)))),
            _delimited(1, _entry("id", _BYTES_LIST, _delimited(1, _encode(fields.id)))),
            _delimited(1, _entry("sha256", _BYTES_LIST, _delimited(1, fields.sha256.encode()))),
            _delimited(1, _entry("group", _BYTES_LIST, _delimited(1, _encode(fields.group)))),
        ]
    )
    # Innermost first: each wrapper is a tag and the length of all that follows.
    kind = _FLOAT_LIST if dtype == "float32" else _BYTES_LIST
    head, total = b"", payload_bytes
    for tag in (_tag(1), _tag(kind), _tag(2)):
        head = tag + _varint(total) + head
        total = payload_bytes + len(head)
    key = _delimited(1, b"image")
    head = _tag(1) + _varint(len(key) + total) + key + head
    return _tag(1) + _varint(len(entries) + len(head) + payload_bytes) + entries + head


def frame(header: bytes, payload: memoryview | bytes) -> tuple[bytes, bytes]:
    """The bytes before and after `payload` in a TFRecord file.

    Args:
      header: from `example_header`.
      payload: the pixels, one contiguous buffer.

    Returns:
      (frame header + Example header, frame footer): written around the payload they are one record.
    """
    length = struct.pack("<Q", len(header) + memoryview(payload).nbytes)
    length_crc = struct.pack("<I", masked_crc(crc32c(length)))
    data_crc = struct.pack("<I", masked_crc(crc32c(payload, crc32c(header))))
    return length + length_crc + header, data_crc


def _varint(value: int) -> bytes:
    if value < 0:
        raise ValueError(f"{value} is negative")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(field: int) -> bytes:
    return bytes([field << 3 | _LENGTH_DELIMITED])


def _delimited(field: int, content: bytes) -> bytes:
    return _tag(field) + _varint(len(content)) + content


def _entry(key: str, kind: int, value_list: bytes) -> bytes:
    return _delimited(1, key.encode()) + _delimited(2, _delimited(kind, value_list))


def _encode(text: str) -> bytes:
    # File names that are not UTF-8 reach Python as surrogates; give the bytes back as they were.
    return text.encode("utf-8", "surrogateescape")


# -- reading -----------------------------------------------------------------------------------


def parse_example(data: memoryview | bytes) -> Example:
    """Finds the fields and the pixels in the bytes of an Example, without copying the pixels.

    Features may come in any order, and `id`, `sha256` and `group` may be missing (empty then),
    so that records written by other programs to the same schema are read too. `data` may also
    be no more than `example_header`: the sizes then speak of pixels that are not there.

    Raises:
      ValueError: it is not an Example, or lacks `image` or `label`.
    """
    view = memoryview(data)
    label: int | None = None
    text = {"id": "", "sha256": "", "group": ""}
    image: tuple[int, int, bool] | None = None
    for key, kind, start, stop in _features(view):
        if key == "image":
            image = (*_image_span(view, kind, start, stop), kind == _FLOAT_LIST)
        elif key == "label":
            label = _int64(view, kind, start, stop)
        elif key in text and kind == _BYTES_LIST:
            values = [bytes(view[a:b]) for field, _, a, b in _walk(view, start, stop) if field == 1]
            text[key] = values[0].decode("utf-8", "surrogateescape") if values else ""
    if image is None or label is None:
        raise ValueError(f"the Example has no feature {'image' if image is None else 'label'!r}")
    return Example(Fields(label, **text), *image)


def _features(view: memoryview) -> Iterator[tuple[str, int, int, int]]:
    """Yields (key, kind of list, start, stop of the list) for each feature."""
    for field, _, start, stop in _walk(view, 0, None):
        if field != 1:
            continue
        for entry, _, entry_start, entry_stop in _walk(view, start, stop):
            if entry != 1:
                continue
            key, value = "", None
            for part, _, a, b in _walk(view, entry_start, entry_stop):
                if part == 1:
                    key = bytes(view[a:b]).decode("utf-8", "replace")
                elif part == 2:
                    value = next(((kind, c, d) for kind, _, c, d in _walk(view, a, b)), None)
            if value is not None:
                yield (key, *value)


def _walk(view: memoryview, position: int, stop: int | None) -> Iterator[tuple[int, int, int, int]]:
    """Yields (field, wire type, start, stop) of each field of the message in view[position:stop].

    For a varint the value stands in `start`. The last field may reach past the end of `view`
    (a header without its pixels); it then ends the walk.
    """
    stop = len(view) if stop is None else stop
    while position < min(stop, len(view)):
        tag, position = _read_varint(view, position)
        wire = tag & 7
        if wire == _VARINT:
            value, position = _read_varint(view, position)
            yield tag >> 3, wire, value, position
            continue
        if wire == _LENGTH_DELIMITED:
            length, position = _read_varint(view, position)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}: not an Example")
        yield tag >> 3, wire, position, position + length
        position += length


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        if position >= len(view):
            raise ValueError(f"the Example ends inside a number at byte {position}")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError(f"a number of more than 64 bits at byte {position}: not an Example")


def _image_span(view: memoryview, kind: int, start: int, stop: int) -> tuple[int, int]:
    values = [(a, b, wire) for field, wire, a, b in _walk(view, start, stop) if field == 1]
    if kind not in (_BYTES_LIST, _FLOAT_LIST) or len(values) != 1 or values[0][2] != _LENGTH_DELIMITED:
        raise ValueError("feature 'image' is neither one bytes value nor one packed FloatList")
    first, last, _ = values[0]
    return first, last - first


def _int64(view: memoryview, kind: int, start: int, stop: int) -> int:
    for field, wire, a, b in _walk(view, start, stop) if kind == _INT64_LIST else ():
        if field == 1:
            value = a if wire == _VARINT else _read_varint(view[a:b], 0)[0]
            return value - (1 << 64) if value >> 63 else value
    raise ValueError("feature 'label' is not an int64 value")


def read_fields(read_at: Callable[[int, int], bytes], row: np.void) -> Fields:
    """Reads the fields of one record by position, without its pixels where they come last.

    Args:
      read_at: reads (bytes, offset) of the shard, as `storage.opened_at` gives it.
      row: the record's row of `INDEX_DTYPE`.
    """
    start = int(row["record"]) + FRAME_HEADER_BYTES
    header = read_at(int(row["payload"]) - start, start)
    example = parse_example(header)
    if example.payload_start + example.payload_bytes < int(row["length"]):
        example = parse_example(read_at(int(row["length"]), start))
    return example.fields


def read_frames(path: str | os.PathLike[str], name: str = "") -> Iterator[tuple[int, memoryview]]:
    """Yields (file offset of the frame, Example bytes) of a TFRecord file, every checksum checked.

    The bytes are valid until the next step: one buffer serves all records.

    Args:
      path: local.
      name: what errors call it, where `path` is a copy.

    Raises:
      DataError: a checksum is wrong or the file ends inside a record; names file and record.
    """
    name = name or os.fspath(path)
    buffer = bytearray()
    offset = number = 0
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            while offset < size:
                head = file.read(FRAME_HEADER_BYTES)
                length, length_crc = (
                    struct.unpack("<QI", head) if len(head) == FRAME_HEADER_BYTES else (0, -1)
                )
                if masked_crc(crc32c(head[:8])) != length_crc:
                    raise DataError(f"{name}: record {number} at byte {offset}: the length is damaged")
                if offset + FRAME_HEADER_BYTES + length + FRAME_FOOTER_BYTES > size:
                    raise DataError(f"{name}: record {number} at byte {offset}: the file ends inside it")
                if len(buffer) < length + FRAME_FOOTER_BYTES:
                    buffer = bytearray(length + FRAME_FOOTER_BYTES)
                view = memoryview(buffer)[: length + FRAME_FOOTER_BYTES]
                exact_read.read_into(file.fileno(), view, offset + FRAME_HEADER_BYTES)
                (data_crc,) = struct.unpack("<I", view[length:])
                if masked_crc(crc32c(view[:length])) != data_crc:
                    raise DataError(f"{name}: record {number} at byte {offset}: the content is damaged")
                yield offset, view[:length]
                offset += FRAME_HEADER_BYTES + length + FRAME_FOOTER_BYTES
                file.seek(offset)
                number += 1
    except EOFError as error:
        raise DataError(
            f"{name}: record {number} at byte {offset}: the file became shorter meanwhile"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror}") from error


def scan_shard(path: str | os.PathLike[str]) -> np.ndarray:
    """The index of one TFRecord file, ours or foreign, by reading it once.

    Returns:
      One row of `INDEX_DTYPE` per record, in file order, `shard` 0.

    Raises:
      DataError: as `read_frames`, or a record is not an Example of this schema.
    """
    rows: list[tuple[int, ...]] = []
    for offset, data in read_frames(path):
        try:
            example = parse_example(data)
            if example.payload_start + example.payload_bytes > len(data):
                raise ValueError("the pixels reach past the end of the Example")
        except ValueError as error:
            raise DataError(f"{path}: record {len(rows)} at byte {offset}: {error}") from error
        start, size = example.payload_start, example.payload_bytes
        payload = offset + FRAME_HEADER_BYTES + start
        rows.append((0, example.fields.label, offset, len(data), payload, crc32c(data[start : start + size])))
    return np.array(rows, INDEX_DTYPE)
