"""Every file of pydicom and pydicom-data: pydicom's own pixels in 8 bits, or the right reason."""

import importlib.util
import io
import pathlib
from collections import Counter

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, get_decoder, pixel_array

from cxr_data.images.decode import decode_pixels, decode_with_facts
from cxr_data.images.undecodable import Undecodable

MAX = 10**8


def _folders():
    yield pathlib.Path(pydicom.__file__).parent / "data"
    if found := importlib.util.find_spec("data_store"):  # of pydicom-data
        yield pathlib.Path(found.origin).parent / "data"


FILES = sorted(
    path
    for folder in _folders()
    for path in folder.rglob("*")
    if path.is_file() and path.suffix not in (".py", ".pyc")
)

TRUNCATED = {
    "MR_truncated.dcm",
    "emri_small_jpeg_2k_lossless_too_short.dcm",
    # A header that describes pixels, and none behind it.
    "chrJapMulti.dcm",
    "chrJapMultiExplicitIR6.dcm",
    "chrKoreanMulti.dcm",
}
DAMAGED = {"JPEG2000-embedded-sequence-delimiter.dcm"}
NO_DICOM = {".json", ".txt", ".md", ".dump", ".icc", ".gz"}
NO_DICOM_EITHER = {"README", "no_meta.dcm"}  # of which a byte stands before the first tag


def expected_reason(path):
    """None where pixels are expected."""
    if path.name in TRUNCATED:
        return "truncated"
    if path.name in DAMAGED:
        return "damaged"
    if path.suffix in NO_DICOM or path.name in NO_DICOM_EITHER:
        return "not_an_image"
    return None if "Rows" in pydicom.dcmread(path, force=True) else "unsupported"


def stored_values(dataset, data):
    """The first frame as pydicom's own decoders give it, or another's where it has none."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == uid.JPEGExtended12Bit:
        import tensorflow as tf

        tfio = pytest.importorskip("tensorflow_io")
        image = tfio.image.decode_dicom_image(data, color_dim=True, on_error="strict", dtype=tf.uint16)
        return image.numpy()[0, ..., 0]
    plugins = get_decoder(syntax).available_plugins
    own = [name for name in ("pillow", "pydicom") if name in plugins]
    for plugin in [*own, ""]:
        try:
            return pixel_array(dataset, index=0, decoding_plugin=plugin)
        except RuntimeError:
            continue  # Pillow cannot decode a few JPEG 2000
    raise AssertionError(f"pydicom cannot decode {syntax.name}")


def depth_that_holds(brightest):
    return next((depth for depth in (8, 10, 12, 14, 16) if brightest < 2**depth), int(brightest).bit_length())


def in_8_bits(values, low, high):
    return np.clip(np.rint((np.asarray(values, float) - low) * (255 / (high - low))), 0, 255)


def expected_gray(dataset, stored):
    """The stated policy, slowly: the standard's pipeline, then the full range of what it gives."""
    values = apply_modality_lut(stored, dataset)
    padding = np.zeros(stored.shape, bool)
    if dataset.get("PixelPaddingValue") is not None:
        padding = stored == dataset.PixelPaddingValue
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0].LUTData
        gray = in_8_bits(apply_voi_lut(values, dataset), 0, 2 ** depth_that_holds(max(table)) - 1)
    elif dataset.get("WindowCenter") is not None:
        half = 2 ** (dataset.BitsStored - 1)
        low, high = (-half, half - 1) if dataset.PixelRepresentation else (0, 2 * half - 1)
        slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
        seen = apply_voi_lut(values, dataset)
        gray = in_8_bits(seen, low * slope + intercept, high * slope + intercept)
    elif dataset.get("ModalityLUTSequence"):
        table = dataset.ModalityLUTSequence[0].LUTData
        gray = in_8_bits(values, 0, 2 ** depth_that_holds(max(table)) - 1)
    else:
        floor = 0
        while floor > stored[~padding].min():
            floor = floor * 2 or -1
        depth = dataset.BitsStored
        if depth > 8:
            depth = min(depth, depth_that_holds(stored[~padding].max() - floor))
        gray = in_8_bits(stored.astype(np.int64) - floor, 0, 2**depth - 1)
    gray = 255 - gray if dataset.PhotometricInterpretation == "MONOCHROME1" else gray
    return np.where(padding, 0, gray)


def expected_pixels(path, data):
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
    if path.name == "badVR.dcm":
        del dataset.NumberOfFrames  # it says 1A
    stored = stored_values(dataset, data)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colors = apply_color_lut(stored, dataset)[..., :3]
        if dataset.file_meta.TransferSyntaxUID == uid.ExplicitVRBigEndian and colors.dtype == np.uint16:
            colors = colors.byteswap()  # which pydicom forgets
        return colors >> 8 if colors.dtype == np.uint16 else colors
    if stored.ndim == 3:
        return (stored >> max(depth_that_holds(stored.max()) - 8, 0)).astype(np.uint8)
    return expected_gray(dataset, stored)


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-2:]))
def test_pixels_or_a_reason(path):
    data, reason = path.read_bytes(), expected_reason(path)
    if reason:
        with pytest.raises(Undecodable) as caught:
            decode_pixels(data, "gray", MAX)
        assert caught.value.reason == reason
        return
    expected = expected_pixels(path, data)
    if expected.ndim == 2:
        np.testing.assert_array_equal(decode_pixels(data, "gray", MAX), expected)
    else:
        np.testing.assert_array_equal(decode_pixels(data, "keep", MAX), expected)


def test_the_counts(record_property):
    """What the walk comes to, for `--junit-xml`; and that it walks over something."""
    counts = Counter()
    for path in FILES:
        try:
            mode = decode_with_facts(path.read_bytes(), "keep", MAX)[1].mode
            counts["monochrome" if mode.startswith("MONOCHROME") else "colour"] += 1
        except Undecodable as error:
            counts[error.reason] += 1
    for name, count in counts.items():
        record_property(name, count)
    assert counts["monochrome"] >= 70
    assert counts["colour"] >= 35
    assert counts.keys() <= {"monochrome", "colour", "unsupported", "not_an_image", "truncated", "damaged"}
    assert (counts["damaged"], counts["truncated"]) in [(1, 4), (1, 5)]
