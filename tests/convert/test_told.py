"""What a conversion tells of labels, patients and splits that the source leaves open, and what it refuses."""

import os
import re
import subprocess
import sys

import pytest
from project import ROOT
from sharder_fixtures import encoded, fields_of, picture, save

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.core.errors import DataError, UsageError
from cxr_data.records.folds import class_counts
from cxr_data.records.quarantine_file import read_quarantine


def convert(source, output, **options):
    return make_tfrecords(SharderConfig(str(source), str(output), size=8, workers=0, audit=False, **options))


def save_pictures(root, *names):
    for number, name in enumerate(names):
        save(root / name, encoded(picture(number)))
    return root


def test_person_numbers_that_begin_anew_in_test_convert_with_their_own_splits(shared, tmp_path, capsys):
    made = convert(shared / "data/field/kermany", tmp_path / "out")
    assert set(made.splits) == {"train", "validation", "test"}
    groups = {fields.id: fields.group for _, fields in fields_of(made)}
    assert groups["test/PNEUMONIA/person3_virus_127.jpeg"] == "test/PNEUMONIA/person3"
    assert groups["train/PNEUMONIA/person3_virus_8.jpeg"] == "train/PNEUMONIA/person3"
    assert groups["train/NORMAL/IM-0001-0001.jpeg"] == "train/NORMAL/IM-0001-0001.jpeg"
    said = capsys.readouterr().err
    assert "ASSUMED: 2 of the numbers that Kermany pediatric" in said
    assert "--group_regex=none" in said


def test_a_patient_of_a_set_that_numbers_all_of_them_is_refused_in_two_splits(tmp_path):
    source = save_pictures(tmp_path / "in", "train/a/00000013_005.png", "test/a/00000013_006.png")
    with pytest.raises(DataError, match="according to NIH ChestX-ray14.*--splits=.*--group_regex=none"):
        convert(source, tmp_path / "out")
    assert convert(source, tmp_path / "none", group_regex="none").records == 2


def test_a_source_of_test_alone_is_the_split_test(tmp_path):
    made = convert(save_pictures(tmp_path / "in", "test/a/1.png", "test/b/2.png"), tmp_path / "out")
    assert (made.splits, made.class_names) == (("test",), ("a", "b"))


def test_train_is_divided_and_test_stays(tmp_path, capsys):
    names = [f"train/{c}/p{n // 2}_{n}.png" for c in "ab" for n in range(20)]
    source = save_pictures(tmp_path / "in", *names, *(f"test/{c}/t_{n}.png" for c in "ab" for n in range(3)))
    options = {"splits": "train:0.8,validation:0.2", "group_regex": r"/(p\d+|t)_"}
    made = convert(source, tmp_path / "out", **options)
    assert made.counts == {
        "train": {"a": 16, "b": 16},
        "validation": {"a": 4, "b": 4},
        "test": {"a": 3, "b": 3},
    }
    assert {f.id.split("/")[0] for shard, f in fields_of(made) if shard.split == "test"} == {"test"}
    assert "6 images" in capsys.readouterr().err
    save(source / "test/a/p3_99.png", encoded(picture(99)))
    with pytest.raises(DataError, match="group 'p3' .*--group_regex"):
        convert(source, tmp_path / "shared", **options)


def test_a_balanced_test_split_that_stays_is_balanced_by_itself(tmp_path):
    names = [*(f"train/a/{n}.png" for n in range(20)), *(f"train/b/{n}.png" for n in range(12))]
    source = save_pictures(tmp_path / "in", *names, *(f"test/{c}/{n}.png" for c in "aab" for n in range(4)))
    made = convert(source, tmp_path / "out", splits="train:0.75,validation:0.25", balance="class")
    assert class_counts(made, "train+validation") == {"a": 12, "b": 12}
    assert class_counts(made, "test") == {"a": 4, "b": 4}


def test_a_class_without_images_in_a_split_is_told(tmp_path, capsys):
    names = ["train/a/1.png", "train/b/2.png", "val/a/3.png", "val/c/4.png"]
    source = save_pictures(tmp_path / "in", *names)
    save(source / "val/b/5.png", b"text")
    convert(source, tmp_path / "out")
    said = capsys.readouterr().err
    assert re.search("WARNING: the train split .*'c'", said)
    assert re.search("WARNING: the validation split .*'b'", said)
    assert "'a'" not in said


