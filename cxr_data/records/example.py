"""The record: one image as a `tf.train.Example`.

The bytes are written around the image array's own buffer, without the protobuf
API (which makes 14 FloatList records a second): on the wire a packed FloatList is
a tag, a length and the raw little-endian floats. `image` is the last feature, so
everything else is known before the pixels are and the pixels lie in one piece:

    Example = label, labels, id, sha256, group, source, image     (a protobuf map: any reader, any order)

Sources of the format: tensorflow/core/example/{example,feature}.proto,
protobuf.dev/programming-guides/encoding.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from cxr_data.sources.finding_values import PRESENT
from cxr_data.sources.names import is_nobody

DTYPES = ("float32", "float16", "uint8")
"""How pixels are stored: float32 as a FloatList in [0, 1]; float16 in [0, 1] and uint8 in
[0, 255] as one bytes value. All row-major [size, size, channels], little-endian."""

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_KINDS = {_BYTES_LIST: "bytes", _FLOAT_LIST: "floats", _INT64_LIST: "int64"}
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5


class Fields(NamedTuple):
    """Everything in a record but its pixels.

    Attributes:
      label: index into `Manifest.class_names`; of a picture with `labels`, 1 where any finding is present,
        else 0.
      id: path of the image relative to the source, with forward slashes.
      sha256: of the source file's bytes, 64 hexadecimal digits.
      group: the patient (or whatever must not be split); the id itself where none is known.
      source: the hospital or data set that the picture comes from; empty where it is not known.
      labels: one of `finding_values.FINDING_VALUES` for each finding of `Manifest.class_names`; empty where
        each picture has one class.
    """

    label: int
    id: str
    sha256: str
    group: str
    source: str = ""
    labels: tuple[int, ...] = ()

    @property
    def has_patient(self) -> bool:
        """Whether the patient is known."""
        return is_known_patient(self.id, self.group)

    def named(self, shard: str, number: int) -> "Fields":
        """Return the fields with an id and a group where the record has none.

        Args:
          shard: as SPLIT/NAME of its file.
          number: of the record in its shard, from 0.
        """
        name = self.id if self.id.strip() else f"{shard}/{number}"
        return self._replace(id=name, group=patient_of(name, self.group))


def patient_of(name: str, group: str) -> str:
    """Return the group of an image: its patient, or the image itself where none is known.

    Unknown patients are not one patient: a group that names nobody stands for the image alone.

    Args:
      name: id of the image.
      group: its patient; empty, or a word for nobody, where none is known.
    """
    return name if is_nobody(group) else group


def is_known_patient(name: str, group: str) -> bool:
    """Return whether `group` is a patient, and neither nobody nor the image `name` itself."""
    return group != name and not is_nobody(group)


@dataclass(frozen=True)
class Example:
    """A parsed Example: its fields, and where in its bytes the pixels are."""

    fields: Fields
    payload_start: int
    payload_bytes: int
    is_float_list: bool


# -- writing -----------------------------------------------------------------------------------


def example_header(fields: Fields, dtype: str, payload_bytes: int) -> bytes:
    """Return the bytes of an Example up to the first pixel; the pixels are the rest of it.

    Args:
      fields: label, id, sha256, group, source, and labels where each picture has several findings.
      dtype: one of `DTYPES`.
      payload_bytes: size of the pixels that will follow.
    """
    entries = [
        _delimited(1, _entry("label", _INT64_LIST, _delimited(1, _varint(fields.label)))),
        _delimited(1, _entry("labels", _INT64_LIST, _delimited(1, _packed(fields.labels))))
        if fields.labels
        else b"",
        _delimited(1, _entry("id", _BYTES_LIST, _delimited(1, _encode(fields.id)))),
        _delimited(1, _entry("sha256", _BYTES_LIST, _delimited(1, fields.sha256.encode()))),
        _delimited(1, _entry("group", _BYTES_LIST, _delimited(1, _encode(fields.group)))),
        _source_entry(fields.source),
    ]
    return _header(b"".join(entries), dtype, payload_bytes)


def other_header(header: bytes, source: str, pixels: tuple[str, int], new: tuple[str, int]) -> bytes | None:
    """Return the header of a record with other pixels: its fields are copied, and not parsed.

    Args:
      header: of the record, up to its first pixel.
      source: that it must have.
      pixels: dtype and bytes of its pixels.
      new: of the pixels that will follow the header that is returned.

    Returns:
      The bytes that `example_header` makes; None where the record has another source, or `example_header`
      has not made it.
    """
    head = _image_head(*pixels)
    if header[:1] != _tag(1) or not header.endswith(_source_entry(source) + head):
        return None
    total, start = _read_varint(memoryview(header), 1)
    if total != len(header) - start + pixels[1]:
        return None
    return _header(header[start : -len(head)], *new)


def _header(entries: bytes, dtype: str, payload_bytes: int) -> bytes:
    head = _image_head(dtype, payload_bytes)
    return _tag(1) + _varint(len(entries) + len(head) + payload_bytes) + entries + head


@functools.lru_cache
def _source_entry(source: str) -> bytes:
    return _delimited(1, _entry("source", _BYTES_LIST, _delimited(1, _encode(source))))


@functools.lru_cache
def _image_head(dtype: str, payload_bytes: int) -> bytes:
    """Return the bytes of the feature `image` up to the first pixel."""
    # Innermost first: each wrapper is a tag and the length of all that follows.
    kind = _FLOAT_LIST if dtype == "float32" else _BYTES_LIST
    head, total = b"", payload_bytes
    for tag in (_tag(1), _tag(kind), _tag(2)):
        head = tag + _varint(total) + head
        total = payload_bytes + len(head)
    key = _delimited(1, b"image")
    return _tag(1) + _varint(len(key) + total) + key + head


def _varint(value: int) -> bytes:
    if value < 0:
        raise ValueError(f"{value} is negative")
    if value <= 0x7F:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _packed(values: tuple[int, ...]) -> bytes:
    """Return the bytes of a packed int64 list; a negative number is its two's complement of 64 bits."""
    return b"".join(_varint(value & (1 << 64) - 1) for value in values)


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
    """Find the fields and the pixels in the bytes of an Example, without copying the pixels.

    Features may come in any order, and `id`, `sha256`, `group`, `source` and `labels` may be missing (empty
    then), so that records written by other programs to the same schema are read too; `label` may be missing
    where `labels` is there. `data` may also be no more than `example_header`: the sizes then speak of pixels
    that are not there.

    Raises:
      ValueError: it is not an Example, lacks `image` or `label`, or a feature is not of the schema: `label`
        is one int64, `image` one packed FloatList or one bytes value, `id`, `sha256` and `group` are one
        bytes value each. A `source` or `labels` of another kind, which another program's record may have,
        is passed over.
    """
    view = memoryview(data)
    label: int | None = None
    labels: tuple[int, ...] = ()
    source = ""
    text = {"id": "", "sha256": "", "group": ""}
    image: tuple[int, int, bool] | None = None
    seen: set[str] = set()
    for key, kind, start, stop in _features(view):
        if key in seen and key in ("image", "label", "labels", "source", *text):
            raise ValueError(f"the Example has the feature {key!r} twice")
        seen.add(key)
        if key == "image":
            image = (*_image_span(view, kind, start, stop), kind == _FLOAT_LIST)
        elif key == "label":
            label = _only_int64(view, kind, start, stop)
        elif key == "labels" and kind == _INT64_LIST:
            labels = tuple(_int64s(view, start, stop))
        elif key == "source" and kind == _BYTES_LIST:
            source = _text(view, key, kind, start, stop)
        elif key in text:
            text[key] = _text(view, key, kind, start, stop)
    if label is None and labels:
        label = int(PRESENT in labels)
    if image is None or label is None:
        raise ValueError(
            f"the Example has no feature {'image' if image is None else 'label'!r}, but "
            f"{', '.join(sorted(seen)) or 'none'}: a record holds `image`, its pixels, and `label`, one int64"
        )
    return Example(Fields(label, **text, source=source, labels=labels), *image)


