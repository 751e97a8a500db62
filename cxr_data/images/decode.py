"""From the bytes of an image file to 8-bit pixels, whatever the format.

The content decides, never the extension. Everything is brought to the same form
before it is resized: orientation applied, transparency composited on black, 16 bits
scaled to 8, one luma channel (or three, if colour is kept), so that nothing about
the file but its picture reaches the model.
"""

import io
import re
import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from cxr_data.images import assumed, png
from cxr_data.images.codestream import read_codestream
from cxr_data.images.undecodable import Undecodable, too_much_memory
from cxr_data.images.value_range import high_8_bits, mapped, to_8_bits, usual_depth

COLORS = ("gray", "keep")
MAX_SIDE = 65_535

# Sizes are checked against --max_pixels from the header; Pillow's own limit would only warn.
Image.MAX_IMAGE_PIXELS = None


class Facts(NamedTuple):
    """What a file says besides its picture. None of it is in a record; the audit measures what it reveals.

    Attributes:
      width, height: in pixels, as stored.
      format: as `sniff` names it.
      mode: Pillow's mode, or DICOM's photometric interpretation.
      bits: of one channel.
      quality: the libjpeg quality, 1 to 100, nearest to a JPEG's luma table; 0 for other formats.
      assumed: letters of what was assumed where the file is silent, see `assumed.WORDS`.
    """

    width: int
    height: int
    format: str
    mode: str
    bits: int
    quality: int
    assumed: str = ""


