"""A run of somebody else, one that was moved, and one that a crash has torn: one line each."""

import json
import os

import pytest
from in_process import run_command
from shards import random_images, write_shards
from written_run import write_run

from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_train.flags.run_directory import refuse_flags_of_another_run
from cxr_train.loop.outputs import History
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_dir import check_resumed, keep_run, open_run_dir
from cxr_train.runs.saved_run import epoch_rows, find_best_model
from cxr_train.searching.ledger import Ledger
from cxr_train.workflow.plan import Plan


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"epochs": "3"}, "epochs"),
        ({"epochs": 0}, "epochs"),
        ({"backbone": "no such"}, "no such"),
        ({"backbone": 7}, "backbone"),
        ({"data": "a\0b"}, "data"),
        ({"data": None}, "data"),
        ({"head": ["x"]}, "head[0]"),
        ({"head": 128}, "head"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"read": None}, "read"),
        ({"read": {"worker": {"number": "0"}}}, "read.worker.number"),
        ({"recipe": {"ema": []}}, "recipe.ema"),
        ({"of a later version": 1}, "of a later version"),
    ],
)
def test_a_field_of_the_configuration(run, changes, field):
    path = run / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(DataError) as raised:
        TrainConfig.load(path)
    assert str(path) in str(raised.value)
    assert field in str(raised.value)


def test_a_configuration_does_not_say_where_its_run_lies(run):
    path = run / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "run_dir": "/somewhere/else"}))
    assert TrainConfig.load(path).run_dir == str(run)


def test_a_moved_run_goes_on_and_its_flags_say_how(tmp_path):
    began, moved = tmp_path / "began", tmp_path / "moved"
    data = write_shards(tmp_path / "data", {"train": random_images(5), "validation": random_images(3)})
    fixed = {"weights": "none"}
    began.mkdir()
    keep_run(TrainConfig("vgg16", data.directory, str(began), **fixed), f"--run_dir={began}\n", [])
    began.rename(moved)
    config = TrainConfig("vgg16", data.directory, str(moved), **fixed)
    check_resumed(config, open_run_dir(moved, resume=True))
    flagfile = f"--flagfile={moved / 'flags.txt'}"
    with pytest.raises(DataError, match=f"{moved}/flags.txt: --run_dir={began}: .*--run_dir={moved} "):
        refuse_flags_of_another_run([flagfile, "--resume"], str(began))
    with pytest.raises(DataError, match=f"--run_dir={began}: "):
        refuse_flags_of_another_run(["--flagfile", str(moved / "flags.txt"), "--resume"], str(began))
    refuse_flags_of_another_run([flagfile, f"--run_dir={moved}", "--resume"], str(moved))
    refuse_flags_of_another_run([flagfile, "--resume"], str(moved))


@pytest.mark.parametrize("command", ["ablate", "search", "transfer"])
def test_commands_that_start_runs_refuse_the_flags_of_a_moved_one(command, tmp_path):
    """They leave no configuration, but a lock."""
    flags = tmp_path / "flags.txt"
    flags.write_text(f"--data=nowhere\n--run_dir={tmp_path / 'began'}\n")
    (tmp_path / "lock").touch()
    done = run_command(f"cxr_train.{command}", f"--flagfile={flags}")
    assert done.code == 1
    assert f"--run_dir={tmp_path} " in done.output
    assert not (tmp_path / "began").exists()


def test_flags_that_lie_alone_may_name_any_directory(tmp_path):
    (tmp_path / "flags.txt").touch()
    refuse_flags_of_another_run([f"--flagfile={tmp_path / 'flags.txt'}"], "runs/new")


def test_of_a_torn_history_the_whole_rows_stay(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"epoch": epoch, "train": {}, "validation": None}) for epoch in (1, 2, 3)]
    path.write_text("\n".join([*rows, '{"epoch": 4, "tra']))
    (line,) = History(path).keep(3)
    assert f"{path}: line 4 " in line
    assert path.read_text().splitlines() == rows
    assert History(path).keep(2) == []
    assert [row["epoch"] for row in epoch_rows(path)[0]] == [1, 2]


def test_of_a_history_with_a_damaged_line_the_lost_epoch_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch": 1}\n\xff\xfe\n[[[\n{"epoch": 4}\n')
    (line,) = History(path).keep(4)
    assert "line 2, 3 " in line
    assert "epoch 2, 3" in line


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "3",
        '{"epoch": 0}',
        '{"epoch": 1, "train": {"loss": 1e308}, "validation": null}',
        '{"epoch": 1, "train": 3, "validation": null}',
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_row_is_left_out(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(line + "\n")
    assert epoch_rows(tmp_path / "metrics.jsonl") == ([], [1])


def test_without_its_best_model_a_run_says_what_to_do(run):
    with pytest.raises(DataError, match=r"best\.keras.*--resume"):
        find_best_model(run)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
@pytest.mark.parametrize("read", [TrainConfig.load, Plan.load, lambda path: Ledger(path, {})])
def test_a_pipe_or_a_device_in_the_place_of_what_was_started_is_one_line(tmp_path, make, read):
    make(tmp_path / "document")
    with pytest.raises(DataError, match="document"):
        read(tmp_path / "document")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_a_pipe_or_a_device_in_the_place_of_a_file_ends_nothing(tmp_path, make):
    make(tmp_path / "manifest.json")
    with pytest.raises(DataError, match="manifest.json"):
        storage.read_bytes(str(tmp_path / "manifest.json"))
