"""The frame header of a JPEG, JPEG-LS or JPEG 2000 codestream: what a decoder will make of it."""

import struct
from typing import NamedTuple


class Codestream(NamedTuple):
    """What a compressed picture says of itself.

    Attributes:
      kind: "JPEG", "lossless JPEG", "JPEG-LS" or "JPEG 2000".
      width, height: in pixels.
      samples: of one pixel.
      bits: of one sample.
    """

    kind: str
    width: int
    height: int
    samples: int
    bits: int


_JPEG_START = b"\xff\xd8\xff"
_J2K_START = b"\xff\x4f\xff\x51"
_JP2_START = b"\0\0\0\x0cjP  "
_SIZ = struct.Struct(">HHIIIIIIIIH")
# Start-of-frame markers (ITU-T T.81, table B.1; T.87): what is no SOF between C0 and CF is left out.
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


def read_codestream(data: bytes) -> Codestream | None:
    """Return the first frame header of `data`, or None where there is none that makes pixels."""
    return _read_jpeg(data) if data.startswith(_JPEG_START) else _read_jpeg_2000(data)


def without_boxes(data: bytes) -> bytes:
    """Return the codestream of a JPEG 2000 file without its boxes, other data as they are."""
    return data[max(data.find(_J2K_START), 0) :] if data.startswith(_JP2_START) else data


def _read_jpeg(data: bytes) -> Codestream | None:
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        elif marker in _FRAMES:
            return _frame_of(marker, data[position + 4 : position + 10])
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _frame_of(marker: int, content: bytes) -> Codestream | None:
    if len(content) < 6:
        return None
    bits, height, width, samples = struct.unpack(">BHHB", content)
    kind = "JPEG-LS" if marker == 0xF7 else "lossless JPEG" if marker in _LOSSLESS else "JPEG"
    return Codestream(kind, width, height, samples, bits)


def _read_jpeg_2000(data: bytes) -> Codestream | None:
    start = data.find(_J2K_START)  # behind the boxes of a .jp2, if it is one
    if start < 0 or start + 4 + _SIZ.size > len(data):
        return None
    _, _, right, bottom, left, top, _, _, _, _, samples = _SIZ.unpack_from(data, start + 4)
    first = start + 4 + _SIZ.size
    components = {data[i : i + 3] for i in range(first, first + 3 * min(samples, 4), 3)}
    if len(components) != 1 or not components.pop().endswith(b"\x01\x01"):
        return None  # samples of different depths or sizes, which no pixels are made of
    return Codestream("JPEG 2000", right - left, bottom - top, samples, (data[first] & 0x7F) + 1)
