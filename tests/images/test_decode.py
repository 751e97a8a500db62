"""Every format to 8-bit pixels, and every damage to a reason."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sharder_fixtures import encoded, picture

from cxr_data.images import decode as module
from cxr_data.images import png
from cxr_data.images.decode import decode_pixels
from cxr_data.images.undecodable import Undecodable
from cxr_data.sources.quarantine import REASONS

GRAY = picture(1)
MAX = 10**8


def reason_of(data, color="gray", max_pixels=MAX):
    with pytest.raises(Undecodable) as caught:
        decode_pixels(data, color, max_pixels)
    assert caught.value.reason in REASONS
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_lossless_formats_give_the_picture_back(kind, mode):
    try:
        data = encoded(Image.fromarray(GRAY).convert(mode), kind)
    except (OSError, ValueError):
        pytest.skip(f"{kind} has no {mode}")
    tolerance = 6 if (kind, mode) == ("GIF", "RGBA") else 0  # GIF's palette is quantised
    assert np.abs(decode_pixels(data, "gray", MAX).astype(int) - GRAY).mean() <= tolerance
    kept = decode_pixels(data, "keep", MAX)
    assert kept.shape == (*GRAY.shape, 3)
    assert np.abs(kept.astype(int) - GRAY[..., None]).mean() <= tolerance


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB")]
)
def test_lossy_formats_give_nearly_the_picture(kind, mode):
    data = encoded(Image.fromarray(GRAY).convert(mode), kind, quality=95)
    assert np.abs(decode_pixels(data, "gray", MAX).astype(int) - GRAY).mean() < 2


def test_gray_jpeg_is_pillows_to_the_bit():
    data = encoded(GRAY, "JPEG", quality=90)
    image = Image.open(__import__("io").BytesIO(data))
    np.testing.assert_array_equal(decode_pixels(data, "gray", MAX), np.asarray(image))


def test_fast_png_is_pillows_to_the_bit():
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (3, 70), (300, 400)]:
        pixels = rng.integers(0, 256, (height, width), np.uint8)
        np.testing.assert_array_equal(png.decode_plain_gray(encoded(pixels), MAX), pixels)


def test_colours_are_kept_or_weighted():
    colour = np.dstack([picture(1), picture(2), picture(3)])
    data = encoded(colour)
    np.testing.assert_array_equal(decode_pixels(data, "keep", MAX), colour)
    np.testing.assert_array_equal(
        decode_pixels(data, "gray", MAX), np.asarray(Image.fromarray(colour).convert("L"))
    )


def test_transparency_is_composited_on_black():
    alpha = np.full_like(GRAY, 255)
    alpha[:10] = 0
    data = encoded(np.dstack([GRAY, GRAY, GRAY, alpha]))
    expected = np.where(alpha == 0, 0, GRAY)
    np.testing.assert_array_equal(decode_pixels(data, "gray", MAX), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_files_are_scaled_by_the_depth_they_use(kind, bits):
    wide = (GRAY.astype(np.uint32) * ((1 << bits) - 1) // 255).astype(np.uint16)
    wide[0, 0] = (1 << bits) - 1
    result = decode_pixels(encoded(Image.fromarray(wide), kind), "gray", MAX)
    expected = GRAY.copy()
    expected[0, 0] = 255
    assert np.abs(result.astype(int) - expected).max() <= 1


def test_16_bits_made_of_8_are_the_same_picture():
    wide = GRAY.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_pixels(encoded(Image.fromarray(wide)), "gray", MAX), GRAY)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif}
    result = decode_pixels(encoded(GRAY, kind, **options), "gray", MAX)
    turned = [GRAY, GRAY[:, ::-1], GRAY[::-1, ::-1], GRAY[::-1], GRAY.T, GRAY.T[:, ::-1]]
    turned += [GRAY.T[::-1, ::-1], GRAY.T[::-1]]
    expected = turned[orientation - 1]
    assert result.shape == expected.shape
    assert np.abs(result.astype(int) - expected).mean() < 2


def test_gif_gives_its_first_frame():
    second = Image.fromarray(picture(2))
    data = encoded(Image.fromarray(GRAY), "GIF", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decode_pixels(data, "gray", MAX), GRAY)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is text", "not_an_image"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (encoded(GRAY)[:-20], "truncated"),
        (encoded(GRAY, "JPEG")[:-60], "truncated"),
        (encoded(np.zeros((4, 4), np.float32), "TIFF"), "unsupported"),
    ],
)
def test_reasons(data, reason):
    assert reason_of(data) == reason


def test_too_large_is_decided_by_the_header():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    data = png.SIGNATURE + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert reason_of(data) == "too_large"
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"):
        assert reason_of(encoded(Image.fromarray(GRAY).convert("RGB"), kind), max_pixels=100) == "too_large"


def test_a_png_that_inflates_to_more_than_it_says_is_refused():
    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
    bomb = zlib.compress(bytes(50_000_000), 9)
    data = png.SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", bomb) + chunk(b"IEND", b"")
    assert reason_of(data) == "damaged"


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_every_flipped_bit_of_a_small_png_is_found_or_harmless(mode):
    image = Image.fromarray(picture(3, 9, 9)).convert(mode)
    data = encoded(image)
    unhurt = decode_pixels(data, "gray", MAX)
    for position in range(0, len(data) * 8, 3):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        try:
            result = decode_pixels(bytes(damaged), "gray", MAX)
        except Undecodable:
            continue
        if mode == "L":  # the strict path: nothing passes that is not the picture
            np.testing.assert_array_equal(result, unhurt)


KINDS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_gives_pixels_or_a_reason_and_nothing_else(data):
    kind = data.draw(st.sampled_from(KINDS))
    content = bytearray(encoded(picture(5, 20, 20), kind))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        pixels = decode_pixels(bytes(content), data.draw(st.sampled_from(["gray", "keep"])), 10**6)
        assert pixels.dtype == np.uint8
        assert pixels.ndim in (2, 3)
    except Undecodable as error:
        assert error.reason in REASONS


def test_the_depth_rule():
    assert module.to_8_bits(np.array([[0, 4095]], np.uint16)).tolist() == [[0, 255]]
    assert module.to_8_bits(np.array([[0, 65535]], np.uint16)).tolist() == [[0, 255]]
    with pytest.raises(Undecodable):
        module.to_8_bits(np.array([[-1, 5]], np.int32))


def test_converting_and_auditing_png_and_jpeg_wait_for_no_large_package():
    code = (
        "import sys; import cxr_data.convert.convert, cxr_data.convert.workers, tools.make_tfrecords;"
        "sys.exit(bool({'tensorflow', 'pydicom', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
