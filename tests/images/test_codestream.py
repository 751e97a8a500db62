"""What a codestream says of itself."""

import imagecodecs
import numpy as np
import pytest
from dicom_files import HTJ2K_FRAME
from sharder_fixtures import encoded, picture

from cxr_data.images.codestream import read_codestream

DEEP = picture(1).astype(np.uint16) << 4
COLORS = np.dstack([picture(n) for n in (1, 2, 3)])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(picture(1), "JPEG"), ("JPEG", 40, 48, 1, 8)),
        (encoded(COLORS, "JPEG", progressive=True), ("JPEG", 40, 48, 3, 8)),
        (imagecodecs.jpeg8_encode(DEEP, bitspersample=12), ("JPEG", 40, 48, 1, 12)),
        (
            imagecodecs.jpeg8_encode(DEEP, lossless=True, predictor=1, bitspersample=16),
            ("lossless JPEG", 40, 48, 1, 16),
        ),
        (imagecodecs.jpegls_encode(COLORS), ("JPEG-LS", 40, 48, 3, 8)),
        (imagecodecs.jpeg2k_encode(DEEP, codecformat="J2K"), ("JPEG 2000", 40, 48, 1, 16)),
        (imagecodecs.jpeg2k_encode(COLORS, codecformat="JP2"), ("JPEG 2000", 40, 48, 3, 8)),
        (HTJ2K_FRAME, ("JPEG 2000", 20, 12, 1, 16)),
    ],
)
def test_the_frame_header_is_found(data, expected):
    assert read_codestream(data) == expected
    header_ends = data.index(b"\xff\x51" if expected[0] == "JPEG 2000" else b"\xff\xda") - 4
    for stop in range(0, header_ends, 3):
        read_codestream(data[:stop])  # raises nothing


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xd9", b"hello", encoded(picture(1))])
def test_other_bytes_have_none(data):
    assert read_codestream(data) is None


def test_samples_of_different_sizes_make_no_pixels():
    data = bytearray(imagecodecs.jpeg2k_encode(COLORS, codecformat="J2K"))
    start = data.index(b"\xff\x51") + 2 + 38
    assert data[start : start + 6] == b"\x07\x01\x01" * 2
    data[start + 4] = 2  # the second sample has half the width
    assert read_codestream(bytes(data)) is None
