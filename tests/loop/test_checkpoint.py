"""Checkpoints with real damage: cut off, one bit flipped, files gone, killed while it saves."""

import hashlib
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from cxr_data.core.errors import CxrError, DataError
from cxr_train.loop import checkpoint
from cxr_train.loop.checkpoint import Checkpoints
from cxr_train.recipe.loss_scale import LossScale
from cxr_train.runs.monitor import Monitor


def make(directory, width: int = 2, keep: int = 3, optimizer=None) -> tuple[Checkpoints, keras.Model]:
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(width)])
    optimizer = optimizer or keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    checkpoints = Checkpoints(
        directory / "checkpoints",
        model,
        optimizer,
        LossScale(),
        monitor=Monitor("loss"),
        best_model=directory / "best.keras",
        keep=keep,
    )
    return checkpoints, model


def save_three(directory) -> None:
    """Three states: step, weights and best model are 1, 2, 3."""
    checkpoints, model = make(directory)
    for number in (1, 2, 3):
        checkpoints.step.assign(number)
        checkpoints.best.assign(number)
        model.set_weights([np.full_like(weight, number) for weight in model.get_weights()])
        aside = directory / "aside"
        aside.write_text(f"model {number}")
        aside.replace(directory / "best.keras")
        checkpoints.save()


