"""From the bytes of an image file to 8-bit pixels, whatever the format.

The content decides, never the extension. Everything is brought to the same form
before it is resized: orientation applied, transparency composited on black, 16 bits
scaled to 8, one luma channel (or three, if colour is kept), so that nothing about
the file but its picture reaches the model.
"""

import io
import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from cxr_data.images import png
from cxr_data.images.undecodable import Undecodable

COLORS = ("gray", "keep")
MAX_SIDE = 65_535

# Sizes are checked against --max_pixels from the header; Pillow's own limit would only warn.
Image.MAX_IMAGE_PIXELS = None


class Facts(NamedTuple):
    """What a file says beside its picture. None of it is in a record; the audit asks what it gives away.

    Attributes:
      width, height: in pixels, as stored.
      format: as `sniff` names it.
      mode: Pillow's mode, or DICOM's photometric interpretation.
      bits: of one channel.
      quality: the libjpeg quality, 1 to 100, nearest to a JPEG's luma table; 0 for other formats.
    """

    width: int
    height: int
    format: str
    mode: str
    bits: int
    quality: int


def sniff(head: bytes) -> str | None:
    """The format of an image file by its first 132 bytes: Pillow's name, "DICOM" or None."""
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
    return None


def decode_pixels(data: bytes, color: str, max_pixels: int) -> np.ndarray:
    """The pixels of `decode_with_facts`."""
    return decode_with_facts(data, color, max_pixels)[0]


def decode_with_facts(data: bytes, color: str, max_pixels: int) -> tuple[np.ndarray, Facts]:
    """Decodes one image file.

    Args:
      data: the whole file.
      color: "gray" for one luma channel, "keep" for RGB.
      max_pixels: larger images are refused by their header, before their pixels are touched.

    Returns:
      uint8, [H, W] for "gray", [H, W, 3] for "keep"; and what the file says beside it.

    Raises:
      Undecodable: with the reason for the quarantine.
    """
    if not data:
        raise Undecodable("empty", "the file has no bytes")
    kind = sniff(data[:132])
    if kind is None:
        raise Undecodable("not_an_image", f"it begins with {data[:12]!r}")
    try:
        return _DECODERS.get(kind, _decode_pillow)(data, kind, color, max_pixels)
    except Undecodable:
        raise
    # Decoders raise almost anything on damaged bytes (OSError, SyntaxError, struct.error,
    # IndexError, MemoryError, ...), and whatever it is, it is this one file's fault.
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        truncated = any(word in text.lower() for word in ("truncated", "end of file", "not enough"))
        raise Undecodable("truncated" if truncated else "damaged", f"{kind}: {text[:200]}") from error


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Scales unsigned integers to uint8 by their range.

    The range is the smallest usual depth (8, 10, 12, 14, 16 bits, or what is needed) that holds
    the brightest pixel: detectors write 10 to 14 bits into 16-bit files without saying so.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.size and int(pixels.min()) < 0:
        raise Undecodable("unsupported", "negative pixels without a DICOM header that explains them")
    brightest = int(pixels.max(initial=0))
    depth = next((d for d in (8, 10, 12, 14, 16) if brightest < 1 << d), brightest.bit_length())
    top = (1 << depth) - 1
    return ((pixels.astype(np.uint64) * 255 + top // 2) // top).astype(np.uint8)


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises Undecodable if an image of this size is not to be decoded."""
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


def _decode_pillow(data: bytes, kind: str, color: str, max_pixels: int) -> tuple[np.ndarray, Facts]:
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, which changes no pixel.
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            check_pixels(*image.size, max_pixels)
            facts = _facts_of(image, data, kind)
            if kind == "JPEG" and color == "gray":
                # The luma plane as it is stored: exactly the gray of the picture, without
                # the way through RGB and back.
                image.draft("L", image.size)
            image.load()
            upright = _upright(image)
            return _to_gray(upright) if color == "gray" else _to_rgb(upright), facts


def _facts_of(image: Image.Image, data: bytes, kind: str) -> Facts:
    """From the header alone; `image` is not loaded yet."""
    mode: Any = image.mode
    if kind == "PNG":
        bits = data[24]
    else:
        bits = 1 if mode == "1" else 16 if mode.startswith("I;16") else 32 if mode in ("I", "F") else 8
    table = getattr(image, "quantization", {}).get(0) if kind == "JPEG" else None
    return Facts(*image.size, kind, mode, bits, jpeg_quality(tuple(table)) if table else 0)


# The luma table of quality 50 in natural order (ITU-T T.81, table K.1), which libjpeg scales.
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip


@lru_cache(maxsize=1)
def _luma_tables() -> np.ndarray:
    """The luma tables of qualities 1 to 100: int64 [100, 64]."""
    quality = np.arange(1, 101)[:, None]
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return np.clip((np.array(_LUMA) * scale + 50) // 100, 1, 255)


@lru_cache(maxsize=4096)
def jpeg_quality(table: tuple[int, ...]) -> int:
    """The quality, 1 to 100, whose libjpeg luma table is nearest to `table` (64 values, natural order)."""
    return int(np.abs(_luma_tables() - np.array(table)).sum(axis=1).argmin()) + 1


def _upright(image: Image.Image) -> Image.Image:
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _to_gray(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        return to_8_bits(_white_is_bright(image, pixels))
    opaque = _opaque(image)
    return np.asarray(opaque if opaque.mode == "L" else opaque.convert("L"))


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        return np.repeat(_to_gray(image)[..., None], 3, axis=2)
    return np.asarray(_opaque(image).convert("RGB"))


def _white_is_bright(image: Image.Image, pixels: np.ndarray) -> np.ndarray:
    photometric = getattr(image, "tag_v2", {}).get(262, 1)
    # Pillow inverts WhiteIsZero for 8 bits, not for 16.
    return np.iinfo(np.uint16).max - pixels if photometric == 0 and pixels.dtype == np.uint16 else pixels


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise Undecodable("unsupported", "floating-point pixels have no range of their own")
    if not image.has_transparency_data:
        return image
    colored = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), colored).convert("RGB")


def _decode_dicom(data: bytes, kind: str, color: str, max_pixels: int) -> tuple[np.ndarray, Facts]:
    from cxr_data.images import dicom  # pydicom is not needed for anything else

    header = dicom.read_header(data)
    pixels = dicom.decode_first_frame(data, header, max_pixels)
    mode, bits = str(header.get("PhotometricInterpretation", "")), int(header.get("BitsStored", 8))
    facts = Facts(int(header.Columns), int(header.Rows), kind, mode, bits, 0)
    if pixels.ndim == 2 and color == "keep":
        return np.repeat(pixels[..., None], 3, axis=2), facts
    if pixels.ndim == 3 and color == "gray":
        return np.asarray(Image.fromarray(pixels).convert("L")), facts
    return pixels, facts


_DECODERS = {"PNG": _decode_png, "DICOM": _decode_dicom}
