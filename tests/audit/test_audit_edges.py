"""The audit where it is easily wrong: odd names and thresholds, tiny classes, blank pictures, old results."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from audit_fixtures import chest, synthetic
from in_process import run_command
from PIL import Image
from project import ROOT
from sharder_fixtures import encoded, save
from waiting import children_of, is_running, wait_until

from cxr_data.audit import audit, findings, shortcuts
from cxr_data.audit.audit import AuditConfig, audit_dataset, audit_pictures
from cxr_data.audit.leakage import pairs_of
from cxr_data.audit.pictures import pictures_of_shards
from cxr_data.audit.shortcut_features import Feature, features_of, in_words
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.convert.exclude import read_findings
from cxr_data.core.errors import DataError, UsageError, one_line
from cxr_data.images import measure
from cxr_data.images.source_file import read_source
from cxr_data.images.undecodable import Undecodable
from cxr_data.records import manifest
from cxr_data.records.index import read_index, read_split_fields
from cxr_data.sources.item import Item


def convert(source, output, **options):
    values = {"size": 32, "workers": 0, "quiet": True, "audit": False, **options}
    return make_tfrecords(SharderConfig(str(source), str(output), **values))


def changed(pictures, **values):
    return dataclasses.replace(pictures, **values)


# -- thresholds --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["shortcut:nan"], ["shortcut:90"], ["leakage:inf"], ["repeats:-1"], ["leakage", "leakage:9"]]
)
def test_a_check_that_could_not_fail_is_refused(words):
    with pytest.raises(UsageError, match="--fail_on"):
        findings.parse_fail_on(words)


# -- names -------------------------------------------------------------------------------------

NAMES = (b"bad\xff.png", b"new\n1. [leakage] line.png", b"cash$\\frac$_$^$.png", "é \u2028.png".encode())


def test_names_of_any_bytes_are_a_line_each_and_draw(tmp_path):
    for number, name in enumerate(NAMES):
        save(tmp_path / "in/a$_$" / os.fsdecode(name), encoded(chest(number, 64)))
        save(tmp_path / "in/b" / os.fsdecode(name), encoded(chest(number, 64), "TIFF"))
    convert(tmp_path / "in", tmp_path / "out", splits="train:1")
    stale = save(tmp_path / "out/audit/features.png", b"of an earlier audit")
    done = subprocess.run(
        [sys.executable, "-m", "tools.audit_dataset", f"--data={tmp_path}/out", "--fail_on=shortcut"],
        cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "--fail_on=shortcut: " in done.stderr
    shown = [line for line in done.stdout.splitlines() if line.startswith("     first ")]
    assert len(shown) == len(NAMES)
    assert any("new\\n1. [leakage] line.png" in line for line in shown)
    assert not stale.exists()
    with Image.open(tmp_path / "out/audit/pairs.png") as image:
        assert image.size[1] > 500
    assert one_line("a\udcff\x1b[2J é") == "a\\udcff\\x1b[2J é"


# -- what there is little of -------------------------------------------------------------------


def test_a_tiny_class_does_not_hide_the_shortcuts_of_the_others():
    pictures = synthetic(0, strength=0.6)
    labels = pictures.labels.copy()
    labels[:8] = 3  # four patients
    pictures = changed(pictures, labels=labels, class_names=(*pictures.class_names, "rare"))
    made = audit_pictures(pictures)
    assert {score.label for score in made.scores} == set(pictures.class_names) - {"rare"}
    assert "text top left" in {finding.name for finding in made.found}
    assert any(re.search("shortcut to rare .*fewer than 10 patients", note) for note in made.notes)
    most = changed(pictures, labels=np.where(labels == 3, 1, 0))
    assert shortcuts.find_shortcuts(most) == []  # ten patients, but not ten beside them


@pytest.mark.parametrize("count", [1, 2])
def test_one_picture_and_one_class_are_no_error(count):
    pictures = synthetic(0, images=24)
    few = changed(
        pictures,
        ids=pictures.ids[:count], groups=pictures.groups[:count], splits=pictures.splits[:count],
        labels=np.zeros(count, int), rows=pictures.rows[:count],
    )  # fmt: skip
    made = audit_pictures(few)
    assert made.scores == made.pairs == made.found == ()
    text = audit.audit_as_text("data", audit.as_document(made), 3)
    assert ("1 picture," if count == 1 else "2 pictures,") in text


def test_blank_pictures_do_not_show_the_same():
    rows = np.array([measure.row_of(blank(number)) for number in (0, 1, 2, 0)])
    pictures = synthetic(0, images=4)
    own = changed(pictures, rows=rows, labels=np.array([0, 1, 2, 1]))
    assert [(pair.first, pair.second) for pair in pairs_of(own)] == [(0, 3)]
    assert pairs_of(own)[0].is_exact


def blank(number):
    """A failed exposure: black but for some noise."""
    return np.random.default_rng(number).integers(0, 4, (96, 96)).astype(np.uint8)


# -- words -------------------------------------------------------------------------------------


def test_sizes_of_one_area_are_not_called_by_one_name():
    pictures = synthetic(0)
    tall = pictures.labels == 0
    pictures.rows["width"], pictures.rows["height"] = np.where(tall, (512,), 1024), np.where(tall, 1024, 512)
    size = next(feature for feature in features_of(pictures) if feature.name == "size")
    assert "524288 pixels: " in in_words(size, pictures.labels, pictures.class_names)


def test_the_words_tell_what_differs_and_not_what_is_frequent_everywhere():
    labels = np.repeat([0, 1], 50)
    values = np.array([0.0] * 30 + [1.0] * 20 + [0.0] * 30 + [2.0] * 20)
    text = in_words(Feature("format", values, "format {:.0f}".format), labels, ("covid", "normal"))
    assert text in ("format 1: covid 20 of 50, normal 0 of 50", "format 2: covid 0 of 50, normal 20 of 50")


def test_nearly_perfectly_is_not_perfectly():
    score = shortcuts.Score("size", "covid", 0.9996, 0.999, 1.0, 0.005)
    pictures = synthetic(0)
    (finding,) = shortcuts.shortcut_findings(pictures, [score])
    assert "separates covid nearly perfectly" in finding.text
    (finding,) = shortcuts.shortcut_findings(pictures, [dataclasses.replace(score, auroc=1.0)])
    assert "separates covid perfectly" in finding.text


# -- leaving out -------------------------------------------------------------------------------


def excluded_by(tmp_path, cases, ids):
    """What `read_findings` leaves out of `ids` for {finding: [(first, in, second, and)]}."""
    found = [
        {
            "name": name,
            "cases": len(pairs),
            "evidence": [dict(zip(("first", "in", "second", "and"), pair, strict=True)) for pair in pairs],
        }
        for name, pairs in cases.items()
    ]
    path = save(tmp_path / "audit.json", json.dumps({"schema": audit.SCHEMA, "findings": found}).encode())
    return set(read_findings(str(path), [Item(name, name, "a", 1, 0) for name in ids]))


def test_of_many_copies_one_stays_whatever_pairs_name_them(tmp_path):
    # Of copies a b c in two splits only a-b and a-c are pairs.
    two = {"pictures_in_two_splits": [("a", "train", "b", "test"), ("a", "train", "c", "test")]}
    assert excluded_by(tmp_path, two, "abcd") == {"a", "c"}
    chain = {"repeated_pictures": [("a", "train", "b", "x"), ("b", "train", "c", "x")]}
    assert excluded_by(tmp_path, chain, "abcd") == {"b", "c"}
    # b has the label of a and c the other one: none of them is known to be right.
    labels = {
        "repeated_pictures": [("a", "train", "b", "x")],
        "pictures_in_two_classes": [("a", "x", "c", "y")],
    }
    assert excluded_by(tmp_path, labels, "abcd") == {"a", "b", "c"}
    # Of the copies a b only a is paired with the second dataset.
    second = {
        "pictures_in_two_splits": [("a", "train", "b", "test")],
        "pictures_in_second_dataset": [("a", "train/x", "b", "test/x")],
    }
    assert excluded_by(tmp_path, second, "abcd") == {"a", "b"}


def test_an_audit_of_another_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"audit\.json .*'a'"):
        excluded_by(tmp_path, {"repeated_pictures": [("a", "train", "b", "x")]}, "xyz")


def test_every_pair_is_written_so_that_all_can_be_left_out():
    own = synthetic(0, images=1300)
    own.rows["thumbnail"], own.rows["crc32c"] = own.rows["thumbnail"][0], 7
    own = changed(own, labels=np.zeros(1300, int))
    (finding,) = audit.as_document(audit_pictures(own))["findings"]
    assert finding["cases"] == len(finding["evidence"]) == 1299


# -- what is there already ---------------------------------------------------------------------


def test_an_audit_without_its_parts_is_damaged(tmp_path):
    save(tmp_path / "audit.json", json.dumps({"schema": audit.SCHEMA, "pictures": 1}).encode())
    with pytest.raises(DataError, match=r"audit\.json .*findings"):
        audit.audit_summary(str(tmp_path))


def test_a_conversion_anew_removes_the_pictures_of_the_old_audit(tmp_path):
    for number in range(4):
        save(tmp_path / f"in/{'ab'[number % 2]}/{number}.png", encoded(chest(number, 40)))
    convert(tmp_path / "in", tmp_path / "out")
    stale = save(tmp_path / "out/audit/pairs.png", b"of the old pictures")
    made = convert(tmp_path / "in", tmp_path / "out", size=24, overwrite=True)
    assert not stale.exists()
    with pytest.raises(UsageError, match=f"--against={made.directory}/ .*--data"):
        audit_dataset(AuditConfig(made.directory, against=made.directory + "/"))
    bare = dataclasses.replace(made, directory=str(tmp_path / "bare"), shards=(), counts={})
    (tmp_path / "bare").mkdir()
    manifest.write_manifest(bare)
    with pytest.raises(DataError, match=bare.directory):
        audit_dataset(AuditConfig(bare.directory))


def test_an_object_that_is_too_large_is_not_fetched():
    with pytest.raises(Undecodable, match="too_large: 1099511627776 "):
        read_source("s3://no/such/bucket", 10**6, 1 << 40)


@pytest.mark.slow
def test_a_killed_audit_leaves_no_process(tmp_path):
    for number in range(60):
        save(tmp_path / f"in/{'ab'[number % 2]}/{number}.png", encoded(chest(number, 1500)))
    convert(tmp_path / "in", tmp_path / "out")
    flags = [f"--data={tmp_path}/out", f"--source={tmp_path}/in", f"--output={tmp_path}/audit"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.audit_dataset", *flags],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_until(lambda: len(children_of(process)) > 2, process)  # the tracker of resources, and workers
    workers = children_of(process)
    process.send_signal(signal.SIGTERM)
    process.wait()
    wait_until(lambda: not any(map(is_running, workers)))
    assert not (tmp_path / "audit").exists()


# -- shards that change meanwhile --------------------------------------------------------------


@pytest.fixture
def few(tmp_path):
    """Three pictures in one shard."""
    for number in range(3):
        save(tmp_path / f"in/a/{number}.png", encoded(chest(number, 64)))
    return convert(tmp_path / "in", tmp_path / "out", splits="train:1")


def test_the_index_is_read_once_for_all_pictures(few, tmp_path):
    own = pictures_of_shards(few, quiet=True)
    shown = [own.image(position) for position in range(3)]
    (tmp_path / "out/index.npy").unlink()
    for position in range(3):
        np.testing.assert_array_equal(own.image(position), shown[position])


@pytest.mark.parametrize("measured", [True, False])
def test_damaged_records_are_counted_and_the_audit_fails(few, measured, tmp_path):
    """Once with what was measured while converting, and once by the pixels."""
    if not measured:
        few = dataclasses.replace(few, features_sha256="")
        manifest.write_manifest(few)
    own, (shard,), rows = pictures_of_shards(few, quiet=True), few.shards, read_index(few)
    with open(few.path(shard), "r+b") as file:
        for row, place in ((rows[1], "payload"), (rows[2], "record")):
            at = int(row[place]) + 40
            byte = os.pread(file.fileno(), 1, at)[0]
            os.pwrite(file.fileno(), bytes([byte ^ 4]), at)
    done = run_command("cxr_data.commands.audit_dataset", f"--data={few.directory}", "--fail_on=leakage")
    assert (done.code, done.stdout) == (1, b"")
    (line,) = [line for line in done.stderr.decode().splitlines() if shard.name in line]
    assert "2 of 3 records" in line
    assert f"{shard.name}: record 1: " in line
    assert not (tmp_path / "out/audit.json").exists()
    with pytest.raises(DataError, match=f"{shard.name}: record at byte {rows[1]['record']}: "):
        own.image(1)  # the row of the other is as it was, and so are its pixels
    assert own.image(2).shape == (32, 32)


@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_shard_that_became_shorter_is_named(few, kept):
    own = pictures_of_shards(few, quiet=True)
    (shard,) = few.shards
    os.truncate(few.path(shard), int(kept * shard.bytes))
    with pytest.raises(DataError, match=few.path(shard)):
        own.image(2)
    if kept == 0.5:  # of the last record not even the fields are there
        with pytest.raises(DataError, match=few.path(shard)):
            read_split_fields(few, "train")