def sniff(head: bytes) -> str | None:
    """Return the format of an image file by its first 132 bytes: Pillow's name, "DICOM" or None."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(png.SIGNATURE):
        return "PNG"
    if head[128:132] == b"DICM":
        return "DICOM"
    if head.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return "TIFF"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith(b"BM") and head[6:10] == b"\x00\x00\x00\x00":
        return "BMP"
    if head.startswith((b"\x08\x00", b"\x02\x00")) and len(head) == 132 and head[3] == 0:
        return "DICOM"  # without its preamble: the first tag is of group 8 or 2
    if head.startswith(b"\x00\x08\x00") and head[4:6].isalpha() and head[4:6].isupper():
        return "DICOM"  # the same, big-endian
    return None


def decode_pixels(data: bytes, color: str, max_pixels: int) -> np.ndarray:
    """Return the pixels of `decode_with_facts`."""
    return decode_with_facts(data, color, max_pixels)[0]


def decode_with_facts(data: bytes, color: str, max_pixels: int) -> tuple[np.ndarray, Facts]:
    """Decode one image file.

    Args:
      data: the whole file.
      color: "gray" for one luma channel, "keep" for RGB.
      max_pixels: larger images are refused by their header, before their pixels are touched.

    Returns:
      uint8, [H, W] for "gray", [H, W, 3] for "keep"; and what the file says besides it.

    Raises:
      Undecodable: with the reason for the quarantine.
    """
    if not data:
        raise Undecodable("empty", "the file has no bytes")
    kind = sniff(data[:132])
    if kind is None:
        raise _not_converted(data)
    try:
        return _DECODERS.get(kind, _decode_pillow)(data, kind, color, max_pixels)
    except Undecodable:
        raise
    # Decoders raise almost anything on damaged bytes (OSError, SyntaxError, struct.error,
    # IndexError, MemoryError, ...), and whatever it is, it is this one file's fault.
    except Exception as error:
        raise _reason_for(error, kind) from error


# What begins so, and whether it is an image.
_OTHERS = (
    (re.compile(rb"\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51"), "JPEG 2000", True),
    (re.compile(rb"\0\0\0\x0cJXL \r\n|\xff\x0a"), "JPEG XL", True),
    (re.compile(rb"P[1-7]\s"), "PGM, PPM or PBM", True),
    (re.compile(rb"P[Ff]\s"), "PFM", True),
    (re.compile(rb"....ftyp(avi|hei|hev|mif1|msf1)", re.DOTALL), "AVIF or HEIC", True),
    (re.compile(rb"II\xbc"), "JPEG XR", True),
    (re.compile(rb"8BPS"), "Photoshop", True),
    (re.compile(rb"NRRD"), "NRRD", True),
    (re.compile(rb"%PDF"), "PDF", False),
    (re.compile(rb"PK\x03\x04"), "ZIP", False),
    (re.compile(rb"\x1f\x8b"), "gzip", False),
)


def _not_converted(data: bytes) -> Undecodable:
    """Return the verdict on a file of none of the formats that are converted."""
    for beginning, name, is_image in _OTHERS:
        if beginning.match(data):
            if is_image:
                return Undecodable("unsupported", f"the format {name}: convert it to PNG or DICOM")
            return Undecodable("not_an_image", f"the format {name}")
    return Undecodable("not_an_image", f"it begins with {data[:12]!r}")


def _reason_for(error: Exception, kind: str) -> Undecodable:
    """Return the verdict on a file whose decoder failed, in words of our own."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or "insufficient memory" in text or "out of memory" in text:
        return too_much_memory()
    if any(word in text for word in ("truncated", "end of file", "not enough")):
        return Undecodable("truncated", f"{kind}: the file ends before its pixels do")
    if any(word in text for word in ("unsupported", "not supported", "unknown pixel mode")):
        return Undecodable("unsupported", f"a variant of {kind} that has no decoder here")
    return Undecodable("damaged", f"{kind}: the decoder refuses the content")


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise Undecodable if an image of this size is not to be decoded."""
    if width < 1 or height < 1:
        raise Undecodable("damaged", f"{width}x{height} pixels")
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise Undecodable("too_large", f"{width}x{height} pixels")


def _decode_png(data: bytes, kind: str, color: str, max_pixels: int) -> tuple[np.ndarray, Facts]:
    image = png.decode_plain_gray(data, max_pixels)
    if image is None:
        return _decode_pillow(data, kind, color, max_pixels)
    facts = Facts(image.shape[1], image.shape[0], kind, "L", 8, 0)
    return image if color == "gray" else np.repeat(image[..., None], 3, axis=2), facts


def _decode_jpeg(data: bytes, kind: str, color: str, max_pixels: int) -> tuple[np.ndarray, Facts]:
    stream = read_codestream(data)
    if stream is not None and (stream.kind, stream.bits) != ("JPEG", 8):
        raise Undecodable("unsupported", f"a {stream.kind} file of {stream.bits} bits: convert it to PNG")
    return _decode_pillow(data, kind, color, max_pixels)


def _decode_pillow(data: bytes, kind: str, color: str, max_pixels: int) -> tuple[np.ndarray, Facts]:
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, which changes no pixel.
        warnings.simplefilter("ignore")
        with _opened(data, kind) as image:
            check_pixels(*image.size, max_pixels)
            facts = _facts_of(image, data, kind)
            if kind == "JPEG" and color == "gray":
                # The luma plane as it is stored: exactly the gray of the picture, without
                # the way through RGB and back.
                image.draft("L", image.size)
            image.load()
            upright = _upright(_in_8_bits(image, data) if facts.assumed else image)
            return _to_gray(upright) if color == "gray" else _to_rgb(upright), facts


def _opened(data: bytes, kind: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=[kind])
    except UnidentifiedImageError:
        if kind == "TIFF":
            TiffImagePlugin.TiffImageFile(io.BytesIO(data))  # which says why
        raise


def _facts_of(image: Image.Image, data: bytes, kind: str) -> Facts:
    """From the header alone; `image` is not loaded yet."""
    mode: Any = image.mode
    if kind == "PNG":
        bits = data[24]
    else:
        bits = 1 if mode == "1" else 16 if mode.startswith("I;16") else 32 if mode in ("I", "F") else 8
    table = getattr(image, "quantization", {}).get(0) if kind == "JPEG" else None
    quality = jpeg_quality(tuple(table)) if table else 0
    return Facts(*image.size, kind, mode, bits, quality, assumed.RANGE if _is_deep(image, data) else "")


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Return whether the pixels have more than 8 bits, of which nothing says how many are used."""
    if image.format == "PNG":
        return data[24] == 16
    bits = np.max(getattr(image, "tag_v2", {}).get(258, 8))  # of each sample of a TIFF
    return image.mode.startswith("I") or bool(bits > 8 and image.mode in ("RGB", "RGBA", "RGBX"))


