"""8-bit grayscale PNG, the format of most large X-ray sets, decoded fast and strictly.

Such a PNG takes its time in two places: inflating, and undoing the row filters. Here ISA-L
inflates it (2.5 times as fast as zlib) and every checksum is compared; then Rust's png, from
kornia-rs, undoes the filters (2.5 times as fast as libpng where Paeth's filter prevails, as it
does in X-rays), from a PNG in which the same bytes are stored uncompressed.
"""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from cxr_data.images.undecodable import Undecodable

# The same bytes and pixels, more slowly, where these have no wheel.
inflater: Any = zlib
with contextlib.suppress(ImportError):
    from isal import isal_zlib as inflater
kornia_io: Any = None
with contextlib.suppress(ImportError):
    from kornia_rs import io as kornia_io

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_IHDR = struct.Struct(">IIBBBBB")
_BLOCK = 0xFFFF  # the largest stored block of the deflate format


def decode_plain_gray(data: bytes, max_pixels: int) -> np.ndarray | None:
    """Decode an 8-bit grayscale PNG without transparency, interlacing or orientation.

    Returns:
      uint8 [H, W], or None if it is another kind of PNG.

    Raises:
      Undecodable: a checksum or the structure is wrong, or it has more than `max_pixels`.
    """
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise Undecodable("damaged", "the PNG does not begin with a whole header")
    width, height, *kind = _IHDR.unpack_from(data, 16)
    if kind != [8, 0, 0, 0, 0]:
        return None
    if width * height == 0:
        raise Undecodable("damaged", f"{width}x{height} pixels")
    if width * height > max_pixels:
        raise Undecodable("too_large", f"{width}x{height} pixels")
    parts = []
    for name, content in _chunks(data):
        if name in (b"tRNS", b"eXIf", b"acTL"):
            return None
        if name == b"IDAT":
            parts.append(content)
    raw = _inflate(b"".join(parts), height * (width + 1))
    filters = np.frombuffer(raw, np.uint8)[:: width + 1]
    if filters.max(initial=0) > 4:
        raise Undecodable("damaged", "a row of the PNG has an unknown filter")
    stored = _stored_png(data[:33], raw)
    if kornia_io is None:
        with Image.open(io.BytesIO(stored), formats=["PNG"]) as opened:
            return np.asarray(opened)
    image: np.ndarray = kornia_io.decode_image_png_u8(stored, (height, width), "mono")
    return image[..., 0]


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, position, name = memoryview(data), len(SIGNATURE), b""
    while name != b"IEND":
        if position + 12 > len(data):
            raise Undecodable("truncated", "the PNG ends before its last chunk")
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise Undecodable("truncated", "the PNG ends inside a chunk")
        name = data[position + 4 : position + 8]
        if inflater.crc32(view[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise Undecodable("damaged", f"the checksum of a PNG chunk is wrong at byte {position}")
        yield name, view[position + 8 : end]
        position = end + 4


def _inflate(compressed: bytes, expected: int) -> bytes:
    stream = inflater.decompressobj()
    try:
        raw: bytes = stream.decompress(compressed, expected + 1)
    except (zlib.error, inflater.error) as error:
        raise Undecodable("damaged", "the PNG's compressed data cannot be inflated") from error
    if len(raw) != expected or not stream.eof:
        raise Undecodable("damaged", f"the PNG holds {len(raw)} of {expected} bytes of pixels")
    return raw


def _stored_png(header: bytes, raw: bytes) -> bytes:
    """Return a PNG with the same header and rows, its deflate stream one of stored blocks."""
    blocks = max(-(-len(raw) // _BLOCK), 1)
    idat = bytearray(4 + 2 + 5 * blocks + len(raw) + 4)
    idat[:6] = b"IDAT\x78\x01"
    view, position = memoryview(raw), 6
    for start in range(0, len(raw), _BLOCK):
        part = view[start : start + _BLOCK]
        struct.pack_into("<BHH", idat, position, start + _BLOCK >= len(raw), len(part), len(part) ^ 0xFFFF)
        idat[position + 5 : position + 5 + len(part)] = part
        position += 5 + len(part)
    struct.pack_into(">I", idat, position, inflater.adler32(raw))
    length, crc = struct.pack(">I", len(idat) - 4), struct.pack(">I", inflater.crc32(idat))
    end = b"\x00\x00\x00\x00IEND\xaeB`\x82"
    return b"".join([header, length, idat, crc, end])
