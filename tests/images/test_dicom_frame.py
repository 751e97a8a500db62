"""The first frame in every transfer syntax, and what cannot be decoded by its name."""

import io
import re

import imagecodecs
import numpy as np
import pydicom
import pytest
from damaged_files import assert_pixels_or_a_reason
from dicom_files import COMPRESSED, HTJ2K_FRAME, HTJ2K_PIXELS, compressed, make_dataset, make_dicom, write
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from sharder_fixtures import encoded, picture

from cxr_data.images import dicom_codecs, dicom_frame
from cxr_data.images.decode import decode_pixels
from cxr_data.images.undecodable import Undecodable
from cxr_data.sources.quarantine import REASONS

MAX = 10**8
STORED = (picture(4).astype(np.uint16) << 4) | 5
COLORS = np.dstack([picture(n) for n in (1, 2, 3)])
LOSSLESS = [s for s in COMPRESSED if s not in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)]


def gray_of(data):
    return decode_pixels(data, "gray", MAX)


PLAIN = gray_of(make_dicom(STORED))


def refusal(data):
    with pytest.raises(Undecodable) as caught:
        gray_of(data)
    assert caught.value.reason in REASONS
    return str(caught.value)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: uid.UID(syntax).name[:40])
def test_what_loses_nothing_gives_the_pixels_back(syntax):
    np.testing.assert_array_equal(gray_of(make_dicom(STORED, syntax=syntax)), PLAIN)
    colored = make_dicom(COLORS, "RGB", bits=8, syntax=syntax)
    np.testing.assert_array_equal(decode_pixels(colored, "keep", MAX), COLORS)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: uid.UID(syntax).name[:40])
@pytest.mark.parametrize(
    "tags",
    [
        {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 500, "WindowWidth": 2001},
        {"WindowCenter": 1500, "WindowWidth": 2001},
    ],
)
def test_rescaling_and_overlays_change_no_decoder(syntax, tags):
    data = make_dataset(STORED, **tags)
    data.add_new(0x60000010, "US", STORED.shape[0])
    expected = gray_of(write(data))
    data = make_dataset(STORED, syntax=syntax, **tags)
    data.add_new(0x60000010, "US", STORED.shape[0])
    np.testing.assert_array_equal(gray_of(write(data)), expected)


def test_an_overlay_of_the_field_beside_jpeg_lossless(shared):
    folder = shared / "data" / "field" / "dicom"
    pixels = [gray_of((folder / name).read_bytes()) for name in ("plain.dcm", "overlay.dcm")]
    np.testing.assert_array_equal(*pixels)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless])
def test_signed_pixels(syntax):
    signed = (STORED.astype(np.int32) - 2000).astype(np.int16)
    expected = gray_of(make_dicom(signed, bits=16))
    np.testing.assert_array_equal(gray_of(make_dicom(signed, bits=16, syntax=syntax)), expected)


def test_jpeg_of_8_and_12_bits_is_nearly_the_picture():
    eight = make_dicom(picture(4), bits=8, syntax=uid.JPEGBaseline8Bit)
    assert np.abs(gray_of(eight).astype(int) - picture(4)).max() < 6
    twelve = make_dicom(STORED, syntax=uid.JPEGExtended12Bit)
    assert np.abs(gray_of(twelve).astype(int) - PLAIN).max() <= 1
    # 8 bits in a header that says 12 in 16: as found in the field.
    frame = compressed(picture(4), uid.JPEGBaseline8Bit)
    wide = make_dicom(STORED, syntax=uid.JPEGBaseline8Bit, frames=(frame,))
    assert np.abs(gray_of(wide).astype(int) - picture(4)).max() < 6


@pytest.mark.parametrize("syntax", [uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K])
def test_high_throughput_jpeg_2000(syntax):
    data = make_dicom(HTJ2K_PIXELS, syntax=syntax, frames=(HTJ2K_FRAME,))
    np.testing.assert_array_equal(gray_of(data), gray_of(make_dicom(HTJ2K_PIXELS)))


def test_the_boxes_of_jp2_are_left_out():
    """pydicom never comes past one of no length."""
    frame = bytearray(imagecodecs.jpeg2k_encode(STORED, level=0, codecformat="JP2", reversible=True))
    assert frame.startswith(b"\0\0\0\x0cjP  ")
    frame[12:16] = bytes(4)
    data = make_dicom(STORED, syntax=uid.JPEG2000Lossless, frames=(bytes(frame),))
    np.testing.assert_array_equal(gray_of(data), PLAIN)


@pytest.mark.parametrize("syntax", LOSSLESS[:-1], ids=lambda syntax: uid.UID(syntax).name[:40])
def test_only_the_first_of_several_frames_is_decoded(syntax):
    frame = compressed(STORED, syntax)
    data = make_dicom(STORED, syntax=syntax, frames=(frame, b"no picture"), NumberOfFrames=2)
    np.testing.assert_array_equal(gray_of(data), PLAIN)
    damaged = make_dicom(STORED, syntax=syntax, frames=(b"no picture", frame), NumberOfFrames=2)
    assert refusal(damaged).startswith("damaged: the first of 2 frames is")