def _features(view: memoryview) -> Iterator[tuple[str, int, int, int]]:
    """Yield (key, kind of list, start, stop of the list) for each feature."""
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
                    value = next(_walk(view, a, b), None)
            if value is not None:
                kind, _, a, b = value
                yield key, kind, a, b


def _walk(view: memoryview, position: int, stop: int | None) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field, wire type, start, stop) of each field of the message in view[position:stop].

    For a varint the value stands in `start`. The last field may reach past the end of `view`
    (a header without its pixels); it then ends the walk.
    """
    stop = len(view) if stop is None else stop
    size = len(view)
    last = min(stop, size)
    while position < last:
        # Numbers of one byte, which nearly all are, without a call: this loop runs 40 times for a record.
        tag = view[position]
        if tag < 0x80:
            position += 1
        else:
            tag, position = _read_varint(view, position)
        wire = tag & 7
        if wire == _LENGTH_DELIMITED:
            if position < size and (length := view[position]) < 0x80:
                position += 1
            else:
                length, position = _read_varint(view, position)
        elif wire == _VARINT:
            value, position = _read_varint(view, position)
            yield tag >> 3, wire, value, position
            continue
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


def _only_int64(view: memoryview, kind: int, start: int, stop: int) -> int:
    values = _int64s(view, start, stop) if kind == _INT64_LIST else []
    if len(values) != 1:
        held = f"{len(values)} values" if kind == _INT64_LIST else _KINDS.get(kind, "another kind of value")
        raise ValueError(f"feature 'label' must be one int64, the number of the class, and holds {held}")
    return values[0]


def _int64s(view: memoryview, start: int, stop: int) -> list[int]:
    """Return the values of an Int64List, packed or not."""
    values: list[int] = []
    for field, wire, a, b in _walk(view, start, stop):
        if field == 1 and wire == _VARINT:
            values.append(a)
        elif field == 1:
            while a < b:
                value, a = _read_varint(view[:b], a)
                values.append(value)
    return [value - (1 << 64) if value >> 63 else value for value in values]


def _text(view: memoryview, key: str, kind: int, start: int, stop: int) -> str:
    """Return the one value of a BytesList, empty where it holds none."""
    values = [bytes(view[a:b]) for field, _, a, b in _walk(view, start, stop) if field == 1]
    if len(values) > 1 or (values and kind != _BYTES_LIST):
        held = f"{len(values)} values" if kind == _BYTES_LIST else _KINDS.get(kind, "another kind of value")
        raise ValueError(f"feature {key!r} must be one bytes value, and holds {held}")
    return values[0].decode("utf-8", "surrogateescape") if values else ""
