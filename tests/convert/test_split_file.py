"""The split file: the same images are in the same splits, under other names and on another machine."""

import csv
import shutil

import pytest
from sharder_fixtures import content_of, fields_of, make_source

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.convert.split_file import COLUMNS, FOLDS
from cxr_data.core.errors import DataError, UsageError
from cxr_data.records.folds import positions_of
from cxr_data.records.index import read_split_fields
from cxr_data.records.quarantine_file import read_quarantine


def run(source, output, **options):
    settings = {"size": 16, "workers": 0, "quiet": True, "shard_mb": 0.05, "audit": False, **options}
    return make_tfrecords(SharderConfig(str(source), str(output), **settings))


def splits_of(made):
    return {fields.sha256: shard.split for shard, fields in fields_of(made)}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source"), 24)


@pytest.fixture(scope="module")
def first(source, tmp_path_factory):
    """A data set, and its split file."""
    directory = tmp_path_factory.mktemp("first")
    made = run(source, directory / "out", splits="train:0.5,validation:0.25,test:0.25", seed=3)
    before = content_of(directory / "out")
    written = directory / "splits.csv"
    options = {"splits": "train:0.5,validation:0.25,test:0.25", "seed": 3}
    run(source, directory / "out", **options, write_split_file=str(written))
    assert content_of(directory / "out") == before  # a finished output is given it, and stays as it is
    return made, written


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_it_names_every_image_with_its_split_and_fold(first):
    made, written = first
    rows = rows_of(written)
    assert tuple(rows[0]) == COLUMNS
    assert {row["sha256"]: row["split"] for row in rows} == splits_of(made)
    pool = read_split_fields(made, "train+validation")
    for number in range(1, FOLDS + 1):
        expected = {pool[i].id for i in positions_of(made, f"train+validation@{number}of{FOLDS}")}
        assert {row["id"] for row in rows if row["fold"] == str(number)} == expected
    assert {row["fold"] for row in rows if row["split"] == "test"} == {""}


def test_renamed_files_get_the_same_splits_and_others_are_left_out(first, source, tmp_path, capfd):
    made, written = first
    elsewhere = shutil.copytree(source, tmp_path / "elsewhere")
    for number, path in enumerate(sorted(elsewhere.glob("*/*"))):
        path.rename(path.with_name(f"x{number * 7 % 24:02d}{path.suffix}"))
    again = run(elsewhere, tmp_path / "again", split_file=str(written))
    assert splits_of(again) == splits_of(made)
    assert made.counts == again.counts
    # One is new, and one is gone.
    new = make_source(tmp_path / "other", 30) / "covid/image027.png"
    shutil.copy(new, elsewhere / "covid/new.png")
    next(iter(sorted(elsewhere.glob("normal/*")))).unlink()
    changed = run(elsewhere, tmp_path / "changed", split_file=str(written), quiet=False)
    assert splits_of(changed).items() < splits_of(made).items()
    assert [(entry.id, entry.reason) for entry in read_quarantine(changed.directory)] == [
        ("covid/new.png", "excluded")
    ]
    said = " ".join(capfd.readouterr().err.split())
    for count in ("23 images, 0 of", "1 image not", "1 of its 24"):
        assert count in said


def test_an_image_that_was_written_again_is_found_by_its_id(first, source, tmp_path):
    made, written = first
    elsewhere = shutil.copytree(source, tmp_path / "elsewhere")
    (elsewhere / "covid/image000.png").write_bytes((source / "covid/image000.png").read_bytes() + b"\0")
    again = run(elsewhere, tmp_path / "again", split_file=str(written))
    of_id = [
        {fields.id: shard.split for shard, fields in fields_of(one)}["covid/image000.png"]
        for one in (made, again)
    ]
    assert of_id[0] == of_id[1]


def test_what_is_no_split_file_is_refused(first, source, tmp_path):
    _, written = first
    with pytest.raises(UsageError, match="--splits=.*--split_file="):
        run(source, tmp_path / "out", split_file=str(written), splits="train:0.5,test:0.5")
    with pytest.raises(UsageError, match="--split_file=.*none.csv: "):
        run(source, tmp_path / "out", split_file=str(tmp_path / "none.csv"))
    for text, says in (
        ("id,class\n1,2\n", "columns"),
        ("id,split\na,train\na,test\n", "line 3: "),
        ("id,split\na,\n", "line 2: ''"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(DataError, match=f"--split_file=.*{says}"):
            run(source, tmp_path / "out", split_file=str(tmp_path / "bad.csv"))
