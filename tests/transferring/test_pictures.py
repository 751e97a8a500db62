"""Methods that need pictures: what their runs are, and a whole comparison that has them all in its tables."""

import csv
import json

import pytest
from in_process import run_command
from shards import random_images, write_shards

from cxr_train.runs.config import TrainConfig
from cxr_train.transferring.methods import METHODS
from cxr_train.transferring.plan import Budget, runs_without
from cxr_train.transferring.targets import find_targets

SOURCES = ("north", "south", "east", "west")  # not as many as classes, so that each has pictures of all
NAMES = ("erm", "prior_correction", "mixstyle", "fda", "adabn")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    counts = {"train": 144, "validation": 72, "test": 48}
    splits = {name: random_images(count, 32, seed=seed) for seed, (name, count) in enumerate(counts.items())}
    return write_shards(tmp_path_factory.mktemp("pictures"), splits, sources=SOURCES)


def test_adaptation_sees_what_is_tested_and_test_time_runs_are_those_of_the_baseline(manifest, tmp_path):
    def make_config(values):
        return TrainConfig(backbone="mobilenet_v2", data=values["data"], run_dir=values["run_dir"])

    methods = [method for method in METHODS if method.name in NAMES and method.name != "prior_correction"]
    budget = Budget(2, [0, 1], {"epochs": "3"})
    for target in find_targets(manifest, "train", "validation", "test"):
        runs = runs_without(make_config, budget, methods, target, tmp_path, manifest)
        assert len(runs) == 16
        for run in runs:
            adapts = run.name == "fda"
            assert run.flags.get("fda_split") == (target.split if adapts else None)
            assert f"without={target.source}" in run.flags["train_split"]
            place = "erm" if run.name == "adabn" else run.name
            assert run.directory.name == f"{place}-draw{run.draw}-seed{run.flags['seed']}"
            options = [word for line in run.commands_left for word in line if "adapt_batch_norm" in word]
            assert len(options) == (run.name == "adabn")


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (["--backbone=convnext_tiny", "--methods=erm,adabn"], b"adabn"),
        (["--backbone=mobilenet_v2", "--methods=fda,erm"], b"fda"),
        (["--methods=erm"], b"--image_size=32: xception"),
    ],
)
def test_what_does_not_fit_the_pictures_is_refused(manifest, tmp_path, extra, named):
    line = [f"--data={manifest.directory}", f"--run_dir={tmp_path / 'runs'}", "--weights=none", *extra]
    done = run_command("cxr_train.transfer", *line, "--dry_run")
    assert done.code == 2
    assert named in done.stderr


def test_methods_that_nobody_named_are_left_out_with_a_note(manifest, tmp_path):
    line = [f"--data={manifest.directory}", f"--run_dir={tmp_path / 'runs'}", "--weights=none", "--draws=1"]
    found = {
        name: run_command("cxr_train.transfer", *line, "--seeds=0", f"--backbone={name}", "--dry_run").stdout
        for name in ("convnext_tiny", "mobilenet_v2")
    }
    assert b"left out: adabn" in found["convnext_tiny"]
    assert b"left out" not in found["mobilenet_v2"]


def test_several_findings_are_refused(tmp_path):
    write_shards(tmp_path / "data", {"train": random_images(8)}, findings=3, sources=SOURCES)
    line = [f"--data={tmp_path / 'data'}", f"--run_dir={tmp_path / 'runs'}", "--backbone=mobilenet_v2"]
    done = run_command("cxr_train.transfer", *line, "--weights=none")
    assert done.code == 2
    assert b"--data=" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.ci
def test_all_methods_stand_in_the_tables_of_their_kinds(manifest, tmp_path):
    line = [
        *(f"--data={manifest.directory}", f"--run_dir={tmp_path}", f"--methods={','.join(NAMES)}"),
        *("--backbone=mobilenet_v2", "--weights=none", "--draws=1", "--seeds=0", "--epochs=1"),
        *("--resamples=100", "--hold_out=south", "--stress=none"),
    ]
    done = run_command("cxr_train.transfer", *line)
    assert done.code == 0, done.output
    found = json.loads((tmp_path / "transfer.json").read_text())
    kinds = {
        kind: {row["method"]: row["runs"] for row in of_kind["rows"]}
        for kind, of_kind in found["tables"].items()
    }
    whole = {"finished": 1, "planned": 1}
    assert kinds == {
        "generalisation": {"erm": whole, "mixstyle": whole},
        "adaptation": {"erm": whole, "fda": whole},
        "test-time": {"erm": whole, "prior_correction": whole, "adabn": whole},
    }
    with (tmp_path / "transfer.csv").open() as file:
        areas = {line["method"]: line["auroc"] for line in csv.DictReader(file) if line["test"] == "held_out"}
    assert areas.keys() == {*NAMES}
    assert areas["adabn"] != areas["erm"]
    again = run_command("cxr_train.transfer", *line, "--dry_run")
    assert b"4 of 4 runs finished" in again.stdout.replace(b"\n", b" ")
