"""Image files damaged at random: the decoder gives pixels or a reason, and nothing else."""

import numpy as np
from hypothesis import strategies as st

from cxr_data.images.decode import decode_pixels
from cxr_data.images.undecodable import Undecodable
from cxr_data.sources.quarantine import REASONS


def assert_pixels_or_a_reason(data: st.DataObject, file: bytes, intact: int = 0) -> None:
    """Change up to four bytes of a file behind the first `intact`, cut it off, and decode it."""
    content = bytearray(file)
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(intact, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(intact, len(content)))]
    try:
        pixels = decode_pixels(bytes(content), data.draw(st.sampled_from(["gray", "keep"])), 10**6)
        assert pixels.dtype == np.uint8
        assert pixels.ndim in (2, 3)
    except Undecodable as error:
        assert error.reason in REASONS
