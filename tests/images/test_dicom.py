"""DICOM against arithmetic on the stored values, and what it says where a file is silent."""

import struct

import numpy as np
import pydicom
import pytest
from dicom_files import lookup_table, make_dataset, make_dicom, with_element, write
from pydicom import uid
from pydicom.datadict import dictionary_VR, tag_for_keyword
from sharder_fixtures import encoded, picture

from cxr_data.images import dicom_header
from cxr_data.images.decode import decode_pixels, decode_with_facts, sniff
from cxr_data.images.undecodable import Undecodable

MAX = 10**8
STORED = (picture(4).astype(np.uint16) << 4) | 5


def scaled(values, low, high):
    return np.clip(np.rint((values.astype(float) - low) * 255 / (high - low)), 0, 255)


def gray_of(data):
    return decode_pixels(data, "gray", MAX)


def assumed_of(data):
    return decode_with_facts(data, "gray", MAX)[1].assumed


def reason_of(data):
    with pytest.raises(Undecodable) as caught:
        gray_of(data)
    return str(caught.value)


def without(stored, *names, **options):
    """A file that lacks some elements."""
    data = make_dataset(stored, **options)
    for name in names:
        delattr(data, name)
    return write(data)


def with_raw(stored, name, raw, **options):
    """A file with the bytes of an element as they are given."""
    vr = dictionary_VR(tag_for_keyword(name)).partition(" ")[0]
    if name not in make_dataset(stored, **options):
        options[name] = "LINEAR" if vr == "CS" else 1
    return with_element(make_dicom(stored, **options), name, vr, raw)


# -- ranges ------------------------------------------------------------------------------------


def test_12_bits_by_their_range():
    data = make_dicom(STORED)
    assert sniff(data[:132]) == "DICOM"
    np.testing.assert_array_equal(gray_of(data), scaled(STORED, 0, 4095))
    assert decode_pixels(data, "keep", MAX).shape == (*STORED.shape, 3)
    assert assumed_of(data) == "R"


