"""Every format to 8-bit pixels, and every damage to a reason."""

import gzip
import importlib.util
import struct
import subprocess
import sys
import zlib

import cv2
import imagecodecs
import numpy as np
import pytest
from damaged_files import assert_pixels_or_a_reason
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sharder_fixtures import encoded, picture

from cxr_data.images import png
from cxr_data.images.decode import decode_pixels, decode_with_facts
from cxr_data.images.undecodable import Undecodable
from cxr_data.images.value_range import to_8_bits, usual_depth
from cxr_data.sources.quarantine import REASONS

GRAY = picture(1)
MAX = 10**8


def tiff_of_10_bits():
    """Packed, which Pillow reads for 12 bits only."""
    data = bytearray(encoded(np.zeros((4, 4), np.uint16), "TIFF"))
    entry = data.index(struct.pack("<HHI", 258, 3, 1))  # BitsPerSample
    data[entry + 8 : entry + 10] = struct.pack("<H", 10)
    return bytes(data)


def png_of(width, height, raw):
    """An 8-bit grayscale PNG of the filtered rows `raw`."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(raw, 9)
    return png.SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


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


def without_filters(rows: np.ndarray) -> np.ndarray:
    """Undo the row filters pixel by pixel, as section 9 of the PNG specification writes them."""
    height, width = rows.shape[0], rows.shape[1] - 1
    pixels = np.zeros((height + 1, width + 1), int)
    for y in range(height):
        for x in range(width):
            left, above, corner = pixels[y + 1, x], pixels[y, x + 1], pixels[y, x]
            paeth = min((left, above, corner), key=lambda value: abs(left + above - corner - value))
            predicted = (0, left, above, (left + above) // 2, paeth)[rows[y, 0]]
            pixels[y + 1, x + 1] = (rows[y, x + 1] + predicted) % 256
    return pixels[1:, 1:].astype(np.uint8)


@pytest.fixture(scope="module")
def slow_png():
    """The module as it is where neither ISA-L nor kornia-rs has a wheel."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("isal", "kornia_rs", "kornia_rs.io"):
            patched.setitem(sys.modules, name, None)
        spec = importlib.util.spec_from_file_location("cxr_data.images.slow_png", png.__file__)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    assert module.inflater is zlib
    assert module.kornia_io is None
    return module


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(2, 30))), st.data())
def test_every_row_filter_is_undone(slow_png, rows, draw):
    rows[:, 0] = draw.draw(arrays(np.uint8, len(rows), elements=st.integers(0, 4)))
    data = png_of(rows.shape[1] - 1, len(rows), rows.tobytes())
    np.testing.assert_array_equal(png.decode_plain_gray(data, MAX), without_filters(rows))
    np.testing.assert_array_equal(slow_png.decode_plain_gray(data, MAX), without_filters(rows))