def test_frames_that_are_cut_off_behind_the_first_do_not_matter():
    data = make_dataset(STORED, NumberOfFrames=3)
    data.PixelData = data.PixelData + b"\0" * 100
    np.testing.assert_array_equal(gray_of(write(data)), PLAIN)
    data.PixelData = data.PixelData[: STORED.nbytes - 2]
    assert refusal(write(data)).startswith("truncated")


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: uid.UID(syntax).name[:40])
def test_a_frame_that_is_cut_off_is_refused(syntax):
    stored, bits = (picture(4), 8) if syntax == uid.JPEGBaseline8Bit else (STORED, 12)
    whole = pydicom.dcmread(io.BytesIO(make_dicom(stored, bits=bits, syntax=syntax)))
    frame = next(pydicom.encaps.generate_frames(whole.PixelData, number_of_frames=1))
    for share in (0.3, 0.6, 0.9):
        part = frame[: int(len(frame) * share)]
        data = make_dicom(stored, bits=bits, syntax=syntax, frames=(part,))
        assert refusal(data).split(":")[0] in ("truncated", "damaged")


def test_a_codestream_that_differs_from_the_header_is_refused_before_it_is_decoded():
    """Else a decoder would allocate what the codestream asks for, however large."""
    large = bytearray(compressed(STORED, uid.JPEGLossless))
    start = large.index(b"\xff\xc3") + 5
    large[start : start + 4] = b"\xff\xff\xff\xff"
    data = make_dicom(STORED, syntax=uid.JPEGLossless, frames=(bytes(large),))
    assert "has 65535x65535 pixels of 1 samples, the DICOM header says 40x48" in refusal(data)
    other = make_dicom(STORED, syntax=uid.JPEGLSLossless, frames=(compressed(STORED, uid.JPEGLossless),))
    assert "is of lossless JPEG, the DICOM header says JPEG-LS" in refusal(other)


def test_a_header_that_denies_its_compression_is_refused():
    noise = np.random.default_rng(1).integers(0, 4096, STORED.shape).astype(np.uint16)  # hard to compress
    data = make_dicom(noise, syntax=uid.JPEGLossless, bits=16)
    assert len(compressed(noise, uid.JPEGLossless)) > 0.7 * noise.nbytes
    denied = data.replace(uid.JPEGLossless.encode(), uid.ExplicitVRLittleEndian.encode().ljust(22, b"\0"))
    assert "pixels are compressed" in refusal(denied)


def test_a_compression_without_a_decoder_is_named(monkeypatch):
    video = make_dicom(STORED, syntax=uid.MPEG2MPML, frames=(b"\0\0\1\xb3",))
    assert re.fullmatch("no_decoder: .*MPEG2 Main Profile / Main Level", refusal(video))
    for name in ("1.2.3.4.5", "1.2.840.10008.9.9"):
        data = video.replace(uid.MPEG2MPML.encode(), name.encode().ljust(len(uid.MPEG2MPML), b"\0"))
        assert refusal(data).endswith("which is unknown")
    lossless = make_dicom(STORED, syntax=uid.JPEGLossless)
    decoder = dicom_frame.get_decoder(uid.JPEGLossless)
    monkeypatch.setattr(decoder, "_available", {})
    assert refusal(lossless).startswith("no_decoder: JPEG Lossless")
    assert "package imagecodecs" in refusal(lossless)


def test_rle_of_a_wrong_number_of_segments_is_damaged():
    frame = b"\x01" + bytes(63) + b"\0"
    assert refusal(make_dicom(STORED, syntax=uid.RLELossless, frames=(frame,))).startswith("damaged")
    assert not dicom_codecs.is_available(uid.MPEG2MPML)


def test_no_text_of_a_library_is_in_a_refusal():
    for syntax in COMPRESSED:
        stored, bits = (picture(4), 8) if syntax == uid.JPEGBaseline8Bit else (STORED, 12)
        frame = b"\x01\0" if syntax == uid.RLELossless else compressed(stored, syntax, bits)
        damaged = frame[: len(frame) // 2] + bytes(len(frame) // 2)
        try:
            gray_of(make_dicom(stored, bits=bits, syntax=syntax, frames=(damaged,)))
        except Undecodable as error:
            cause = str(error.__cause__ or "nothing at all")
            assert not any(line.strip() in str(error) for line in cause.splitlines() if line.strip())
    assert encoded(STORED)


FILES = [make_dicom(STORED, syntax=syntax) for syntax in (uid.ExplicitVRLittleEndian, *LOSSLESS)]
FILES += [make_dicom(STORED, syntax=uid.JPEGExtended12Bit), make_dicom(COLORS, "YBR_FULL", bits=8)]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_gives_pixels_or_a_reason_and_nothing_else(data):
    assert_pixels_or_a_reason(data, data.draw(st.sampled_from(FILES)), intact=132)