def test_8_bits_are_as_they_are_and_nothing_is_assumed():
    data = make_dicom(picture(4), bits=8)
    np.testing.assert_array_equal(gray_of(data), picture(4))
    assert assumed_of(data) == ""


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("used", [8, 10, 12, 14, 16])
def test_the_range_without_a_window_is_that_of_a_png_with_the_same_pixels(photometric, used):
    content = (picture(4).astype(np.uint32) * ((1 << used) - 1) // 255).astype(np.uint16)
    as_png = decode_pixels(encoded(content), "gray", MAX)
    expected = 255 - as_png if photometric == "MONOCHROME1" else as_png
    np.testing.assert_array_equal(gray_of(make_dicom(content, photometric, bits=16)), expected)


def test_one_picture_in_three_files_of_the_field(shared):
    folder = shared / "data" / "field" / "dicom"
    pixels = [
        gray_of((folder / name).read_bytes())
        for name in ("stored16_nowindow.dcm", "stored12_nowindow.dcm", "same.png")
    ]
    assert (pixels[0].min(), pixels[0].max()) == (33, 238)
    np.testing.assert_array_equal(pixels[0], pixels[1])
    np.testing.assert_array_equal(pixels[0], pixels[2])


def test_the_bits_that_a_file_claims_are_believed_where_they_are_fewer_than_a_usual_depth():
    content = (STORED >> 1).astype(np.uint16)  # 11 bits
    np.testing.assert_array_equal(gray_of(make_dicom(content, bits=11)), scaled(content, 0, 2047))
    mask = (picture(4) > 128).astype(np.uint8)
    np.testing.assert_array_equal(gray_of(make_dicom(mask, bits=1)), mask * 255)


@pytest.mark.parametrize("lowest", [-1, -1000, -1024, -1025, -30_000])
def test_signed_pixels_begin_at_a_power_of_two(lowest):
    signed = (STORED.astype(np.int32) // 2 + lowest).astype(np.int16)
    signed[0, 0] = lowest
    floor = {-1: -1, -1000: -1024, -1024: -1024, -1025: -2048, -30_000: -32_768}[lowest]
    depth = next(d for d in (8, 10, 12, 14, 16) if int(signed.max()) - floor < 1 << d)
    result = gray_of(make_dicom(signed, bits=16))
    np.testing.assert_array_equal(result, scaled(signed.astype(int), floor, floor + (1 << depth) - 1))


def test_rescaling_alone_changes_no_grey_level_but_a_negative_slope_inverts():
    plain = gray_of(make_dicom(STORED, bits=16))
    rescaled = make_dicom(STORED, bits=16, RescaleSlope=2.5, RescaleIntercept=-1024)
    np.testing.assert_array_equal(gray_of(rescaled), plain)
    inverted = make_dicom(STORED, bits=16, RescaleSlope=-1, RescaleIntercept=4095)
    np.testing.assert_array_equal(gray_of(inverted), 255 - plain)


def test_monochrome1_is_inverted_once():
    data = make_dicom(STORED, "MONOCHROME1")
    np.testing.assert_array_equal(gray_of(data), 255 - scaled(STORED, 0, 4095))


def test_deep_colours_keep_the_bits_that_they_use():
    colors = np.dstack([picture(n) for n in (1, 2, 3)])
    for shift, bits in ((4, 12), (4, 16), (8, 16)):
        data = make_dicom(colors.astype(np.uint16) << shift, "RGB", bits=bits)
        np.testing.assert_array_equal(decode_pixels(data, "keep", MAX), colors)
        assert assumed_of(data) == "R"


# -- windows and tables ------------------------------------------------------------------------


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_window_is_applied(photometric):
    data = make_dicom(STORED, photometric, WindowCenter=1500, WindowWidth=1001)
    expected = scaled(STORED, 1499.5 - 500, 1499.5 + 500)
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    assert np.abs(gray_of(data) - expected).max() <= 1
    assert assumed_of(data) == ""


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_the_other_windows(function):
    data = make_dicom(STORED, WindowCenter=1500, WindowWidth=1000, VOILUTFunction=function)
    if function == "SIGMOID":
        expected = 255 / (1 + np.exp(-4 * (STORED - 1500.0) / 1000))
    else:
        expected = scaled(STORED, 1000, 2000)
    assert np.abs(gray_of(data) - expected).max() <= 1


def test_rescaled_and_signed_pixels():
    signed = STORED.astype(np.int16) - 2000
    data = make_dicom(
        signed, bits=16, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=0, WindowWidth=4001
    )
    expected = scaled(signed.astype(int) * 2 - 100, -0.5 - 2000, -0.5 + 2000)
    assert np.abs(gray_of(data) - expected).max() <= 1


def test_what_a_negative_slope_makes_small_is_black_in_its_window():
    data = make_dicom(STORED, RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=2048, WindowWidth=4096)
    assert np.abs(gray_of(data) - scaled(4095 - STORED.astype(int), 0, 4095)).max() <= 1


@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("claimed", [12, 16])
def test_the_range_of_a_lookup_table_is_that_of_its_data(sequence, claimed):
    table = np.arange(4095, -1, -1)
    data = make_dicom(STORED, **{sequence: lookup_table(table, claimed=claimed)})
    np.testing.assert_array_equal(gray_of(data), scaled(4095 - STORED.astype(int), 0, 4095))
    assert assumed_of(data) == ("L" if claimed == 16 else "")


def test_a_table_of_the_field_that_claims_16_bits_and_has_12(shared):
    pixels = gray_of((shared / "data" / "field" / "dicom" / "voilut_says16_has12.dcm").read_bytes())
    assert (pixels.min(), pixels.max()) == (6, 207)  # of the stored 99 and 3327 of 4095


def test_a_table_begins_at_its_first_value_and_its_ends_go_on():
    table = lookup_table(np.arange(1000) * 4, first=1000, claimed=12)
    expected = scaled(np.clip(STORED.astype(int) - 1000, 0, 999) * 4, 0, 4095)
    np.testing.assert_array_equal(gray_of(make_dicom(STORED, VOILUTSequence=table)), expected)


def test_a_table_goes_before_a_window_and_a_window_after_a_modality_table():
    table = lookup_table(np.arange(4096), claimed=12)
    both = make_dicom(STORED, VOILUTSequence=table, WindowCenter=100, WindowWidth=10)
    np.testing.assert_array_equal(gray_of(both), scaled(STORED, 0, 4095))
    first = make_dicom(STORED, ModalityLUTSequence=table, WindowCenter=1500, WindowWidth=1001)
    assert np.abs(gray_of(first) - scaled(STORED, 999.5, 1999.5)).max() <= 1


@pytest.mark.parametrize("width", [0, 0.5, -3])
def test_a_window_that_cannot_be_applied_is_left_out_and_counted(width):
    data = make_dicom(STORED, WindowCenter=1500, WindowWidth=width)
    np.testing.assert_array_equal(gray_of(data), scaled(STORED, 0, 4095))
    assert assumed_of(data) == "RW"


def test_the_first_window_that_can_be_applied():
    data = make_dicom(STORED, WindowCenter=[7, 1500], WindowWidth=[0, 1001])
    assert np.abs(gray_of(data) - scaled(STORED, 999.5, 1999.5)).max() <= 1


def test_a_table_without_data_is_left_out_and_counted():
    table = lookup_table(np.arange(4096))
    del table[0].LUTData
    data = make_dicom(STORED, VOILUTSequence=table)
    np.testing.assert_array_equal(gray_of(data), scaled(STORED, 0, 4095))
    assert assumed_of(data) == "RW"


# -- padding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_out_of_the_range(photometric):
    padded = STORED.copy()
    padded[:5], padded[5] = 65_535, 65_530
    options = {"PixelPaddingValue": 65_535, "PixelPaddingRangeLimit": 65_530}
    expected = scaled(STORED, 0, 4095)
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    expected[:6] = 0
    np.testing.assert_array_equal(gray_of(make_dicom(padded, photometric, bits=16, **options)), expected)


def test_padding_of_signed_pixels_may_be_stated_as_unsigned():
    signed = STORED.astype(np.int16)
    signed[:5] = -2000
    plain = make_dicom(signed, bits=16, PixelPaddingValue=-2000)
    for vr in ("SS", "US"):
        data = with_element(plain, "PixelPaddingValue", vr, b"\x30\xf8")  # -2000, or 63,536
        expected = scaled(STORED, 0, 4095)
        expected[:5] = 0
        np.testing.assert_array_equal(gray_of(data), expected)


# -- what a header leaves out ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "PixelRepresentation",
        "BitsAllocated",
        "HighBit",
    ],
)
def test_a_tag_with_an_obvious_value_may_be_absent_or_empty(name):
    expected = gray_of(make_dicom(STORED))
    for data in (without(STORED, name), with_raw(STORED, name, b"")):
        np.testing.assert_array_equal(gray_of(data), expected)
        assert assumed_of(data) == "RD"