def _in_8_bits(image: Image.Image, data: bytes) -> Image.Image:
    """Return an image of more than 8 bits in 8, by the range that it uses, its orientation still to apply."""
    small = _gray_in_8_bits(image) if image.mode.startswith("I") else _color_in_8_bits(image, data)
    small.getexif()[ExifTags.Base.Orientation] = image.getexif().get(ExifTags.Base.Orientation, 1)
    return small


def _gray_in_8_bits(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    if int(pixels.min(initial=0)) < 0:
        raise Undecodable("unsupported", "negative pixels without a DICOM header that explains them")
    depth = usual_depth(int(pixels.max(initial=0)))
    gray = mapped(pixels, lambda values: to_8_bits(values, depth))
    # Pillow inverts WhiteIsZero for 8 bits, not for more.
    white_is_zero = getattr(image, "tag_v2", {}).get(262, 1) == 0
    return Image.fromarray(255 - gray if white_is_zero else gray)


def _color_in_8_bits(image: Image.Image, data: bytes) -> Image.Image:
    # Pillow has only the high bytes, which are right where 16 bits are used.
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:-1] != (image.height, image.width):
        raise Undecodable("unsupported", "colours of more than 8 bits, of which the used ones are not known")
    depth = usual_depth(int(pixels[..., :3].max(initial=0)))
    colors = high_8_bits(pixels[..., 2::-1], depth)
    # Other alpha than this of a TIFF is multiplied into the colours, which is to composite them on black.
    if pixels.shape[2] == 4 and getattr(image, "tag_v2", {}).get(338, (2,)) == (2,):
        return Image.fromarray(np.dstack([colors, high_8_bits(pixels[..., 3], 16)]))
    return Image.fromarray(np.ascontiguousarray(colors))


# The luma table of quality 50 in natural order (ITU-T T.81, table K.1), which libjpeg scales.
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip


@lru_cache(maxsize=1)
def _luma_tables() -> np.ndarray:
    """Return the luma tables of qualities 1 to 100: int64 [100, 64]."""
    quality = np.arange(1, 101)[:, None]
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return np.clip((np.array(_LUMA) * scale + 50) // 100, 1, 255)


@lru_cache(maxsize=4096)
def jpeg_quality(table: tuple[int, ...]) -> int:
    """Return the quality, 1 to 100, whose libjpeg luma table is nearest to `table` (64 values, natural
    order).
    """
    return int(np.abs(_luma_tables() - np.array(table)).sum(axis=1).argmin()) + 1


def _upright(image: Image.Image) -> Image.Image:
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _to_gray(image: Image.Image) -> np.ndarray:
    opaque = _opaque(image)
    return np.asarray(opaque if opaque.mode == "L" else opaque.convert("L"))


def _to_rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(_opaque(image).convert("RGB"))


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise Undecodable("unsupported", "floating-point pixels have no range of their own")
    if not image.has_transparency_data:
        return image
    colored = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), colored).convert("RGB")


def _decode_dicom(data: bytes, kind: str, color: str, max_pixels: int) -> tuple[np.ndarray, Facts]:
    from cxr_data.images import dicom  # pydicom is not needed for anything else

    pixels, layout, letters = dicom.decode_dicom(data, max_pixels)
    facts = Facts(layout.columns, layout.rows, kind, layout.photometric, layout.stored, 0, letters)
    if pixels.ndim == 2 and color == "keep":
        return np.repeat(pixels[..., None], 3, axis=2), facts
    if pixels.ndim == 3 and color == "gray":
        return np.asarray(Image.fromarray(pixels).convert("L")), facts
    return pixels, facts


_DECODERS = {"PNG": _decode_png, "JPEG": _decode_jpeg, "DICOM": _decode_dicom}
