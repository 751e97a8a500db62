"""Files that are made to end a conversion: each becomes a record or a line, and the conversion goes on."""

import json
import pathlib

import bombs
import pydicom
import pytest
from dicom_files import make_dicom
from malformed_dicom import malformed_dicoms
from sharder_fixtures import encoded, picture, save

from cxr_data.audit.pictures import pictures_of_files
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.core import isolated
from cxr_data.core.errors import DataError
from cxr_data.images.guarded import USUAL
from cxr_train.inference.files import find_files, read_images


def convert(source, output, **options):
    options = {"workers": 0, "audit": False} | options
    return make_tfrecords(SharderConfig(str(source), str(output), size=16, quiet=True, **options))


def reasons(output):
    lines = (output / "quarantine.jsonl").read_text().splitlines()
    return {entry["id"]: entry["reason"] for entry in map(json.loads, lines)}


@pytest.fixture
def no_reading_here(monkeypatch):
    """This process must not look into a file: nothing that ends a reader may end it."""

    def refuse(*_, **__):
        raise SystemExit("a DICOM header is read in the main process")

    monkeypatch.setattr(pydicom, "dcmread", refuse)
    monkeypatch.setattr("cxr_data.images.decode.decode_with_facts", refuse)
    monkeypatch.setattr("cxr_data.images.preprocess.decode_with_facts", refuse)


def test_no_malformed_dicom_ends_the_run_and_each_is_accounted_for(tmp_path, no_reading_here):
    names = set()
    for number, (name, data) in enumerate(malformed_dicoms()):
        names.add(f"{'ab'[number % 2]}/{name}.dcm")
        save(tmp_path / f"in/{'ab'[number % 2]}/{name}.dcm", data)
    assert len(names) > 300
    made = convert(tmp_path / "in", tmp_path / "out")
    counts = made.source_counts
    assert counts["discovered"] == len(names) == counts["written"] + counts["quarantined"]
    assert set(reasons(tmp_path / "out")) <= names
    assert min(counts["written"], counts["quarantined"]) > 50


@pytest.fixture(scope="module")
def deadly(tmp_path_factory):
    """A class with pictures and a DICOM file at whose header every worker process ends."""
    folder = tmp_path_factory.mktemp("deadly")
    save(
        folder / "patch/sitecustomize.py",
        b"import pydicom, os\n"
        b"read = pydicom.dcmread\n"
        b"def deadly(file, **options):\n"
        b"    os.abort() if b'DEADLY' in file.getvalue() else None\n"
        b"    return read(file, **options)\n"
        b"pydicom.dcmread = deadly\n",
    )
    for number in range(4):
        save(folder / f"in/a/{number}.png", encoded(picture(number)))
    save(folder / "in/a/good.dcm", make_dicom(picture(8), bits=8, patient="P1"))
    save(folder / "in/a/deadly.dcm", make_dicom(picture(9), bits=8, patient="DEADLY"))
    isolated.stop_idle()  # it has not imported this
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "patch")
        yield folder / "in"
    isolated.stop_idle()


@pytest.fixture(scope="module")
def made(deadly, tmp_path_factory):
    return convert(deadly, tmp_path_factory.mktemp("made") / "out", splits="train:1")


def test_a_header_that_ends_its_reader_is_a_line(deadly, made, tmp_path):
    assert reasons(pathlib.Path(made.directory)) == {"a/deadly.dcm": "decoder_crashed"}
    assert (made.source_counts["discovered"], made.source_counts["written"]) == (6, 5)
    with pytest.raises(DataError, match="--max_bad"):
        convert(deadly, tmp_path / "strict", splits="train:1", max_bad=0.1)


def test_audit_and_prediction_go_on_behind_a_file_that_ends_its_reader(deadly, made):
    assert "a/deadly.dcm" not in pictures_of_files(str(deadly), made, USUAL, quiet=True).ids
    files = find_files([str(deadly)])
    ((read, _, failed),) = read_images(files, made.pixel_options, batch_size=len(files))
    assert len(read) == 5
    assert [(files[n].name, error.reason) for n, error in failed.items()] == [
        ("a/deadly.dcm", "decoder_crashed")
    ]


def test_what_asks_for_too_much_memory_is_a_line(tmp_path):
    for number in range(3):
        save(tmp_path / f"in/a/{number}.png", encoded(picture(number)))
    save(tmp_path / "in/a/late.dcm", bombs.pixel_bomb(1_100 << 20, behind_2048=True, preamble=False))
    save(tmp_path / "in/a/palette.dcm", bombs.palette_bomb(500))
    save(tmp_path / "in/a/large.bmp", bombs.bmp(9000, 24, 0, bytes(64)))
    made = convert(tmp_path / "in", tmp_path / "out", splits="train:1", image_memory_gb=0.2)
    bad = ("a/large.bmp", "a/late.dcm", "a/palette.dcm")
    assert reasons(tmp_path / "out") == dict.fromkeys(bad, "too_large")
    assert made.source_counts["written"] == 3