def test_a_large_png_is_the_same_without_the_fast_decoders(slow_png):
    data = encoded(np.random.default_rng(0).integers(0, 256, (700, 900), np.uint8))
    np.testing.assert_array_equal(slow_png.decode_plain_gray(data, MAX), png.decode_plain_gray(data, MAX))
    for broken in (data[:-30], data.replace(b"IDAT", b"IDAX", 1), data[:60] + b"x" + data[61:]):
        reasons = []
        for decode in (png.decode_plain_gray, slow_png.decode_plain_gray):
            with pytest.raises(Undecodable) as raised:
                decode(broken, MAX)
            reasons.append(str(raised.value))
        assert len(set(reasons)) == 1


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


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_white_is_zero_is_the_negative_of_the_range(bits):
    wide = (GRAY.astype(np.uint32) * ((1 << bits) - 1) // 255).astype(np.uint16)
    bright = decode_pixels(encoded(Image.fromarray(wide), "TIFF"), "gray", MAX)
    dark = decode_pixels(encoded(Image.fromarray(wide), "TIFF", tiffinfo={262: 0}), "gray", MAX)
    np.testing.assert_array_equal(dark, 255 - bright)


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_deep_colours_are_scaled_by_the_depth_they_use(kind, bits):
    colors = np.dstack([picture(1), picture(2), picture(3)])
    colors[0, 0] = 255
    data = cv2.imencode(f".{kind}", colors[..., ::-1].astype(np.uint16) << bits - 8)[1].tobytes()
    pixels, facts = decode_with_facts(data, "keep", MAX)
    np.testing.assert_array_equal(pixels, colors)
    assert facts.assumed == "R"


def test_deep_transparency_is_composited_on_black():
    colors = np.dstack([picture(1), picture(2), picture(3)]).astype(np.uint16) << 4
    alpha = np.full_like(GRAY, 65_535, np.uint16)
    alpha[:10] = 0
    data = cv2.imencode(".png", np.dstack([colors[..., ::-1], alpha]))[1].tobytes()
    expected = np.where(alpha[..., None] == 0, 0, colors >> 4)
    np.testing.assert_array_equal(decode_pixels(data, "keep", MAX), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_orientation_is_applied(kind, deep, orientation):
    if deep and kind == "JPEG":
        pytest.skip("JPEG has 8 bits")
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


DEEP = GRAY.astype(np.uint16) << 4


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encoded(GRAY, "JPEG2000"), "unsupported: the format JPEG 2000"),
        (imagecodecs.jpeg2k_encode(GRAY, codecformat="J2K"), "unsupported: the format JPEG 2000"),
        (encoded(GRAY, "PPM"), "unsupported: the format PGM, PPM or PBM"),
        (encoded(GRAY, "AVIF"), "unsupported: the format AVIF or HEIC"),
        (imagecodecs.jpeg8_encode(DEEP, bitspersample=12), "unsupported: a JPEG file of 12 bits"),
        (imagecodecs.jpeg8_encode(GRAY, lossless=True), "unsupported: a lossless JPEG file of 8 bits"),
        (imagecodecs.jpegls_encode(GRAY), "unsupported: a JPEG-LS file of 8 bits"),
        (tiff_of_10_bits(), "unsupported: a variant of TIFF "),
        (b"PK\x03\x04" + bytes(200), "not_an_image: the format ZIP"),
        (gzip.compress(encoded(GRAY)), "not_an_image: the format gzip"),
        (b"%PDF-1.7" + bytes(200), "not_an_image: the format PDF"),
    ],
)
def test_what_is_not_converted_is_named(data, words):
    with pytest.raises(Undecodable) as caught:
        decode_pixels(data, "gray", MAX)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"])
def test_no_text_of_a_library_is_in_a_refusal(kind):
    content, refused = encoded(Image.fromarray(GRAY).convert("RGB"), kind), 0
    for stop in range(20, len(content), max(len(content) // 40, 1)):
        for data in (content[:stop], content[:stop] + bytes(len(content) - stop)):
            try:
                decode_pixels(data, "gray", MAX)
            except Undecodable as error:
                refused += 1
                assert str(error.__cause__ or "nothing at all") not in str(error)
    assert refused


def test_too_large_is_decided_by_the_header():
    assert reason_of(png_of(60_000, 60_000, b"")) == "too_large"
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"):
        assert reason_of(encoded(Image.fromarray(GRAY).convert("RGB"), kind), max_pixels=100) == "too_large"


@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 5), (5, 0)])
def test_a_png_without_pixels_is_refused(width, height):
    assert reason_of(png_of(width, height, bytes(height))) == "damaged"


def test_a_png_that_inflates_to_more_than_it_says_is_refused():
    assert reason_of(png_of(4, 4, bytes(50_000_000))) == "damaged"


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
    assert_pixels_or_a_reason(data, encoded(picture(5, 20, 20), kind))


def test_the_depth_rule():
    for brightest, depth in ((0, 8), (255, 8), (256, 10), (4095, 12), (4096, 14), (65_535, 16), (65_536, 17)):
        assert usual_depth(brightest) == depth
    assert [usual_depth(100, claimed) for claimed in (1, 7, 8, 12)] == [8, 7, 8, 8]
    assert [usual_depth(30_000, claimed) for claimed in (12, 15, 16)] == [16, 15, 16]
    assert to_8_bits(np.array([-1, 0, 4095, 4096]), 12).tolist() == [0, 0, 255, 255]


def test_negative_pixels_outside_of_dicom_are_refused():
    assert reason_of(encoded(Image.fromarray(np.array([[-1, 5]], np.int32)), "TIFF")) == "unsupported"


def test_converting_and_auditing_png_and_jpeg_wait_for_no_large_package():
    code = (
        "import sys; import cxr_data.convert.convert, cxr_data.convert.workers, tools.make_tfrecords;"
        "sys.exit(bool({'tensorflow', 'pydicom', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
