"""Grids: the study's sixteen runs, a user's own, and the shards that they share."""

import dataclasses
import json
import pathlib

import pytest
from shards import random_images, write_shards

from cxr_data.core.errors import DataError, UsageError
from cxr_data.records.manifest import read_manifest, write_manifest
from cxr_train.ablation.grid import (
    FlagSet,
    find_data,
    held_out_split,
    override,
    read_grid,
    study_grid,
    varied_flags,
)
from cxr_train.ablation.runner import GridRun
from cxr_train.models.network_flops import flops_per_image
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_dir import keep_run

# FACTS of the study: backbone, size, head, dropout rate and what it follows.
STUDY = {
    ("vgg16", "360", "128-32", "0", "pooling"),
    ("vgg16", "360", "128-32", "0.5", "pooling"),
    ("vgg16", "360", "1024-1024", "0", "pooling"),
    ("vgg16", "360", "1024-1024", "0.5", "head_1"),
    ("vgg16", "500", "128-32", "0", "pooling"),
    ("vgg16", "500", "128-32", "0.5", "pooling"),
    ("vgg16", "500", "1024-1024", "0", "pooling"),
    ("vgg16", "500", "1024-1024", "0.5", "head_1"),
    ("inception_v3", "360", "128-32", "0", "pooling"),
    ("inception_v3", "360", "128-32", "0.5", "pooling"),
    ("inception_v3", "360", "1024-1024", "0", "pooling"),
    ("inception_v3", "360", "1024-1024", "0.5", "pooling"),
    ("inception_v3", "500", "128-32", "0", "pooling"),
    ("inception_v3", "500", "128-32", "0.5", "pooling"),
    ("inception_v3", "500", "1024-1024", "0", "pooling"),
    ("inception_v3", "500", "1024-1024", "0.5", "pooling"),
}


FOLD = "train+validation+test@1of3"


def test_the_study_has_these_sixteen_runs():
    grid = study_grid()
    flags = ("backbone", "image_size", "head", "dropout", "dropout_after")
    assert len(grid) == len({one.name for one in grid}) == 16
    assert {tuple(one.flags[flag] for flag in flags) for one in grid} == STUDY
    assert {(one.flags["epochs"], one.flags["batch_size"]) for one in grid} == {("100", "32")}
    assert grid[0].name == "inception_v3-360-128-32"
    assert varied_flags(grid) == flags


