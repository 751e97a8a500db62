"""`python -m cxr_train.ablate`: wrong command lines, one run, and the study's grid killed and resumed."""

import csv
import json
import os
import signal
import subprocess
import sys

import pytest
from command_lines import answers_of
from project import ROOT
from shards import random_images, write_shards
from waiting import SECONDS, wait_until

from cxr_train.ablation.grid import study_grid

GRID = {
    "plain": {"backbone": "vgg16"},
    "dropout": {"backbone": "vgg16", "head": "8", "dropout": 0.5, "dropout_after": "head_1"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards of 32 and 40 px, and a grid file."""
    root = tmp_path_factory.mktemp("data")
    for size in (32, 40):
        splits = {"train": random_images(8, size), "validation": random_images(6, size, seed=1)}
        splits["test"] = random_images(5, size, seed=2)
        write_shards(root / f"px{size}", splits)
    (root / "grid.json").write_text(json.dumps(GRID))
    return root


@pytest.fixture(scope="module")
def answers(data, tmp_path_factory):
    """What one process says to several command lines, by name."""
    fixed = [f"--data={data}/px32", f"--run_dir={tmp_path_factory.mktemp('runs')}/grid", "--dry_run"]
    own = [*fixed, f"--grid={data}/grid.json", "--batch_size=4"]
    odd = data / "odd.json"
    odd.write_text(json.dumps({"a": {"backbone": "vgg16", "depth": 3}}))
    twice = data / "twice.json"
    twice.write_text(json.dumps({"a": {"backbone": "vgg16"}, "b": {"backbone": "vgg16", "head": "128-32"}}))
    small = data / "small.json"
    small.write_text(json.dumps({"a": {"backbone": "vgg16"}, "b": {"backbone": "inception_v3"}}))
    trained = data / "trained.json"
    trained.write_text(json.dumps({"a": GRID["plain"], "b": {**GRID["plain"], "train_split": "train+test"}}))
    wrong = data / "wrong.json"
    wrong.write_text(json.dumps({"a": {"dropout": 1.5}}))
    lines = {
        "study": [*fixed, "--sizes=32,40", f"--data={data}/px{{size}}", "--tflops=1", "--backbone=vgg16"],
        "own": [*own, "--tflops=1", "--epochs=3", "--seeds=0,7"],
        "no rate": own,
        "folds": [*own, "--epochs=1", "--folds=3"],
        "one fold": [*own, "--folds=1"],
        "a fold too": [*own, "--folds=3", "--fold=1of3"],
        "split of folds": [*own, "--folds=3", "--split=validation"],
        "batch": [*own, "--batch_size=9"],
        "unknown flag": [*fixed, f"--grid={odd}"],
        "same run": [*fixed, "--batch_size=4", f"--grid={twice}"],
        "wrong value": [*fixed, f"--grid={wrong}"],
        "varied": [*own, "--head=16"],
        "baseline": [*own, "--baseline=none"],
        "split": [*own, "--split=train"],
        "no predictions": [*own, "--split=test@only=nih"],
        "trained on by one": [*fixed, "--batch_size=4", f"--grid={trained}", "--split=test"],
        "small": [*fixed, "--batch_size=4", f"--grid={small}"],
        "seeds": [*own, "--seeds=1,1"],
        "resume": [*own, "--resume"],
        "sizes": [*own, "--sizes=32"],
        "no data": own[1:],
        "remote": [*own, "--run_dir=s3://bucket/grid"],
        "remote grid": [*own, "--grid=s3://bucket/grid.json"],
        "a file": [*own, f"--run_dir={odd}/grid"],
    }
    return answers_of("cxr_train.ablate", lines)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("study", "--backbone=vgg16: "),
        ("unknown flag", "run 'a': --depth "),
        ("same run", "--grid: a and b "),
        ("wrong value", "run 'a': --dropout=1.5: "),
        ("batch", "run 'plain': --batch_size=9: "),
        ("varied", "--head=16: "),
        ("baseline", "--baseline=none: "),
        ("split", "--split=train: "),
        ("no predictions", "--split=test@only=nih: "),
        ("trained on by one", "--split=test: "),
        ("small", "run 'b': --image_size=32: "),
        ("seeds", "--seeds=1,1: "),
        ("one fold", "--folds=1: "),
        ("a fold too", "--fold=1of3: "),
        ("split of folds", "--split=validation: "),
        ("resume", "--resume: "),
        ("sizes", "--sizes: "),
        ("no data", "--data"),
        ("remote", "--run_dir=s3://bucket/grid"),
        ("remote grid", "--grid=s3://bucket/grid.json"),
        ("a file", "odd.json/grid"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(answers, line, message):
    assert answers[line]["code"] == 2
    assert answers[line]["errors"].startswith("ablate: error: ")
    assert message in answers[line]["errors"]
    assert answers[line]["errors"].count("\n") == 1


def test_the_cost_is_told_before_anything_is_run(answers):
    told = answers["own"]
    assert told["code"] == 0, told["errors"]
    lines = told["out"].splitlines()
    runs = ["plain-seed0", "dropout-seed0", "plain-seed7", "dropout-seed7"]
    assert [line.split()[0] for line in lines[1:-1]] == runs
    assert lines[1].split()[1:5] == ["not", "begun", "24", "18"]
    *_, step, petaflop, hours = lines[1].split()
    assert float(petaflop) == pytest.approx((24 + 18 / 3) * float(step) * 1e-6, rel=0.02)
    assert float(hours) == pytest.approx(float(petaflop) * 1e15 / 1e12 / 3600, rel=0.02)
    assert "--tflops=1" in lines[-1]
    assert "--tflops=N" in answers["no rate"]["out"]


def test_every_configuration_is_run_on_each_fold(answers):
    told = answers["folds"]
    assert told["code"] == 0, told["errors"]
    runs = [line.split() for line in told["out"].splitlines()[1:-1]]
    assert [run[0] for run in runs] == [
        f"{name}-seed0-fold{fold}" for fold in (1, 2, 3) for name in ("plain", "dropout")
    ]
    # Of the 14 images of training and validation, two thirds are trained on, in whole batches of 4.
    assert runs[0][3:5] == ["8", "4"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cxr_train.ablate", *map(str, arguments)]


def finish(line: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=3 * SECONDS, check=False)


@pytest.mark.ci
def test_a_grid_of_one_run(data, tmp_path):
    (tmp_path / "grid.json").write_text(json.dumps({"only": {"backbone": "vgg16", "label_smoothing": 0.1}}))
    runs = tmp_path / "runs"
    line = command(f"--grid={tmp_path}/grid.json", f"--data={data}/px32", f"--run_dir={runs}", "--epochs=1")
    done = finish([*line, "--batch_size=4", "--weights=none", "--train_on=train+validation"])
    assert done.returncode == 0, done.stderr
    assert "14 training images" in done.stdout
    (row,) = json.loads((runs / "ablation.json").read_text())["rows"]
    assert (row["name"], row["status"], row["epochs"]) == ("only", "finished", 1)
    metrics = json.loads((runs / "only-seed0/metrics_test.json").read_text())
    assert row["accuracy"] == {"value": metrics["accuracy"], "interval": metrics["intervals"]["accuracy"]}
    assert "baseline" in (runs / "ablation.txt").read_text()
    # The estimate counts what the step that was traced computes.
    measured = json.loads((runs / "only-seed0/throughput.json").read_text())["flops_per_image"]
    assert float(done.stdout.splitlines()[1].split()[-3]) == pytest.approx(measured / 1e9, rel=0.01)
    assert "--label_smoothing=0.1\n" in (runs / "only-seed0/flags.txt").read_text()


@pytest.mark.slow
def test_the_study_killed_and_resumed(tmp_path):
    sizes = (75, 96)
    for size in sizes:
        splits = {"train": random_images(8, size), "validation": random_images(6, size, seed=1)}
        write_shards(tmp_path / f"px{size}", splits)
    runs = tmp_path / "runs"
    flags = ["--sizes=75,96", f"--data={tmp_path}/px{{size}}", f"--run_dir={runs}", "--epochs=1"]
    line = command("--grid=study", *flags, "--batch_size=4", "--weights=none", "--xla=off", "--resamples=100")
    killed = subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    names = [one.name for one in study_grid(sizes)]
    fifth = runs / f"{names[4]}-seed0"
    wait_until((fifth / "config.json").exists, killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    finished = {path: path.stat().st_mtime_ns for path in runs.glob("*/throughput.json")}
    assert len(finished) == 4

    resumed = finish([sys.executable, "-m", "cxr_train.ablate", f"--flagfile={runs}/flags.txt"])
    assert resumed.returncode == 0, resumed.stderr
    assert "[1 of 12] " in resumed.stdout
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    rows = json.loads((runs / "ablation.json").read_text())["rows"]
    assert [row["name"] for row in rows] == names
    assert {row["status"] for row in rows} == {"finished"}
    assert all(row["accuracy"]["value"] is not None for row in rows)
    assert [row["against_baseline"] is None for row in rows] == [True] + [False] * 15
    shown = list(csv.DictReader((runs / "ablation.csv").read_text().splitlines()))
    varied = ("backbone", "image_size", "head", "dropout", "dropout_after")
    expected = {
        (backbone, size, head, dropout, "pooling")
        for backbone in ("vgg16", "inception_v3")
        for size in ("75", "96")
        for head in ("128-32", "1024-1024")
        for dropout in ("0", "0.5")
    }
    for size in ("75", "96"):
        expected.remove(("vgg16", size, "1024-1024", "0.5", "pooling"))
        expected.add(("vgg16", size, "1024-1024", "0.5", "head_1"))
    assert {tuple(row[name] for name in varied) for row in shown} == expected
    assert len(shown) == 16
