"""DICOM against arithmetic on the stored values."""

import io

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, generate_uid
from sharder_fixtures import fields_of, picture, save

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.images import dicom
from cxr_data.images.decode import decode_pixels, sniff
from cxr_data.images.undecodable import Undecodable

MAX = 10**8


def make_dicom(
    stored, photometric="MONOCHROME2", bits=12, patient="P1", syntax=ExplicitVRLittleEndian, **tags
):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    data.PatientID = patient
    data.StudyInstanceUID = "1.2.3"
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.Modality = "CR"
    data.Rows, data.Columns = stored.shape[:2]
    data.SamplesPerPixel = 3 if stored.ndim == 3 else 1
    if stored.ndim == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = stored.dtype.itemsize * 8
    data.BitsStored, data.HighBit = bits, bits - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = stored.tobytes()
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


STORED = (picture(4).astype(np.uint16) << 4) | 5


def scaled(values, low, high):
    return np.clip(np.rint((values.astype(float) - low) * 255 / (high - low)), 0, 255)


def test_a_deflated_file_that_inflates_beyond_any_image_is_refused_first(monkeypatch):
    data = make_dicom(STORED, syntax=DeflatedExplicitVRLittleEndian)
    assert dicom.read_header(data).Rows == STORED.shape[0]
    monkeypatch.setattr(dicom, "_LARGEST_INFLATED", STORED.nbytes)
    with pytest.raises(Undecodable, match="too_large: "):
        dicom.read_header(data)


def test_12_bits_by_their_range():
    data = make_dicom(STORED)
    assert sniff(data[:132]) == "DICOM"
    np.testing.assert_array_equal(decode_pixels(data, "gray", MAX), scaled(STORED, 0, 4095))
    assert decode_pixels(data, "keep", MAX).shape == (*STORED.shape, 3)


def test_monochrome1_is_inverted_once():
    np.testing.assert_array_equal(
        decode_pixels(make_dicom(STORED, "MONOCHROME1"), "gray", MAX), 255 - scaled(STORED, 0, 4095)
    )


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_window_is_applied(photometric):
    data = make_dicom(STORED, photometric, WindowCenter=1500, WindowWidth=1001)
    expected = scaled(STORED, 1499.5 - 500, 1499.5 + 500)
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    assert np.abs(decode_pixels(data, "gray", MAX) - expected).max() <= 1


def test_rescaled_and_signed_pixels():
    signed = STORED.astype(np.int16) - 2000
    data = make_dicom(
        signed, bits=16, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=0, WindowWidth=4001
    )
    expected = scaled(signed.astype(int) * 2 - 100, -0.5 - 2000, -0.5 + 2000)
    assert np.abs(decode_pixels(data, "gray", MAX) - expected).max() <= 1


def test_colour():
    rgb = np.dstack([picture(1), picture(2), picture(3)])
    data = make_dicom(rgb, "RGB", bits=8)
    np.testing.assert_array_equal(decode_pixels(data, "keep", MAX), rgb)


def test_without_preamble():
    whole = make_dicom(STORED)
    dataset = pydicom.dcmread(io.BytesIO(whole))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=False, implicit_vr=True, little_endian=True)
    raw = buffer.getvalue()
    raw = raw[raw.index(b"\x08\x00\x16\x00") :]
    assert sniff(raw[:132]) == "DICOM"
    np.testing.assert_array_equal(decode_pixels(raw, "gray", MAX), scaled(STORED, 0, 4095))


def test_damage_is_undecodable():
    data = make_dicom(STORED)
    for stop in range(132, len(data), 97):
        with pytest.raises(Undecodable):
            decode_pixels(data[:stop], "gray", MAX)
    with pytest.raises(Undecodable, match="too_large"):
        decode_pixels(data, "gray", 10)


def test_pseudonyms_hide_the_patient_and_depend_on_the_dataset():
    salt = dicom.salt_of(["a", "b"])
    assert salt == dicom.salt_of(["b", "a"]) != dicom.salt_of(["ab"])
    assert dicom.pseudonym("P1", salt) == dicom.pseudonym("P1", salt) != dicom.pseudonym("P2", salt)
    assert "P1" not in dicom.pseudonym("P1", salt)


def test_patients_are_groups_and_their_ids_are_not_written(tmp_path):
    for number in range(12):
        patient = f"SECRET{number // 2}"
        stored = (picture(number).astype(np.uint16) << 4) | 5
        save(tmp_path / f"in/{'ab'[number % 2]}/{number}.png", make_dicom(stored, patient=patient))
    output = tmp_path / "out"
    made = make_tfrecords(
        SharderConfig(
            str(tmp_path / "in"), str(output), size=16, workers=0, quiet=True, splits="train:0.5,test:0.5"
        )
    )
    assert made.records == 12
    for path in output.iterdir():
        assert b"SECRET" not in path.read_bytes()
    split_of = {}
    for shard, fields in fields_of(made):
        assert split_of.setdefault(fields.group, shard.split) == shard.split
    assert len(split_of) == 6


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
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        if name == "cr_chest_mono1_10bit":
            windowed = 255 - scaled(dataset.pixel_array, 549.5 - 511.5, 549.5 + 511.5)
            assert np.abs(pixels - windowed).max() <= 1
            corner = pixels[:20, :20].mean()
            assert pixels.mean() > 100 > 255 - corner or corner < pixels.mean()
        else:
            np.testing.assert_array_equal(pixels, dataset.pixel_array)
