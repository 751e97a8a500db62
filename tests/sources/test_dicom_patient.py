"""Whose picture a DICOM file is: kept together, and never told."""

import subprocess
import sys

import numpy as np
import pytest
from dicom_files import make_dicom, with_element
from pydicom.datadict import dictionary_VR, tag_for_keyword
from sharder_fixtures import fields_of, picture, save

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.images.dicom_header import read_header
from cxr_data.images.guarded import USUAL
from cxr_data.sources import dicom_patient
from cxr_data.sources.item import Item
from cxr_data.sources.patients import patients_in_headers


def test_pseudonyms_hide_the_patient_and_depend_on_the_dataset():
    salt = dicom_patient.salt_of(["a", "b"])
    assert salt == dicom_patient.salt_of(["b", "a"]) != dicom_patient.salt_of(["ab"])
    first = dicom_patient.pseudonym("P1", salt)
    assert first == dicom_patient.pseudonym("P1", salt) != dicom_patient.pseudonym("P2", salt)
    assert "P1" not in first


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


def test_a_header_that_cannot_be_read_changes_no_pseudonym(tmp_path):
    paths = [
        save(tmp_path / f"{number}.dcm", make_dicom(picture(number), bits=8, patient=f"P{number // 2}"))
        for number in range(4)
    ]
    damaged = save(tmp_path / "damaged.dcm", bytes(128) + b"DICM" + b"\xff" * 64)
    large = save(tmp_path / "large.dcm", bytes(128) + b"DICM" + bytes(10**7))
    items = [Item(path.name, str(path), "a", path.stat().st_size, 0) for path in (*paths, damaged, large)]
    whole, lost = patients_in_headers(items[:4], 10**6, USUAL, 1)
    assert len({*whole.values()}) == 2
    assert patients_in_headers(items, 10**6, USUAL, 1) == (whole, lost)


@pytest.mark.parametrize("vr", ["US", "UL", "FL", "FD", "AT", "IS", "DS", "PN", "UN", "SQ", "OB"])
@pytest.mark.parametrize("raw", [b"", b"abc", b"Mary\\Jane", b"\xff\xfe\xfd\xfc"])
def test_an_identifier_of_any_kind_is_read_without_an_error_and_the_same_twice(vr, raw):
    files = [make_dicom(picture(number), bits=8) for number in (1, 2)]
    headers = [read_header(with_element(data, "PatientID", vr, raw)) for data in files]
    first, second = map(dicom_patient.patient_of, headers)
    assert first == second
    assert (first == "") or raw
    assert all(dicom_patient.identity_of(header) for header in headers)


@pytest.mark.parametrize("patient", ["Anonymous", " UNKNOWN ", "None", "-"])
def test_an_identifier_that_names_nobody_is_no_patient(patient):
    header = read_header(make_dicom(picture(1), bits=8, patient=patient))
    assert dicom_patient.patient_of(header) == ""


ELEMENTS = {
    "PatientID": "P",
    "StudyInstanceUID": "1.2",
    "NumberOfFrames": 1,
    "SpecificCharacterSet": "ISO_IR 100",
    "WindowCenter": 1,
    "PatientBirthDate": "20000101",
    "IssuerOfPatientID": "I",
}


def test_the_terminal_shows_neither_warnings_nor_identifiers(tmp_path):
    """pydicom warns of values and quotes them, from several threads."""
    for number in range(16):
        data = make_dicom(picture(number), bits=8, **ELEMENTS)
        for keyword in ELEMENTS:
            vr = dictionary_VR(tag_for_keyword(keyword))
            data = with_element(data, keyword, vr, b"Mary Smith, 1.2.3.Mary")
        save(tmp_path / f"in/{'ab'[number % 2]}/{number}.dcm", data)
    command = [sys.executable, "-m", "tools.make_tfrecords", f"--source={tmp_path / 'in'}", "--size=16"]
    done = subprocess.run(
        [*command, f"--output={tmp_path / 'out'}", "--workers=1"], capture_output=True, text=True, check=True
    )
    assert "16 written" in done.stderr
    for word in ("Mary", "arning", "pydicom", "Invalid"):
        assert word not in done.stdout + done.stderr