def test_masks_are_left_out_when_it_is_asked_for(tmp_path, capsys):
    names = [
        f"{c}/{f}/{c}-{n}.png" for c in ("covid", "normal") for f in ("images", "masks") for n in range(4)
    ]
    source = save_pictures(tmp_path / "in", *names)
    with pytest.raises(UsageError, match="folder 'masks' .*--exclude_folders=masks"):
        convert(source, tmp_path / "out")
    made = convert(source, tmp_path / "out", exclude_folders=("masks",))
    assert {fields.id.split("/")[1] for _, fields in fields_of(made)} == {"images"}
    assert (made.source_counts["discovered"], made.source_counts["excluded"], made.records) == (16, 8, 8)
    assert {entry.reason for entry in read_quarantine(made.directory)} == {"excluded"}
    assert convert(source, tmp_path / "all", exclude_folders=("none",)).records == 16
    capsys.readouterr()
    save_pictures(tmp_path / "two", *(name.replace("masks", "lungs") for name in names))
    convert(tmp_path / "two", tmp_path / "told")
    assert re.search("WARNING: .*'images' and 'lungs'", capsys.readouterr().err)


def test_mask_files_are_left_out_when_it_is_asked_for(tmp_path):
    source = save_pictures(
        tmp_path / "in", *(f"{c}/{n}{m}.png" for c in "ab" for n in (1, 2) for m in ("", "_mask"))
    )
    with pytest.raises(UsageError, match="4 files .*masks"):
        convert(source, tmp_path / "out")
    lines = [f"in/{c}/{n}{m}.png,{c}" for c in "ab" for n in (1, 2) for m in ("", "_mask")]
    listed = save(tmp_path / "list.csv", "\n".join(["path,label", *lines]).encode())
    with pytest.raises(UsageError, match="4 files .*masks"):
        convert(listed, tmp_path / "out")
    made = convert(source, tmp_path / "out", exclude_files=("*_mask*",))
    assert (made.records, made.source_counts["excluded"]) == (4, 4)
    with pytest.raises(UsageError, match="--exclude_files=.*mask.jpg"):
        convert(source, tmp_path / "out", exclude_files=("*_mask.jpg",))


def test_splits_of_the_source_that_are_put_together_are_said(tmp_path, capsys):
    source = save_pictures(
        tmp_path / "in", *(f"{s}/{c}/{n}.png" for s in ("val", "test") for c in "ab" for n in (1, 2))
    )
    made = convert(source, tmp_path / "out", splits="train:0.5,test:0.25,val:0.25")
    assert set(made.splits) == {"train", "validation", "test"}
    assert "(test, validation) are put together" in capsys.readouterr().err


def test_a_source_of_one_class_is_said(tmp_path, capsys):
    convert(save_pictures(tmp_path / "in", "chest/1.png", "chest/2.png"), tmp_path / "out")
    assert "one class, 'chest'" in capsys.readouterr().err


def test_links_are_followed_and_their_files_written(tmp_path):
    source = save_pictures(tmp_path / "in", "normal/1.png", "normal/2.png")
    save(tmp_path / "elsewhere/3.png", encoded(picture(3)))
    (source / "covid").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="covid .*link.*--follow_links="):
        convert(source, tmp_path / "out")
    made = convert(source, tmp_path / "out", follow_links=str(tmp_path))
    assert made.class_names == ("covid", "normal")
    assert made.records == 3


def test_home_is_home_and_a_wrong_layout_is_one_line(tmp_path):
    save_pictures(tmp_path / "in", "train/a/1.png", "train/b/2.png", "test/a/3.png")
    environment = {**os.environ, "HOME": str(tmp_path)}

    def command(*flags):
        line = [sys.executable, "-m", "tools.make_tfrecords", "--size=8", "--workers=0", "--noaudit", *flags]
        return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)

    made = command("--source=~/in", "--output=~/out", "--log_json=~/log.jsonl")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "out/manifest.json").exists()
    assert (tmp_path / "log.jsonl").exists()
    save_pictures(tmp_path / "in", "covid/4.png")
    refused = command("--source=~/in", "--output=~/other")
    assert refused.returncode == 2
    (line,) = refused.stderr.strip().splitlines()
    assert "'covid'" in line
    assert "--exclude_folders=covid" in line


@pytest.mark.parametrize(("memory_gb", "is_warned"), [(1.0, False), (1e6, True)])
def test_more_memory_for_images_than_there_is_is_a_warning(tmp_path, capsys, memory_gb, is_warned):
    source = save_pictures(tmp_path / "in", "a/1.png", "b/2.png")
    made = convert(source, tmp_path / "out", image_memory_gb=memory_gb, splits="train:1")
    assert made.records == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "--image_memory_gb=" in line]
    assert bool(lines) is is_warned
    assert all("1 worker " in line for line in lines)