def write(path: pathlib.Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_grid_of_ones_own(tmp_path):
    path = write(tmp_path / "grid.json", json.dumps({"a": {"head": "8", "explain": True}, "b": {"ema": 0.9}}))
    assert read_grid(path) == (FlagSet("a", {"head": "8", "explain": "true"}), FlagSet("b", {"ema": "0.9"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", '{"plain": {"dropout": 0}}'),
        ("{}", '{"plain": {"dropout": 0}}'),
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ('{"a": {}, "a": {}}', "run 'a' .*twice"),
        ('{"a": {"head": "8", "head": "9"}}', "run 'a': flag 'head' .*twice"),
        ('{"../a": {}}', "names a folder"),
        ('{"a": ["--head=8"]}', "run 'a': .*{\"dropout\": 0.5}"),
        ('{"a": {"head": [8, 8]}}', "run 'a': --head "),
        ('{"a": {"run_dir": "x"}}', "run 'a': --run_dir "),
    ],
)
def test_a_damaged_grid_is_named(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as raised:
        read_grid(write(tmp_path / "grid.json", text))
    assert "grid.json" in str(raised.value)


def test_a_grid_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"--grid=.*none\.json: No such file.*\bstudy\b"):
        read_grid(str(tmp_path / "none.json"))


def test_the_command_line_holds_for_all_runs_but_for_what_the_grid_varies():
    assert {one.flags["epochs"] for one in override(study_grid(), {"epochs": "3"})} == {"3"}
    with pytest.raises(UsageError, match="--head=8: "):
        override(study_grid(), {"head": "8"})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for size in (8, 10):
        write_shards(root / f"px{size}", {"train": random_images(6, size)})
    splits = ("train", "validation", "test")
    write_shards(root / "whole", {split: random_images(6, seed=seed) for seed, split in enumerate(splits)})
    other = write_shards(root / "px12", {"train": random_images(6, 12)})
    write_manifest(dataclasses.replace(other, inputs_hash="another"))
    return root


def sizes(*numbers: int) -> list[FlagSet]:
    return [FlagSet(f"at{number}", {"image_size": str(number)}) for number in numbers]


def test_each_size_has_its_shards(data):
    for given in (f"{data}/px{{size}}", f"{data}/px8,{data}/px10"):
        found = find_data(given, sizes(10, 8, 10))
        assert {size: manifest.size for size, manifest in found.items()} == {8: 8, 10: 10}
    assert list(find_data(f"{data}/px8", [FlagSet("any", {})])) == [8]


def test_shards_that_do_not_fit_are_named(data):
    with pytest.raises(UsageError, match=f"--data={data}/px8: .*10 px .*--output .*--size=10"):
        find_data(f"{data}/px8", sizes(8, 10))
    with pytest.raises(DataError, match="px9: .*--data="):
        find_data(f"{data}/px{{size}}", sizes(8, 9))
    with pytest.raises(UsageError, match="--data: .*px8 and .*px8 .*8 px"):
        find_data(f"{data}/px8,{data}/px8", sizes(8))
    with pytest.raises(UsageError, match="--data: .*px8 and .*px12 .*inputs_hash"):
        find_data(f"{data}/px{{size}}", sizes(8, 12))
    with pytest.raises(UsageError, match="--data=.*run 'any' .*--image_size"):
        find_data(f"{data}/px8,{data}/px10", [FlagSet("any", {})])
    with pytest.raises(UsageError, match="--data=.*px{size}: .*--image_size"):
        find_data(f"{data}/px{{size}}", [FlagSet("any", {})])
    with pytest.raises(UsageError, match="run .*--image_size=big "):
        find_data(f"{data}/px{{size}}", [FlagSet("any", {"image_size": "big"})])


@pytest.mark.parametrize(
    ("splits", "asked", "found"),
    [
        ([{}], None, "test"),
        ([{"train_split": "train+test"}], None, "validation"),
        ([{}, {"train_split": "train+test"}], None, "validation"),
        ([{"train_split": "train+test", "validation_split": "validation@only=nih"}], None, "validation"),
        ([{"train_split": "train+validation+test@not1of3", "validation_split": FOLD}], None, FOLD),
        ([{"validation_split": "validation@only=nih"}], "validation@only=nih", "validation@only=nih"),
    ],
)
def test_the_table_is_of_a_split_that_every_run_is_evaluated_on(data, splits, asked, found):
    configs = [TrainConfig("vgg16", "data", "run", weights="none", **each) for each in splits]
    assert held_out_split(read_manifest(str(data / "whole")), configs, asked) == found


@pytest.mark.parametrize(
    ("asked", "splits", "named"),
    [
        ("train", {}, "--split=train: .*validation, test"),
        ("test@only=nih", {}, "--split=test@only=nih: "),
        (None, {"train_split": "train+validation+test"}, "--train_split"),
    ],
)
def test_a_split_that_no_run_is_evaluated_on_is_refused(data, asked, splits, named):
    config = TrainConfig("vgg16", "data", "run", weights="none", **splits)
    with pytest.raises(UsageError, match=named):
        held_out_split(read_manifest(str(data / "whole")), [config], asked)


def test_a_run_is_finished_when_it_was_trained_to_this_end(tmp_path):
    config = TrainConfig("vgg16", "data", str(tmp_path / "a-seed0"), epochs=2, weights="none")
    run = GridRun("a", {"backbone": "vgg16"}, config)
    assert not run.is_begun
    assert not run.is_finished
    assert "--resume" not in run.command()
    run.directory.mkdir()
    config.save(run.directory / "config.json")
    assert run.is_begun
    assert not run.is_finished
    assert run.command()[-1] == "--resume"
    (run.directory / "throughput.json").write_text("{}")
    rows = "".join(json.dumps({"epoch": epoch, "train": {}, "validation": None}) + "\n" for epoch in (1, 2))
    (run.directory / "metrics.jsonl").write_text(rows + '{"epoch": 3, "tr')  # cut off by a crash
    assert run.is_finished
    assert run.epochs_done == 2
    longer = dataclasses.replace(run, config=dataclasses.replace(config, epochs=3))
    assert not longer.is_finished
    other = dataclasses.replace(run, config=dataclasses.replace(config, dropout=0.5))
    with pytest.raises(UsageError, match="a-seed0: .*--dropout=0.0, .*0.5"):
        assert not other.is_finished


def test_a_run_that_was_trained_on_other_records_of_the_same_place_is_refused(tmp_path):
    data = tmp_path / "data"
    write_shards(data, {"train": random_images(4)})
    config = TrainConfig("vgg16", str(data), str(tmp_path / "a-seed0"), epochs=2, weights="none")
    run = GridRun("a", {"backbone": "vgg16"}, config)
    run.directory.mkdir()
    keep_run(config, None, [])
    assert run.is_begun
    assert not run.is_finished
    write_shards(data, {"train": random_images(4, seed=1)})
    with pytest.raises(DataError, match="a-seed0: .*data"):
        GridRun("a", {"backbone": "vgg16"}, config).refuse_another()


def test_the_cost_of_vgg16_is_the_published_one():
    # 15.35e9 multiply-adds of convolutions at 224 px (Simonyan and Zisserman, 2015), and the head's.
    forward, step = flops_per_image("vgg16", 224, (128, 32), 3)
    head = 512 * 128 + 128 * 32 + 32 * 3
    assert forward == 2 * (15_346_630_656 + head)
    # The first convolution, 224 x 224 x 64 sums over 27, has no gradient of the image.
    assert step == 3 * forward - 2 * 224 * 224 * 64 * 27
