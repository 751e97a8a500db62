"""The benchmark of DICOM decoders decodes what it made, and gives a row for each transfer syntax."""

import json

import numpy as np
import pytest
from in_process import run_command

from tools.bench import dicom


@pytest.mark.parametrize("syntax", dicom.SYNTAXES, ids=lambda syntax: str(syntax)[-12:])
def test_the_ways_decode_the_same_picture(syntax):
    pytest.importorskip("tensorflow_io")
    picture = dicom.made_picture(48)
    data = dicom.dicom_file(picture, syntax)
    stored = dicom.by_tensorflow_io(data)
    expected = picture >> 4 if syntax == dicom.uid.JPEGBaseline8Bit else picture
    loss = 60 if syntax in (dicom.uid.JPEGBaseline8Bit, dicom.uid.JPEGExtended12Bit) else 0
    assert np.abs(stored.astype(int) - expected).max() <= loss
    if syntax != dicom.uid.JPEGExtended12Bit:
        np.testing.assert_array_equal(dicom.by_pydicom(data), stored)
    center, width = (96, 192) if syntax == dicom.uid.JPEGBaseline8Bit else (1536, 3072)
    windowed = np.clip(((stored - (center - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)
    assert np.abs(dicom.by_cxr(data) - windowed).max() <= 0.501


def test_a_small_run_gives_every_row(tmp_path):
    flags = ("--side=64", "--images=2", "--rounds=1", f"--json={tmp_path / 'out.json'}")
    done = run_command("tools.benchmark", "dicom", *flags)
    assert done.code == 0, done.output
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert len(results) == len(dicom.SYNTAXES)
    assert all(row["cxr"] > 0 for row in results)
    assert "cxr / tensorflow-io" in done.output