def test_without_bits_stored_all_bits_are():
    np.testing.assert_array_equal(gray_of(without(STORED, "BitsStored", "HighBit")), scaled(STORED, 0, 4095))
    eight = without(picture(4), "BitsStored", "HighBit", "BitsAllocated", bits=8)
    np.testing.assert_array_equal(gray_of(eight), picture(4))


def test_colours_without_a_planar_configuration_lie_together():
    colors = np.dstack([picture(n) for n in (1, 2, 3)])
    data = without(colors, "PlanarConfiguration", photometric="RGB", bits=8)
    np.testing.assert_array_equal(decode_pixels(data, "keep", MAX), colors)
    assert "its colours" in reason_of(without(colors, "PhotometricInterpretation", bits=8))


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("RescaleSlope", b""),
        ("RescaleSlope", b"one "),
        ("RescaleSlope", b"0 "),
        ("RescaleIntercept", b"\\\\"),
        ("NumberOfFrames", b"1A"),
        ("NumberOfFrames", b""),
        ("VOILUTFunction", b"LINEAR_OR_SO"),
    ],
)
def test_a_value_that_means_nothing_is_as_if_absent_and_counted(name, raw):
    data = with_raw(STORED, name, raw)
    np.testing.assert_array_equal(gray_of(data), scaled(STORED, 0, 4095))
    assert assumed_of(data) == "RD"


def test_an_empty_slope_of_the_field(shared):
    data = (shared / "data" / "field" / "dicom" / "slope_empty.dcm").read_bytes()
    assert assumed_of(data) == "RD"
    assert len(np.unique(gray_of(data))) > 100


def test_pixels_outside_of_the_bits_stored_are_cut_off():
    marked = STORED | 0xF000  # an overlay in the unused bits
    np.testing.assert_array_equal(gray_of(make_dicom(marked)), scaled(STORED, 0, 4095))
    high = make_dicom(STORED << 4, HighBit=15)
    np.testing.assert_array_equal(gray_of(high), scaled(STORED, 0, 4095))
    for wrong in (7, 16):
        np.testing.assert_array_equal(gray_of(make_dicom(STORED, HighBit=wrong)), scaled(STORED, 0, 4095))


# -- colour ------------------------------------------------------------------------------------


def test_colour():
    rgb = np.dstack([picture(1), picture(2), picture(3)])
    np.testing.assert_array_equal(decode_pixels(make_dicom(rgb, "RGB", bits=8), "keep", MAX), rgb)
    apart = make_dicom(rgb, "RGB", bits=8, PlanarConfiguration=1)
    planes = rgb.reshape(3, *rgb.shape[:2]).transpose(1, 2, 0)
    np.testing.assert_array_equal(decode_pixels(apart, "keep", MAX), planes)


def test_uncompressed_ybr_is_converted_once():
    gray = picture(1)
    ybr = np.dstack([gray, np.full_like(gray, 128), np.full_like(gray, 128)])
    np.testing.assert_array_equal(gray_of(make_dicom(ybr, "YBR_FULL", bits=8)), gray)


def test_a_ramp_of_the_field_in_ybr(shared):
    data = (shared / "data" / "field" / "dicom" / "gray_ybr.dcm").read_bytes()
    ramp = np.rint(np.arange(64) * 255 / 63)
    assert np.abs(gray_of(data) - ramp).max() <= 1


