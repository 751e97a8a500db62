"""The decoder of compressed DICOM pixels as a plugin of pydicom: imagecodecs, and Pillow for RLE.

Damaged bytes must raise, and nothing else: GDCM ends the process then, the RLE decoder of pylibjpeg panics
and that of imagecodecs ends the process. The names here are those that pydicom asks its plugins for.
"""

import importlib
import importlib.util
import struct
from typing import Any

import numpy as np
from PIL import Image
from pydicom import uid

NAME = "imagecodecs"
"""Name of the package, and so of the plugin."""

imagecodecs: Any = importlib.import_module(NAME) if importlib.util.find_spec(NAME) else None


_JPEG = (uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)

_END_OF_IMAGE = b"\xff\xd9"

DECODER_DEPENDENCIES = dict.fromkeys((*_JPEG, *_JPEG_LS, *_JPEG_2000, uid.RLELossless), (NAME,))


def is_available(syntax: str) -> bool:
    """Return whether a transfer syntax can be decoded."""
    return syntax == uid.RLELossless or (imagecodecs is not None and syntax in DECODER_DEPENDENCIES)


def decode_frame(source: bytes, runner: Any) -> bytes:
    """Decode one frame, for pydicom.

    Args:
      source: the compressed frame.
      runner: pydicom's, which is told how the samples of the result lie.
    """
    syntax = runner.transfer_syntax
    if syntax == uid.RLELossless:
        runner.set_option("planar_configuration", 1)
        size = runner.rows * runner.columns
        return _decode_rle(source, runner.samples_per_pixel, runner.bits_allocated // 8, size)
    if syntax in _JPEG:
        if _END_OF_IMAGE not in source:
            raise ValueError("truncated")  # libjpeg would make the rest up
        # Colours as they are stored: what they mean is the header's affair.
        space = "RGB" if runner.samples_per_pixel == 3 else None
        pixels = imagecodecs.jpeg8_decode(source, colorspace=space, outcolorspace=space)
    elif syntax in _JPEG_LS:
        pixels = imagecodecs.jpegls_decode(source)
    else:
        pixels = imagecodecs.jpeg2k_decode(source, planar=False)
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
            runner.set_option("photometric_interpretation", "RGB")
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    return np.ascontiguousarray(pixels).tobytes()


def _decode_rle(source: bytes, samples: int, sample_bytes: int, pixels: int) -> bytes:
    """Decode RLE (PS3.5 annex G): a segment a byte of each sample, the highest byte first.

    Returns:
      Little-endian samples, one colour after the other.

    Raises:
      ValueError: the segments are not as many, or not as long, as the pixels need.
    """
    count, *offsets = struct.unpack_from("<16I", source)
    if count != samples * sample_bytes or count > len(offsets):
        raise ValueError(f"{count} segments")
    ends = [*offsets[1:count], len(source)]
    decoded = np.empty((samples, pixels, sample_bytes), np.uint8)
    for number, (start, end) in enumerate(zip(offsets, ends, strict=False)):
        # A segment is what TIFF calls PackBits; as one row, since runs may cross those of the picture.
        segment = Image.frombytes("L", (pixels, 1), source[start:end], "packbits", "L")
        sample, byte = divmod(number, sample_bytes)
        decoded[sample, :, sample_bytes - 1 - byte] = np.asarray(segment)[0]
    return decoded.tobytes()
