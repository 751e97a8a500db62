"""`python -m cxr_train.search`: wrong command lines, what is said beforehand, and a search that is killed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from command_lines import answers_of
from project import ROOT
from shards import random_images, write_shards
from waiting import SECONDS, wait_until

from cxr_data.records.manifest import write_manifest

pytest.importorskip("optuna", reason="the extra [search] is not installed")
SPACE = {"head": ["", "8"], "dropout": [0, 0.5]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards of 32 and 80 px and some spaces; those of 80 px are large enough for every backbone."""
    root = tmp_path_factory.mktemp("data")
    for size in (32, 80):
        splits = {"train": random_images(12, size), "validation": random_images(9, size, seed=1)}
        write_shards(root / f"px{size}", {**splits, "test": random_images(9, size, seed=2)})
    draw, splits = np.random.default_rng(0), {"train": 24, "validation": 12, "test": 12}
    features = {split: draw.normal(size=[count, 1, 1, 6]) for split, count in splits.items()}
    embedded = write_shards(root / "embedded", {split: x.astype(np.float32) for split, x in features.items()})
    write_manifest(dataclasses.replace(embedded, embedding="an encoder", mean=(), std=()))
    spaces = {
        "space": SPACE,
        "odd": {"depth": [1, 2]},
        "wrong": {"dropout": [0.5, 1.5]},
        "pair": {"dropout_after": ["pooling", "head_1"], "dropout": [0, 0.5]},
        "epochs": {"epochs": [1, 2]},
        "ramp": {"domain_method": ["none", "dann"]},
        "far": {"dropout": {"low": 0, "high": 1.5}},
        "batches": {"batch_size": {"low": 4, "high": 8}},
        "whole": {"gradient_accumulation": {"low": 1, "high": 2}},
        "beside": {
            "head": ["8", ""],
            "dropout_after": ["pooling", "head_1"],
            "dropout": {"low": 0.2, "high": 0.5},
        },
        "metrics": {"monitor": ["loss", "accuracy"]},
        "others": {"validation_split": ["validation", "test"]},
        "trained": {"train_on": ["train", "train+test"]},
    }
    for name, space in spaces.items():
        (root / f"{name}.json").write_text(json.dumps(space))
    return root


@pytest.fixture(scope="module")
def answers(data, tmp_path_factory):
    """What one process says to several command lines, by name."""
    runs = tmp_path_factory.mktemp("runs")
    fixed = [f"--data={data}/px80", f"--run_dir={runs}/search", "--dry_run", "--batch_size=4"]
    own = [*fixed, f"--space={data}/space.json", "--epochs=9"]
    lines = {
        "own": [*own, "--trials=3", "--budget_epochs=20"],
        "default": [*fixed, "--trials=40"],
        "seeds": [*own, "--trials=3", "--seeds=0,1,2"],
        "other seed": [*own, "--trials=3", "--seeds=1", "--pruner=none"],
        "one of two sizes": [*fixed, f"--data={data}/px32,{data}/px80", "--image_size=80"],
        "fold": [*own, "--fold=1of3"],
        "unknown flag": [*fixed, f"--space={data}/odd.json"],
        "wrong value": [*fixed, f"--space={data}/wrong.json"],
        "wrong pair": [*fixed, f"--space={data}/pair.json"],
        "epochs": [*fixed, f"--space={data}/epochs.json"],
        "no file": [*fixed, f"--space={data}/none.json"],
        "both": [*own, "--head=16"],
        "schedule": [*own, "--schedule=cosine"],
        "ramp": [*fixed, "--balance_batches", f"--space={data}/ramp.json", "--epochs=9"],
        "rung": [*own, "--least_epochs=10"],
        "warm-up": [*own, "--warmup_epochs=1"],
        "trained on": [*own, "--train_split=train+validation"],
        "budget": [*own, "--budget_hours=0"],
        "resume": [*own, "--resume"],
        "remote": [*own, "--run_dir=s3://bucket/search"],
        "no data": own[1:],
        **{
            f"space of {name}": [*fixed, f"--space={data}/{name}.json"]
            for name in ("far", "whole", "beside", "metrics", "others", "trained")
        },
        "space of batches": [*fixed[:-1], f"--space={data}/batches.json"],
        "small": [*own, f"--data={data}/px32"],
        "no split": [*own, "--split=tset"],
        "no predictions": [*own, "--split=test@only=nih"],
        "no weights": [*own, "--weights=none.h5"],
    }
    answers = answers_of("cxr_train.search", lines)
    assert not list(runs.iterdir())
    return answers


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("unknown flag", "--depth "),
        ("wrong value", "--dropout=1.5: "),
        ("wrong pair", "--dropout_after=head_1: "),
        ("epochs", "--epochs"),
        ("no file", "none.json: "),
        ("both", "--head: "),
        ("schedule", "--schedule=cosine: "),
        ("ramp", "--domain_method=dann: "),
        ("rung", "--least_epochs=10: "),
        ("warm-up", "--warmup_epochs=1"),
        ("trained on", "--train_split"),
        ("budget", "--budget_hours=0.0: "),
        ("resume", "--resume: "),
        ("remote", "--run_dir=s3://bucket/search"),
        ("no data", "--data"),
        ("space of far", "--dropout=1.5: "),
        ("space of batches", "--batch_size "),
        ("space of whole", "--gradient_accumulation "),
        ("space of beside", "--dropout_after=head_1: "),
        ("space of metrics", "--monitor "),
        ("space of others", "--validation_split "),
        ("space of trained", "--train_on "),
        ("small", "--image_size=32: "),
        ("no predictions", "--split=test@only=nih: "),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(answers, line, message):
    assert answers[line]["code"] == 2, answers[line]
    assert answers[line]["errors"].startswith("search: error: ")
    assert message in answers[line]["errors"]
    assert answers[line]["errors"].count("\n") == 1


