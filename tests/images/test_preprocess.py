"""From the bytes of a file to the pixels of a record."""

import numpy as np
import pytest

from cxr_data.images.preprocess import PixelOptions, encode
from cxr_data.records.example import DTYPES


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("color", ["gray", "keep"])
def test_float16_is_the_cast_of_float32_and_uint8_its_levels(channels, color):
    if color == "keep" and channels == 1:
        pytest.skip("refused")
    shape = (24, 24, 3) if color == "keep" else (24, 24)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image.flat[:256] = np.arange(256)
    stored = {d: encode(image, PixelOptions(24, channels, d, color, 1)) for d in DTYPES}
    for dtype, pixels in stored.items():
        assert (pixels.dtype, pixels.shape) == (np.dtype(dtype), (24, 24, channels))
        assert pixels.flags.c_contiguous
    expected = np.broadcast_to(image.reshape(24, 24, -1), (24, 24, channels))
    np.testing.assert_array_equal(stored["uint8"], expected)
    np.testing.assert_array_equal(stored["float32"], expected / np.float32(255))
    np.testing.assert_array_equal(
        stored["float16"].view(np.uint16), stored["float32"].astype(np.float16).view(np.uint16)
    )