@pytest.mark.parametrize(("shift", "claimed", "letters"), [(0, 8, ""), (8, 16, ""), (0, 16, "L")])
def test_palettes_of_8_and_16_bits(shift, claimed, letters):
    tables = {name: (np.arange(256) * factor % 256).astype(np.uint16) for name, factor in _PALETTE.items()}
    tags = {}
    for name, table in tables.items():
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, claimed]
        words = table << shift
        tags[f"{name}PaletteColorLookupTableData"] = (
            words.astype(np.uint8) if claimed == 8 else words
        ).tobytes()
    index = picture(4)
    data = make_dicom(index, "PALETTE COLOR", bits=8, **tags)
    expected = np.dstack([table[index] for table in tables.values()])
    np.testing.assert_array_equal(decode_pixels(data, "keep", MAX), expected)
    assert assumed_of(data) == letters


_PALETTE = {"Red": 1, "Green": 3, "Blue": 7}


def test_a_palette_in_segments():
    line = struct.pack("<6H", 0, 1, 0, 1, 255, 65_535)  # a value of 0, then 255 steps up to 65,535
    tags = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in _PALETTE}
    tags |= {f"Segmented{name}PaletteColorLookupTableData": line for name in _PALETTE}
    data = make_dicom(picture(4), "PALETTE COLOR", bits=8, **tags)
    expected = np.repeat(picture(4)[..., None], 3, axis=2)
    assert np.abs(decode_pixels(data, "keep", MAX).astype(int) - expected).max() <= 1
    assert "without a palette" in reason_of(make_dicom(picture(4), "PALETTE COLOR", bits=8))


# -- refusals ----------------------------------------------------------------------------------


def test_without_preamble():
    for little in (True, False):
        syntax = uid.ImplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        raw = make_dicom(STORED if little else STORED.byteswap(), syntax=syntax)
        start = raw.index(b"\x08\x00\x16\x00" if little else b"\x00\x08\x00\x16")
        assert sniff(raw[start : start + 132]) == "DICOM"
        np.testing.assert_array_equal(gray_of(raw[start:]), scaled(STORED, 0, 4095))
        assert assumed_of(raw[start:]) == "RD"


def test_a_deflated_file_that_inflates_beyond_any_image_is_refused_first(monkeypatch):
    data = make_dicom(STORED, syntax=uid.DeflatedExplicitVRLittleEndian)
    np.testing.assert_array_equal(gray_of(data), gray_of(make_dicom(STORED)))
    monkeypatch.setattr(dicom_header, "LARGEST_INFLATED", STORED.nbytes)
    assert "too_large: a deflated DICOM file of more than" in reason_of(data)


def test_damage_is_undecodable():
    data = make_dicom(STORED)
    for stop in range(132, len(data), 97):
        with pytest.raises(Undecodable):
            decode_pixels(data[:stop], "gray", MAX)
    with pytest.raises(Undecodable, match="too_large"):
        decode_pixels(data, "gray", 10)


def test_what_cannot_be_converted_is_named():
    floating = make_dataset(STORED)
    del floating.PixelData
    floating.FloatPixelData = STORED.astype(np.float32).tobytes()
    assert "unsupported: a DICOM image of floating-point pixels" in reason_of(write(floating))
    assert "unsupported: a DICOM file without an image" in reason_of(without(STORED, "Rows"))
    assert "truncated" in reason_of(without(STORED, "PixelData"))
    assert "3 samples a pixel, CMYK" in reason_of(make_dicom(STORED, "CMYK", SamplesPerPixel=3))
    assert "1 samples a pixel, unknown" in reason_of(make_dicom(STORED, "MARY"))


def test_the_real_ones(shared):
    expected = {
        "cr_1024_jpeg_baseline": (1024, 1024),
        "cr_chest_mono1_10bit": (440, 440),
        "nih_chest_1024": (1024, 1024),
    }
    for name, shape in expected.items():
        data = (shared / "data" / "dicom" / f"{name}.dcm").read_bytes()
        pixels = decode_pixels(data, "gray", MAX)
        assert pixels.shape == shape
        dataset = pydicom.dcmread(shared / "data" / "dicom" / f"{name}.dcm", force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        if name == "cr_chest_mono1_10bit":
            windowed = 255 - scaled(dataset.pixel_array, 549.5 - 511.5, 549.5 + 511.5)
            assert np.abs(pixels - windowed).max() <= 1
            corner = pixels[:20, :20].mean()
            assert pixels.mean() > 100 > 255 - corner or corner < pixels.mean()
        else:
            np.testing.assert_array_equal(pixels, dataset.pixel_array)