@pytest.mark.parametrize(("line", "message"), [("no split", "'tset'"), ("no weights", "--weights=none.h5: ")])
def test_what_is_not_there_is_one_line_and_exit_code_1(answers, line, message):
    assert answers[line]["code"] == 1, answers[line]
    assert message in answers[line]["errors"]
    assert answers[line]["errors"].count("\n") == 1


@pytest.mark.parametrize(
    ("line", "runs", "more"), [("own", 2, 8), ("seeds", 6, 2 * 18 + 8), ("other seed", 2, 18)]
)
def test_the_runs_of_the_comparison_are_planned_too(answers, line, runs, more):
    # The default's trial of the search's own seed goes on after its first epoch; the winner's has ended.
    assert answers[line]["code"] == 0, answers[line]["errors"]
    said = " ".join(answers[line]["out"].split())
    assert f"then {runs} runs" in said
    assert f"at most {more} epochs more" in said


def test_one_size_of_several_and_a_fold_can_be_searched_on(answers):
    for line in ("one of two sizes", "fold"):
        assert answers[line]["code"] == 0, answers[line]["errors"]
    assert "image_size" not in answers["one of two sizes"]["out"]


def test_what_can_be_spent_is_said_before_anything_is_trained(answers):
    said = answers["own"]
    assert said["code"] == 0, said["errors"]
    lines = " ".join(said["out"].split())
    for part in ("head: (none), 8", "dropout: 0, 0.5", "4 configurations", "1, 3, 9 epochs"):
        assert part in lines
    # Each of three trials takes one epoch, and the first all nine.
    for part in ("11 epochs", "27,", "20 epochs", "GFLOP"):
        assert part in lines
    assert "backbone: mobilenet_v2" in answers["default"]["out"]


def finish(line: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=3 * SECONDS, check=False)


@pytest.mark.slow
def test_a_search_that_is_killed_comes_to_the_same_table(data, tmp_path):
    def command(name: str) -> list[str]:
        flags = [f"--data={data}/embedded", f"--space={data}/space.json", f"--run_dir={tmp_path}/{name}"]
        flags += ["--trials=2", "--epochs=3", "--deterministic", "--backbone=none"]
        flags += ["--batch_size=4", "--resamples=100", "--save_minutes=0"]
        return [sys.executable, "-m", "cxr_train.search", *flags]

    killed = subprocess.Popen(
        command("killed"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until((tmp_path / "killed/trial-0001/config.json").exists, killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    for name in ("killed", "whole"):
        done = finish(command(name))
        assert done.returncode == 0, done.stderr
    tables = [json.loads((tmp_path / name / "search.json").read_text()) for name in ("killed", "whole")]
    for table in tables:
        assert table["winner"] is not None
        assert table["comparison"]["split"] == "test"
        assert all(row["accuracy"] for row in table["comparison"]["rows"])
        default = table["trials"][0]
        assert table["comparison"]["more_epochs"] == 3 - default["epochs"]
        for row in table["trials"]:
            hidden = 8 if row["flags"]["head"] else 0
            assert row["parameters"] == (6 * hidden + hidden + 3 * hidden + 3 if hidden else 6 * 3 + 3)
            assert row["flops"] == 2 * (6 * hidden + 3 * hidden if hidden else 6 * 3)
    kept = ("number", "flags", "status", "epochs", "rungs", "value", "parameters", "flops")
    rows = [[{name: row[name] for name in kept} for row in table["trials"]] for table in tables]
    assert rows[0] == rows[1]
    for name in ("search.html", "search.csv", "search.txt", "study.db"):
        assert (tmp_path / "whole" / name).exists()
