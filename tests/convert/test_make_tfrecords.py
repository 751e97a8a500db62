"""The sharder from end to end, and every mistake that a user can make."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from in_process import run_command
from project import ROOT, assert_one_clear_line
from sharder_fixtures import content_of, encoded, fields_of, make_source, picture, save

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.core.errors import DataError, UsageError
from cxr_data.images import source_file
from cxr_data.images.decode import decode_pixels
from cxr_data.images.resize import resize_image
from cxr_data.images.undecodable import Undecodable
from cxr_data.records.manifest import read_manifest
from cxr_data.records.quarantine_file import read_quarantine
from cxr_data.records.verify import verify_dataset


def run(source, output, **options):
    settings = {"size": 16, "workers": 0, "quiet": True, "shard_mb": 0.02, **options}
    return make_tfrecords(SharderConfig(str(source), str(output), **settings))


def command(*flags):
    return subprocess.run(
        [sys.executable, "-m", "tools.make_tfrecords", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source"), 40)


@pytest.fixture(scope="module")
def dataset(source, tmp_path_factory):
    return run(source, tmp_path_factory.mktemp("dataset") / "out")


def test_counts_add_up_and_the_manifest_is_true(source, dataset):
    assert dataset == read_manifest(dataset.directory)
    assert dataset.source_counts == {
        "discovered": 40,
        "written": 40,
        "quarantined": 0,
        "duplicates": 0,
        "excluded": 0,
    }
    assert dataset.class_names == ("covid", "normal", "pneumonia")
    assert dataset.splits == ("train", "validation", "test")
    for shard in dataset.shards:
        content = Path(dataset.path(shard)).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.bytes, shard.sha256)
    assert verify_dataset(dataset.directory, 2).problems == ()


def test_records_open_with_nothing_but_tensorflow(source, dataset):
    features = {
        "image": tf.io.FixedLenFeature([16, 16, 3], tf.float32),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    features |= {name: tf.io.FixedLenFeature([], tf.string) for name in ("id", "sha256", "group")}
    seen = 0
    for shard in dataset.shards:
        for raw in tf.data.TFRecordDataset(dataset.path(shard)):
            example = tf.io.parse_single_example(raw, features)
            name = example["id"].numpy().decode()
            content = (source / name).read_bytes()
            assert example["sha256"].numpy().decode() == hashlib.sha256(content).hexdigest()
            assert dataset.class_names[int(example["label"])] == name.split("/")[0]
            gray = resize_image(decode_pixels(content, "gray", 10**8), 16)
            np.testing.assert_array_equal(example["image"], np.dstack([gray] * 3) / np.float32(255))
            seen += 1
    assert seen == 40


def test_mean_and_std_are_those_of_the_training_pixels(dataset):
    images = []
    for shard in dataset.shards_of("train"):
        for raw in tf.data.TFRecordDataset(dataset.path(shard)):
            feature = {"image": tf.io.FixedLenFeature([16, 16, 3], tf.float32)}
            images.append(tf.io.parse_single_example(raw, feature)["image"].numpy())
    np.testing.assert_allclose(dataset.mean, np.mean(images, axis=(0, 1, 2), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, np.std(images, axis=(0, 1, 2), dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize(
    "options", [{"dtype": "uint8", "channels": 1}, {"dtype": "float16"}, {"color": "keep"}]
)
def test_other_encodings_verify(source, tmp_path, options):
    made = run(source, tmp_path / "out", **options)
    assert verify_dataset(made.directory, 2).problems == ()


def test_any_number_of_workers_gives_the_same_bytes(source, dataset, tmp_path):
    expected = content_of(Path(dataset.directory))
    for workers in (1, 3):
        run(source, tmp_path / str(workers), workers=workers)
        assert content_of(tmp_path / str(workers)) == expected


def test_the_same_pictures_elsewhere_give_the_same_bytes_but_for_the_place_in_the_audit(
    source, dataset, tmp_path
):
    moved = shutil.copytree(source, tmp_path / "moved")
    run(moved, tmp_path / "out")
    here, there = content_of(Path(dataset.directory)), content_of(tmp_path / "out")
    audits = [json.loads(content.pop("audit.json")) for content in (here, there)]
    assert here == there
    places = [audit["conversion"].pop("source") for audit in audits]
    assert places == [str(source), str(moved)]
    assert audits[0] == audits[1]
    assert not any(str(source.parent).encode() in content for content in here.values())


def test_again_does_nothing_and_a_lost_shard_is_made_anew(source, tmp_path):
    run(source, tmp_path)
    before = content_of(tmp_path)
    times = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.tfrecord")}
    run(source, tmp_path)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.tfrecord")} == times
    names = sorted(times)
    (tmp_path / names[0]).unlink()
    damaged = tmp_path / names[1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x00")
    run(source, tmp_path)
    assert content_of(tmp_path) == before
    assert (tmp_path / names[2]).stat().st_mtime_ns == times[names[2]]


def test_other_flags_over_an_old_output_are_refused(source, tmp_path):
    run(source, tmp_path)
    with pytest.raises(DataError, match=f"{tmp_path} .*dtype .*'float32' .*'uint8'.*--overwrite"):
        run(source, tmp_path, dtype="uint8")
    save(tmp_path / "mine.txt", b"keep me")
    made = run(source, tmp_path, dtype="uint8", overwrite=True)
    assert made.dtype == "uint8"
    assert verify_dataset(str(tmp_path), 1).problems == ()
    assert (tmp_path / "mine.txt").exists()
    assert len(list(tmp_path.glob("*.tfrecord"))) == len(made.shards)


def test_changed_inputs_are_refused(tmp_path):
    source = make_source(tmp_path / "in", 12)
    run(source, tmp_path / "out")
    name = next(iter(sorted(p for p in source.rglob("*.png"))))
    before = name.read_bytes()
    name.write_bytes(encoded(picture(99)))
    with pytest.raises(DataError, match=f"{name.name} .*converted; --overwrite"):
        run(source, tmp_path / "out")
    name.write_bytes(before)  # the same content again, only touched
    run(source, tmp_path / "out")
    save(source / "covid/new.png", encoded(picture(100)))
    with pytest.raises(DataError, match=f"{tmp_path / 'out'} .*files.*--overwrite"):
        run(source, tmp_path / "out")


def test_shards_of_unknown_origin_are_refused(source, tmp_path):
    save(tmp_path / "train-00000-of-00001.tfrecord", b"x")
    with pytest.raises(DataError, match=rf"{tmp_path} .*train-00000-of-00001\.tfrecord .*ledger\.jsonl"):
        run(source, tmp_path)
    run(source, tmp_path, overwrite=True)
    assert verify_dataset(str(tmp_path), 1).problems == ()


def test_output_inside_of_the_source_is_refused(tmp_path):
    source = make_source(tmp_path / "in", 6)
    before = content_of(source)
    for output in (source, source / "out", source / "covid"):
        with pytest.raises(UsageError, match=f"--output={output} .*{source}"):
            run(source, output)
    assert content_of(source) == before


def test_duplicates(tmp_path):
    source = make_source(tmp_path / "in", 12)
    twin = (source / "covid/image000.png").read_bytes()
    save(source / "covid/twin.png", twin)
    made = run(source, tmp_path / "exclude")
    assert made.source_counts == {
        "discovered": 13,
        "written": 12,
        "quarantined": 0,
        "duplicates": 1,
        "excluded": 0,
    }
    (entry,) = read_quarantine(made.directory)
    assert (entry.id, entry.reason) == ("covid/twin.png", "duplicate")
    assert entry.sha256 == hashlib.sha256(twin).hexdigest()
    with pytest.raises(DataError, match=r"covid/image000\.png = covid/twin\.png"):
        run(source, tmp_path / "fail", duplicates="fail")
    kept = run(source, tmp_path / "keep", duplicates="keep")
    split = {fields.id: shard.split for shard, fields in fields_of(kept)}
    assert split["covid/twin.png"] == split["covid/image000.png"]


def test_the_same_image_under_two_labels_is_left_out(tmp_path):
    source = make_source(tmp_path / "in", 12)
    save(source / "normal/twin.png", (source / "covid/image000.png").read_bytes())
    made = run(source, tmp_path / "out")
    assert {(e.id, e.reason) for e in read_quarantine(made.directory)} == {
        ("covid/image000.png", "conflicting_labels"),
        ("normal/twin.png", "conflicting_labels"),
    }


def test_a_duplicate_across_split_folders_stays_where_it_is_evaluated(tmp_path):
    for number in range(8):
        save(tmp_path / f"in/{'train' if number < 6 else 'test'}/a/{number}.png", encoded(picture(number)))
    save(tmp_path / "in/train/a/copy.png", encoded(picture(7)))
    made = run(tmp_path / "in", tmp_path / "out")
    assert made.counts == {"train": {"a": 6}, "test": {"a": 2}}
    assert [e.id for e in read_quarantine(made.directory)] == ["train/a/copy.png"]
    with pytest.raises(DataError, match=r"train/a/.*\.png.*test/b/.*\.png|test/.*\.png.*train/.*\.png"):
        run(tmp_path / "in", tmp_path / "keep", duplicates="keep")


def test_quarantine_retry(tmp_path):
    source = make_source(tmp_path / "in", 20)
    bad = save(source / "covid/bad.png", encoded(picture(50))[:-30])
    save(source / "covid/flat.png", encoded(np.full((30, 30), 7, np.uint8)))
    save(source / "covid/text.png", b"this is text")
    made = run(source, tmp_path / "out")
    assert {e.id: e.reason for e in read_quarantine(made.directory)} == {
        "covid/bad.png": "truncated",
        "covid/flat.png": "zero_variance",
        "covid/text.png": "not_an_image",
    }
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.tfrecord")}
    bad.write_bytes(encoded(picture(50)))
    with pytest.raises(DataError, match=r"covid/bad\.png .*--retry_quarantined"):
        run(source, tmp_path / "out")
    made = run(source, tmp_path / "out", retry_quarantined=True)
    assert made.source_counts["quarantined"] == 2
    assert verify_dataset(made.directory, 1).problems == ()
    kept = [name for name, t in times.items() if (tmp_path / "out" / name).stat().st_mtime_ns == t]
    assert 0 < len(kept) < len(times)
    run(source, tmp_path / "anew")
    assert content_of(tmp_path / "out") == content_of(tmp_path / "anew")


def test_max_bad_stops_and_names_the_last(tmp_path):
    source = make_source(tmp_path / "in", 20)
    for number in range(5):
        save(source / f"covid/bad{number}.png", b"text %d" % number)
    with pytest.raises(DataError, match=r"--max_bad=1\.00%.*covid/bad\d\.png"):
        run(source, tmp_path / "out", max_bad=0.01)
    assert not (tmp_path / "out/manifest.json").exists()
    run(source, tmp_path / "out", max_bad=0.5)


def test_a_folder_of_nothing_but_bad_files(tmp_path):
    save(tmp_path / "in/a/x.png", b"text")
    with pytest.raises(DataError, match=r" 1 file .*a/x\.png"):
        run(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("read", [source_file.read_source, source_file.digest_of])
def test_an_unreadable_file_has_its_reason(tmp_path, monkeypatch, read):
    path = str(save(tmp_path / "image.png", b"content"))

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(source_file.os, "open", refuse)
    with pytest.raises(Undecodable, match="unreadable: Permission denied"):
        read(path, 100)


def test_a_second_run_in_the_same_output_is_refused(source, tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=f"run .*{tmp_path}"):
            run(source, tmp_path)
    finally:
        os.close(handle)


def test_classes_in_another_order_and_csv(source, tmp_path):
    made = run(source, tmp_path / "out", classes=("normal", "covid", "pneumonia"))
    assert made.class_names == ("normal", "covid", "pneumonia")
    lines = "".join(
        f"{p.relative_to(source)},{p.parent.name},g{i // 2}\n"
        for i, p in enumerate(sorted(source.rglob("*.*")))
    )
    folder = tmp_path / "csv"
    for name, content in content_of(source).items():
        save(folder / name, content)
    csv = save(folder / "list.csv", ("path,label,group\n" + lines).encode())
    made = run(csv, tmp_path / "out2")
    assert made.records == 40
    groups = {fields.group for _, fields in fields_of(made)}
    assert groups == {f"g{i}" for i in range(20)}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--source"),
        (("--source=x", "--output=y"), "--source=x"),
        (("--source=x", "--output=y", "--dtype=int7"), "--dtype=int7"),
        (("--source=x", "--output=y", "--max_bad=many"), "--max_bad=many"),
        (("--source=x", "--output=y", "--channels=2"), "--channels=2"),
        (("--source=x", "--output=y", "--sise=2"), "sise"),
        (("--source=x", "--output=y", "--workers=-7"), "--workers=-7"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(flags, message):
    done = run_command("tools.make_tfrecords", *flags).completed
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("splits", ["70,15,15", "train=0.8,test=0.2", "train:0,8,test:0,2", "train:0.5"])
def test_splits_are_checked_before_the_source_is_read(splits):
    with pytest.raises(UsageError, match=f"--splits={splits}: "):
        SharderConfig("nowhere", "out", splits=splits)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1])
@pytest.mark.parametrize("name", ["shard_mb", "max_pixels", "image_timeout", "image_memory_gb"])
def test_what_is_no_positive_number_is_refused(name, value):
    with pytest.raises(UsageError, match=f"--{name}"):
        SharderConfig("in", "out", **{name: value})


@pytest.mark.parametrize("read", ["folder", "csv", "s3"])
@pytest.mark.parametrize("below", ["", "/out", "/out/deeper"])
def test_an_output_that_is_a_file_or_below_one_is_refused_whatever_the_source(source, tmp_path, read, below):
    listed = tmp_path / "list.csv"
    listed.write_text("path,label\n")
    output = f"{listed}{below}"
    with pytest.raises(UsageError, match=f"--output={output}"):
        run({"folder": source, "csv": listed, "s3": "s3://bucket/images"}[read], output)
    assert listed.read_text() == "path,label\n"


def test_an_output_that_cannot_be_made_fails(source):
    with pytest.raises(DataError, match="--output=/proc/none/out"):
        run(source, "/proc/none/out")


def test_the_command_with_a_log_for_machines(tmp_path):
    source = make_source(tmp_path / "in", 12)
    save(source / "covid/bad.png", b"this is text")
    log = tmp_path / "log.jsonl"
    done = command(f"--source={source}", f"--output={tmp_path / 'out'}", "--size=16", f"--log_json={log}")
    assert done.returncode == 0, done.stderr
    assert "quarantined covid/bad.png: not_an_image" in done.stderr
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert events[0]["event"] == "plan"
    assert events[-1]["event"] == "done"
    assert (events[-1]["written"], events[-1]["quarantined"]) == (12, 1)


def test_an_empty_folder_is_one_line_and_exit_code_1(tmp_path):
    flags = [f"--source={tmp_path}", f"--output={tmp_path}_out"]
    done = run_command("tools.make_tfrecords", *flags).completed
    assert_one_clear_line(done, 1, f"make_tfrecords: error: no images under {tmp_path}")


def test_the_real_images(shared, tmp_path):
    source = tmp_path / "in"
    for path in sorted((shared / "data" / "cxr_sample").rglob("*.*"))[::9]:
        save(source / path.parent.name / path.name, path.read_bytes())
    made = run(source, tmp_path / "out", size=360, shard_mb=20)
    assert made.records == len(list(source.rglob("*.*")))
    assert verify_dataset(made.directory, 2).problems == ()
