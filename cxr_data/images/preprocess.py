"""From the bytes of an image file to the pixels of a record, as conversion, audit and prediction all do it.

decode -> crop -> equalize -> resize -> encode
"""

from dataclasses import dataclass

import cv2
import numpy as np

from cxr_data.images.decode import Facts, decode_with_facts
from cxr_data.images.harmonize import NONE, crop, equalize
from cxr_data.images.resize import resize_image
from cxr_data.images.undecodable import Undecodable

# One core is one worker; threads inside of a worker would only fight over it.
cv2.setNumThreads(1)

MAX_PIXELS = 100_000_000
"""Pixels of the largest image that is decoded, unless users ask for another limit."""


@dataclass(frozen=True)
class PixelOptions:
    """Everything that decides the bytes of a record, given its image.

    Attributes:
      size: height and width of the record's image.
      channels: 3 or 1.
      dtype: one of `records.example.DTYPES`.
      color: "gray" or "keep".
      max_pixels: larger images are refused.
      crop_border: see `harmonize.parse_crop`.
      equalize_to: see `harmonize.equalize`; 0 for no.
    """

    size: int
    channels: int
    dtype: str
    color: str
    max_pixels: int = MAX_PIXELS
    crop_border: str = NONE
    equalize_to: int = 0

    @property
    def payload_bytes(self) -> int:
        """Return the bytes of the pixels of one record."""
        return self.size * self.size * self.channels * np.dtype(self.dtype).itemsize


def small_image(data: bytes, options: PixelOptions) -> np.ndarray:
    """Decode, harmonize and resize a file: uint8 [size, size] or [size, size, 3]. Raises Undecodable."""
    return small_image_with_facts(data, options)[0]


def small_image_with_facts(data: bytes, options: PixelOptions) -> tuple[np.ndarray, Facts]:
    """Return the picture of `small_image`, and what its file says besides it."""
    pixels, facts = decode_with_facts(data, options.color, options.max_pixels)
    if options.crop_border != NONE:
        pixels = crop(pixels, options.crop_border)
    if options.equalize_to:
        pixels = equalize(pixels, options.equalize_to)
    image = resize_image(pixels, options.size)
    if image.min() == image.max():
        raise Undecodable("zero_variance", f"every pixel is {image.flat[0]}")
    return image, facts


_UNIT = np.arange(256, dtype=np.float32) / np.float32(255)


def encode(image: np.ndarray, options: PixelOptions) -> np.ndarray:
    """Return the payload of a record from 8-bit pixels.

    Args:
      image: uint8, [size, size], or [size, size, 3] for color "keep".
      options: dtype and channels.

    Returns:
      [size, size, channels] contiguous: uint8, or its values over 255 as float32, or these
      rounded to float16.
    """
    if options.dtype == "uint8":
        values = image
    elif options.dtype == "float32":
        values = cv2.LUT(image, _UNIT)
    else:
        # As 16-bit integers, because OpenCV knows no float16.
        values = _UNIT.astype(np.float16).view(np.uint16)[image]
    if options.channels == 3 and values.ndim == 2:
        values = cv2.cvtColor(values, cv2.COLOR_GRAY2RGB)
    values = values.view(options.dtype)
    return np.ascontiguousarray(values.reshape(options.size, options.size, options.channels))
