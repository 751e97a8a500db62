"""The benchmark of the trainer: what it times, that every way trains the same, and its arithmetic."""

import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from project import ROOT
from sharder_fixtures import encoded, save
from shards import random_images, write_shards

from cxr_data.core.errors import DataError
from cxr_train.engine.strategy import choose_placement
from cxr_train.loop.assemble import assemble_training
from cxr_train.runs.config import TrainConfig
from tools.bench import trainer, trainer_ways
from tools.bench.peers_data import convert
from tools.bench.process import Process
from tools.bench.trainer import (
    BARE,
    FREE,
    LOOP,
    LOOP_FINDINGS,
    LOOP_UINT8,
    STUDY,
    Way,
    make_rows,
    rows_to_text,
    verdicts,
)
from tools.bench.trainer_ways import Resident, Turn, file_batches, shard_batches, take_turns, train

FIT, FIT_8 = Way("fit"), Way("fit", steps_per_execution=8)
IMAGES, BATCH = 10, 4


pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of two grays each, the darker images of class a, and their shards."""
    folder = tmp_path_factory.mktemp("bench")
    for number in range(IMAGES):
        gray = np.full([40, 40], 20 * number, np.uint8)
        gray[:, 20:] += 10
        save(folder / f"images/{'ab'[number // 5]}/{number}.png", encoded(gray))
    (folder / "shards").mkdir()
    convert(folder / "images", folder / "shards", 16)
    return folder


def config_of(data, run_dir="") -> TrainConfig:
    return TrainConfig(
        "tiny", str(data), str(run_dir), epochs=1, batch_size=BATCH, weights="none", head=(4,),
        strategy="one", validation_split="train", learning_rate=1e-2,
    )  # fmt: skip


def placement():
    return choose_placement("one", "float32", "off")


# -- what is timed -----------------------------------------------------------------------------


def test_first_calls_are_not_timed(monkeypatch):
    now, answers, orders = [0.0], [], [True, True, False]
    monkeypatch.setattr(trainer_ways.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(trainer_ways.time, "process_time", lambda: 2 * now[0])
    turns = take_turns(5, lambda: orders.pop(0), answers.append)
    wanted = [next(turns)]
    for done in itertools.count(3, 3):  # a way that takes three steps a call, one second each
        now[0] = float(done)
        try:
            wanted.append(turns.send(done))
        except StopIteration:
            break
    # Calls: compilation; then twice one that is not timed, and two of three steps.
    assert answers == [None, Turn(6, 6.0, 12.0), Turn(6, 6.0, 12.0)]
    assert wanted == [1, 1, 5, 2, 1, 5, 2]


@pytest.mark.parametrize(
    "way",
    [
        *(BARE, LOOP, FIT, STUDY),
        *(pytest.param(way, marks=pytest.mark.ci) for way in (FREE, FIT_8)),
    ],
    ids=lambda way: f"{way.kind}",
)
def test_every_way_takes_its_turns_and_ends(way, folder, tmp_path):
    answers, orders = [], [True, True, False]
    turns = take_turns(3, lambda: orders.pop(0), answers.append)
    train(way, config_of(folder / "shards", tmp_path), placement(), str(folder / "images"), turns)
    assert orders == []
    assert len(answers) == 3
    for turn in answers[1:]:
        assert turn.steps >= 3
        assert turn.seconds > 0


# -- what is trained ---------------------------------------------------------------------------


def test_the_bare_step_is_the_trainers_on_a_batch_that_stays(tmp_path):
    manifest = write_shards(tmp_path, {"train": random_images(BATCH)})
    config = config_of(tmp_path)
    batch = {
        "image": tf.constant(random_images(BATCH)),
        "label": tf.constant([0, 1, 2, 0]),
        "weight": tf.ones([BATCH]),
    }
    losses = []
    for iterator in (Resident(batch), iter(tf.data.Dataset.from_tensors(batch).repeat())):
        step = assemble_training(config, manifest, placement(), 1).step
        losses.append(np.concatenate([step(iterator, 1).loss, step(iterator, 5, 1).loss]))
        assert step.traces == {"step": 1, "gradients": 1}
    np.testing.assert_array_equal(losses[0], losses[1])
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("way", ["fit", "study"])
def test_fit_and_the_study_get_the_trainers_images(way, folder):
    manifest = trainer.read_manifest(str(folder / "shards"))
    config = config_of(folder / "shards")
    batches = {
        "fit": lambda: shard_batches(config, manifest),
        "study": lambda: file_batches(config, manifest, folder / "images"),
    }[way]()
    seen = set()
    for images, labels in itertools.islice(batches, 5):
        assert images.shape == (BATCH, 16, 16, 3)
        assert images.dtype == np.float32
        numbers = (np.asarray(images).mean(axis=(1, 2, 3)) * 255 - 5) / 20
        np.testing.assert_allclose(numbers, np.rint(numbers), atol=0.02)
        np.testing.assert_array_equal(labels, np.rint(numbers) >= 5)
        seen |= set(np.rint(numbers).astype(int))
    # Two epochs and a half, without their odd last batch.
    assert BATCH < len(seen) <= IMAGES


# -- arithmetic --------------------------------------------------------------------------------


def turn(rate):
    return Turn(2, 8 / rate, 4 / rate)


@pytest.fixture
def rows():
    turns = {
        BARE: [turn(10.0), turn(11.0), turn(10.0)],
        LOOP: [turn(9.9), turn(9.9), turn(9.9)],
        FIT: [turn(5.0), turn(5.0), turn(5.0)],
        FIT_8: [turn(11.0), turn(9.0), turn(10.0)],
    }
    return make_rows("tiny", 4, turns)


def test_a_ratio_is_the_median_of_those_within_a_round(rows):
    by_way = {row.way: row for row in rows}
    assert by_way[BARE].ratio == pytest.approx(0.99)
    assert by_way[BARE].ratios == pytest.approx((0.99, 0.9, 0.99))
    assert by_way[LOOP].rate == pytest.approx(9.9)
    assert by_way[LOOP].cpu_ms == pytest.approx(1e3 * 4 / 9.9 / 8)
    assert "0.990   0.900    0.990" in rows_to_text(rows).splitlines()[1]


def test_the_verdict_is_on_the_best_of_fits_settings(rows):
    (line,) = verdicts(rows)
    assert re.search(r"0\.990 of bare step, .*\(target 0\.98: reached\)", line)
    assert (
        "0.990 of model.fit, shards, steps_per_execution=8, jit_compile=False (target 1.00: MISSED)" in line
    )


def test_uint8_shards_are_compared_with_the_bare_step_within_a_round():
    turns = {
        BARE: [turn(10.0), turn(20.0), turn(10.0)],
        LOOP: [turn(9.0), turn(9.0), turn(9.0)],
        LOOP_UINT8: [turn(9.8), turn(20.0), turn(9.8)],
    }
    whole, on_uint8 = verdicts(make_rows("tiny", 4, turns))
    assert "uint8" not in whole
    assert "0.980" in on_uint8
    assert "MISSED" in on_uint8


# -- processes ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_process_that_fails_says_why(tmp_path):
    arguments = (LOOP, config_of(tmp_path / "no such place"), "", 1)
    process = Process("loop", trainer_ways.run_way, arguments, tmp_path / "log.txt")
    with pytest.raises(DataError, match="no such place"):
        process.wait_until_ready()


@pytest.mark.slow
def test_a_small_run_gives_every_row(tmp_path):
    flags = [
        *("--backbones=mobilenet_v2", "--images=12", "--image_size=64", "--steps=2", "--rounds=2"),
        *(f"--scratch={tmp_path}", f"--json={tmp_path / 'out.json'}"),
    ]
    command = [sys.executable, "-m", "tools.benchmark", "trainer", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())["results"]
    ways = [FREE, BARE, LOOP, LOOP_UINT8, LOOP_FINDINGS, FIT, FIT_8, STUDY]
    assert [Way(**row["way"]) for row in found] == ways
    assert all(len(row["rates"]) == 2 and row["images_per_second"] > 0 for row in found)
    assert "xla: off" in done.stdout
