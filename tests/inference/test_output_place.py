"""Outputs that cannot be written, or must not be, are refused before the work begins."""

import pytest

from cxr_data.core.errors import UsageError
from cxr_train.flags.output_place import prepare_output
from cxr_train.inference.export_names import is_export


def test_a_folder_that_is_missing_is_made(tmp_path):
    prepare_output("output", tmp_path / "a" / "b" / "c.csv", overwrite=False)
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_what_is_there_stays_without_overwrite_and_other_things_always(tmp_path):
    there, folder = tmp_path / "there.csv", tmp_path / "folder"
    there.write_text("mine")
    folder.mkdir()
    with pytest.raises(UsageError, match=r"--output=.*there\.csv: .*--overwrite"):
        prepare_output("output", there, overwrite=False)
    prepare_output("output", there, overwrite=True)
    with pytest.raises(UsageError, match=f"--output={folder}: "):
        prepare_output("output", folder, overwrite=True)


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--output=.*p.csv: (Not a directory|File exists): .*file"):
        prepare_output("output", tmp_path / "file" / "below" / "p.csv", overwrite=True)


def test_an_export_replaces_exports_and_no_folder_of_the_users(tmp_path):
    """Of TensorFlow Serving's folder of versions, or a home, nothing may be removed."""
    (tmp_path / "served" / "1").mkdir(parents=True)
    (tmp_path / "served" / "1" / "saved_model.pb").write_bytes(b"")
    (tmp_path / "model.onnx").write_bytes(b"")
    replaced = {form: is_export(form) for form in ("savedmodel", "tflite", "onnx")}
    assert replaced["savedmodel"](tmp_path / "served" / "1")
    assert not replaced["savedmodel"](tmp_path / "served")
    assert not replaced["savedmodel"](tmp_path / "model.onnx")
    assert replaced["onnx"](tmp_path / "model.onnx")
    assert not replaced["tflite"](tmp_path / "served" / "1")