def cut(path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


def remove(path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [cut, flip, remove])
@pytest.mark.parametrize("name", ["state.data-00000-of-00001", "state.index", "SHA256SUMS"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, name, damage):
    save_three(tmp_path)
    damage(tmp_path / "checkpoints/ckpt-00003" / name)
    checkpoints, model = make(tmp_path)
    (warning,) = checkpoints.restore()
    assert "ckpt-00003" in warning
    # With one digest changed, it is the file that seems to be.
    assert name in warning or "SHA256SUMS" in warning or damage is flip
    assert checkpoints.position == (0, 2)
    assert all((weight == 2).all() for weight in model.get_weights())
    assert (tmp_path / "best.keras").read_text() == "model 2"
    assert checkpoints.save().name == "ckpt-00004"
    assert make(tmp_path)[0].restore() == []


def test_with_every_checkpoint_damaged_the_run_says_so(tmp_path):
    save_three(tmp_path)
    for path in (tmp_path / "checkpoints").glob("*/state.index"):
        flip(path)
    with pytest.raises(DataError, match=r"ckpt-00003 .*ckpt-00001.*--run_dir"):
        make(tmp_path)[0].restore()


def test_without_its_best_model_a_state_is_still_good(tmp_path):
    save_three(tmp_path)
    flip(tmp_path / "checkpoints/ckpt-00003/best.keras")
    checkpoints, model = make(tmp_path)
    (warning,) = checkpoints.restore()
    assert "ckpt-00003: best.keras" in warning
    assert checkpoints.position == (0, 3)
    assert checkpoints.best.numpy() == np.inf
    assert not (tmp_path / "best.keras").exists()
    assert all((weight == 3).all() for weight in model.get_weights())


def test_another_network_is_no_damage(tmp_path):
    save_three(tmp_path)
    with pytest.raises(DataError, match="ckpt-00003: "):
        make(tmp_path, width=5)[0].restore()


def test_the_newest_three_stay(tmp_path):
    save_three(tmp_path)
    checkpoints, _ = make(tmp_path)
    checkpoints.save()
    checkpoints.save()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "ckpt-00003",
        "ckpt-00004",
        "ckpt-00005",
    ]


def test_of_a_run_that_has_ended_the_newest_state_stays_and_is_gone_on_from(tmp_path):
    save_three(tmp_path)
    make(tmp_path)[0].drop_older()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["ckpt-00003"]
    checkpoints, model = make(tmp_path)
    assert checkpoints.restore() == []
    assert checkpoints.position == (0, 3)
    assert all((weight == 3).all() for weight in model.get_weights())
    assert checkpoints.save().name == "ckpt-00004"
    make(tmp_path / "none")[0].drop_older()  # a run without any


def test_no_state_is_dropped_for_a_damaged_one(tmp_path):
    save_three(tmp_path)
    flip(tmp_path / "checkpoints/ckpt-00003/state.index")
    make(tmp_path)[0].drop_older()
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3
    assert "ckpt-00003" in make(tmp_path)[0].restore()[0]


def test_a_full_disk_is_one_clear_line_and_costs_no_earlier_state(tmp_path, monkeypatch):
    save_three(tmp_path)
    checkpoints, _ = make(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "publish", full)
    with pytest.raises(CxrError, match=r"ckpt-00004: .*Errno 28.*ckpt-00003"):
        checkpoints.save()
    assert make(tmp_path)[0].restore() == []


# Saves for ever; each state is 4 MB, so that a kill finds most of them half written.
SAVE_FOR_EVER = """
import sys, tensorflow as tf
from cxr_train.loop.checkpoint import Checkpoints
from cxr_train.runs.monitor import Monitor
from cxr_train.recipe.loss_scale import LossScale
import keras, pathlib
directory = pathlib.Path(sys.argv[1])
model = keras.Sequential([keras.Input([1000]), keras.layers.Dense(1000)])
optimizer = keras.optimizers.SGD()
optimizer.build(model.trainable_variables)
checkpoints = Checkpoints(directory / "checkpoints", model, optimizer, LossScale(),
                          monitor=Monitor("loss"), best_model=directory / "best.keras")
print(checkpoints.restore(), checkpoints.position, flush=True)
while True:
    checkpoints.step.assign_add(1)
    model.layers[0].kernel.assign(tf.fill([1000, 1000], float(checkpoints.step)))
    checkpoints.save()
    print("saved", int(checkpoints.step), flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_last_state_saved_is_whole(tmp_path):
    saved = 0
    for round_ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        lines = process.stdout
        restored = lines.readline()
        assert restored.startswith("[] "), restored
        # One more may have been renamed than was told.
        assert int(restored.split(", ")[1].rstrip(")\n")) in (saved, saved + 1)
        for _ in range(5 + round_):
            line = lines.readline()
        process.send_signal(signal.SIGKILL)
        for later in lines:
            line = later
        saved = int(line.split()[1])
        process.wait()


def test_what_is_restored_goes_to_the_optimizer_too(tmp_path):
    saved, restored = keras.optimizers.Adam(), keras.optimizers.Adam()
    checkpoints, model = make(tmp_path, optimizer=saved)
    for variable in saved.variables:
        variable.assign(tf.ones_like(variable))
    checkpoints.save()
    make(tmp_path, optimizer=restored)[0].restore()
    assert all((variable.numpy() == 1).all() for variable in restored.variables)
    assert len(saved.variables) > 2 * len(model.trainable_variables)


def test_the_sums_of_somebody_else_open_no_other_file(tmp_path):
    """What they name may be a device that never ends, and what lies there a pipe that nobody writes to."""
    save_three(tmp_path)
    newest = tmp_path / "checkpoints/ckpt-00003"
    with (newest / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  /dev/zero\n")
    os.mkfifo(tmp_path / "checkpoints/ckpt-00002/pipe")
    warnings = make(tmp_path)[0].restore()
    assert ["/dev/zero" in warnings[0], "pipe" in warnings[1]] == [True, True]


@pytest.mark.parametrize("name", ["state.index", "state.data-00000-of-00001"])
def test_a_state_that_is_none_is_one_line(tmp_path, name):
    save_three(tmp_path)
    newest = tmp_path / "checkpoints/ckpt-00003"
    content = b"\x00\xff" * 200
    digest = hashlib.sha256(content).hexdigest()
    (newest / name).unlink()
    (newest / name).write_bytes(content)
    sums = (newest / "SHA256SUMS").read_text().splitlines()
    sums = [f"{digest}  {name}" if line.endswith(f"  {name}") else line for line in sums]
    (newest / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    with pytest.raises(DataError, match="ckpt-00003"):
        make(tmp_path)[0].restore()
