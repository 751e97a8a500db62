"""Image files damaged at random: the decoder gives pixels or a reason, and nothing else."""

import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from sharder_fixtures import encoded, picture

from cxr_data.images import png
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


KINDS = {"PNG": "png", "JPEG": "jpg", "TIFF": "tif", "BMP": "bmp", "GIF": "gif", "WEBP": "webp"}


def giant_png(width: int, height: int) -> bytes:
    """A PNG of a header that claims so many pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return png.SIGNATURE + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0" * 50


def damaged_files(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yields (name, bytes) of files that are damaged in every way we can think of."""
    for kind, suffix in KINDS.items():
        whole = encoded(Image.fromarray(picture(rng.randrange(1000))).convert("RGB"), kind)
        for number in range(25):
            yield f"truncated_{number}.{suffix}", whole[: rng.randrange(1, len(whole) - len(whole) // 10)]
        for number in range(20):
            content = bytearray(whole)
            for _ in range(rng.choice([1, 3, 30])):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            yield f"flipped_{number}.{suffix}", bytes(content)
        yield f"magic.{suffix}", b"\0\0\0\0" + whole[4:]
        yield f"tail.{suffix}", whole[:30] + b"\xff" * 3000
        yield f"only_magic.{suffix}", whole[:16]
    for number in range(15):
        yield f"noise_{number}.png", rng.randbytes(rng.randrange(1, 3000))
        yield f"empty_{number}.jpg", b""
    for side in (1 << 31, (1 << 31) - 1, 60_000):
        yield f"giant_{side}.png", giant_png(side, side)
    yield "zero.png", giant_png(0, 0)
    yield "bomb.gif", b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\xf0\0\0" + b"\0" * 20
    yield (
        "giant.bmp",
        b"BM" + b"\0" * 12 + struct.pack("<IiiHH", 40, 2**31 - 1, 2**31 - 1, 1, 24) + b"\0" * 40,
    )
    yield "text.png", b"no image at all\n"
    yield "archive.dcm", b"\0" * 128 + b"DICM" + rng.randbytes(300)
    yield "script.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"
