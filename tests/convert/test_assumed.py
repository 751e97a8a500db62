"""What is assumed where a file is silent: counted in the summary, kept for the audit."""

import json

import numpy as np
import pytest
from dicom_files import lookup_table, make_dicom
from sharder_fixtures import encoded, picture, save

from cxr_data.audit.pictures import pictures_of_shards
from cxr_data.audit.shortcut_features import features_of
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.images.measure import modes_of
from cxr_data.records.index import read_features

STATED = {"WindowCenter": 2048, "WindowWidth": 4096}


def files():
    """Four files of each kind, and what is assumed about them."""
    for number in range(0, 24, 6):
        deep = picture(number).astype(np.uint16) << 4
        yield encoded(picture(number)), ""
        yield encoded(deep), "R"
        yield make_dicom(deep, **STATED), ""
        yield make_dicom(deep, bits=16), "R"
        yield make_dicom(deep, VOILUTSequence=lookup_table(np.arange(4096))), "L"
        yield make_dicom(deep, RescaleIntercept=0, WindowCenter=2048, WindowWidth=0), "RWD"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assumed")
    for number, (data, _) in enumerate(files()):
        save(folder / f"in/{'ab'[number % 2]}/{number:02d}.img", data)
    config = SharderConfig(str(folder / "in"), str(folder / "out"), size=16, workers=0, quiet=True)
    return config, make_tfrecords(config)


def test_the_features_keep_it_for_each_file(made):
    _, manifest = made
    letters = [text for _, text in files()]
    pictures = pictures_of_shards(manifest, quiet=True)
    modes, found = modes_of(read_features(manifest))
    assert [letters[int(name.split("/")[1][:2])] for name in pictures.ids] == [
        text.decode() for text in found
    ]
    assert set(modes.tolist()) == {b"L", b"I;16", b"MONOCHROME2"}


def test_the_audit_sees_it(made):
    _, manifest = made
    features = {feature.name: feature for feature in features_of(pictures_of_shards(manifest, quiet=True))}
    shown = {features["assumptions"].show(value) for value in features["assumptions"].values}
    assert "nothing assumed" in shown
    assert any("pixels" in value for value in shown)
    assert {features["mode"].show(value) for value in features["mode"].values} == {"L", "I;16", "MONOCHROME2"}


@pytest.mark.parametrize("again", [False, True])
def test_the_summary_counts_the_files(made, capsys, tmp_path, again):
    """Also when nothing is left to do."""
    config, _ = made
    config = SharderConfig(**vars(config) | {"quiet": False, "log_json": str(tmp_path / "log")})
    make_tfrecords(config if again else SharderConfig(**vars(config) | {"output": str(tmp_path / "out")}))
    said = " ".join(capsys.readouterr().err.split())  # it wraps at the width of the terminal
    line = said[said.index("assumed ") :]
    for text in (
        "from the pixels: 12 files",
        "lookup table",
        ": 4 files",
        "default for a DICOM tag",
    ):
        assert text in line
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1])["assumed"] in line


def test_where_nothing_is_assumed_nothing_is_said(tmp_path, capsys):
    for number in range(12):
        save(tmp_path / f"in/{'ab'[number % 2]}/{number}.png", encoded(picture(number)))
    made = make_tfrecords(SharderConfig(str(tmp_path / "in"), str(tmp_path / "out"), size=16, workers=0))
    assert not any(line.startswith("assumed") for line in capsys.readouterr().err.splitlines())
    names = [feature.name for feature in features_of(pictures_of_shards(made, quiet=True))]
    assert "mode" in names
    assert "assumptions" not in names
