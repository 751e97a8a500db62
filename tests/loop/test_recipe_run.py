"""Whole runs with a recipe: stopped and resumed bit for bit, thawed with one more trace, averaged."""

import functools

import keras
import numpy as np
import pytest
from runs import evaluated
from tiny import StopAfter, make_trainer, rows, train_whole

from cxr_data.core.errors import UsageError
from cxr_train.loop import trainer
from cxr_train.loop.stop import Stopped, StopRequest
from cxr_train.loop.trainer import Trainer
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_model import load_best_model

STEPS = 5
EVERYTHING = Recipe(
    optimizer="adamw",
    weight_decay=0.01,
    schedule="cosine",
    warmup_epochs=0.5,
    clip_norm=1.0,
    gradient_accumulation=2,
    label_smoothing=0.1,
    class_weights="balanced",
    ema=0.9,
    freeze="backbone",
    unfreeze_at_epoch=2,
    backbone_rate_factor=0.1,
    augment="all",
)


pytestmark = pytest.mark.usefixtures("tiny")
begin = functools.partial(make_trainer, recipe=EVERYTHING, epochs=3)


@pytest.fixture(scope="module")
def whole(manifest, tiny, tmp_path_factory):
    return train_whole(begin, manifest, tmp_path_factory.mktemp("whole"))


def state(run: Trainer) -> list[np.ndarray]:
    training = run.training
    return [
        *(variable.numpy() for variable in (*run.model.variables, *training.optimizer.variables)),
        *(average.numpy() for average in training.average.averages),
    ]


@pytest.mark.parametrize(
    "steps", [STEPS + 2, *(pytest.param(steps, marks=pytest.mark.ci) for steps in (2, 2 * STEPS + 1))]
)
def test_a_run_stopped_before_and_after_the_unfreeze_ends_bit_for_bit_the_same(
    manifest, tmp_path, monkeypatch, whole, steps
):
    monkeypatch.setattr(trainer, "MOST_STEPS_PER_CALL", 1)
    with pytest.raises(Stopped):
        begin(manifest, tmp_path).run(StopAfter(steps))
    resumed = begin(manifest, tmp_path)
    resumed.resume()
    resumed.run(StopRequest())
    for value, expected in zip(state(resumed), state(whole[0]), strict=True):
        np.testing.assert_array_equal(value, expected)
    traces = 2 if steps < STEPS else 1
    assert resumed.train_step.traces == {"step": traces, "gradients": traces}


def frozen_values(run: Trainer) -> list[np.ndarray]:
    return [variable.numpy() for layer in run.training.frozen for variable in layer.variables]


def test_unfreezing_traces_once_more_and_starts_from_zero_moments(manifest, tmp_path, monkeypatch, whole):
    monkeypatch.setattr(trainer, "MOST_STEPS_PER_CALL", 1)
    frozen = begin(manifest, tmp_path)
    start = frozen_values(frozen)
    with pytest.raises(Stopped):
        frozen.run(StopAfter(STEPS + 1))  # in the evaluation of the first epoch
    head, backbone = frozen.training.optimizer.optimizers
    assert (int(head.iterations), int(backbone.iterations)) == (STEPS, 0)
    assert not any(variable.numpy().any() for variable in backbone.variables)
    for value, expected in zip(frozen_values(frozen), start, strict=True):
        np.testing.assert_array_equal(value, expected)

    thawed = whole[0]
    head, backbone = thawed.training.optimizer.optimizers
    assert (int(head.iterations), int(backbone.iterations)) == (3 * STEPS, 2 * STEPS)
    # It goes on at the schedule's present step, at its own factor.
    assert float(backbone.learning_rate) == pytest.approx(0.1 * float(head.learning_rate), abs=1e-9)
    assert thawed.train_step.traces == {"step": 2, "gradients": 2}
    moved = zip(frozen_values(thawed), start, strict=True)
    assert all((value != before).any() for value, before in moved)


def test_the_clock_leaves_out_one_step_a_compilation_and_counts_what_each_epoch_computes(
    manifest, tmp_path, whole
):
    thawed = whole[0]
    assert len(thawed.clock.step_seconds) == 3 * STEPS - 2
    frozen = begin(manifest, tmp_path)
    frozen.train_step(frozen.batches(), 1)
    of_frozen, of_thawed = (run.train_step.flops_per_image for run in (frozen, thawed))
    assert of_frozen < of_thawed
    assert thawed.clock.flops == 4 * ((STEPS - 1) * of_frozen + (2 * STEPS - 1) * of_thawed)


def test_the_averaged_weights_are_those_evaluated_and_kept(manifest, whole):
    run, directory = whole
    best = load_best_model(directory)
    summary = evaluated(directory, manifest, best, "validation", probe_images=0)
    losses = [row["validation"]["loss"] for row in rows(directory)]
    assert summary["loss"] == pytest.approx(min(losses), rel=1e-5)
    if losses[-1] == min(losses):
        averages = run.training.average.of([v.value for v in run.model.trainable_variables])
        for kept, average in zip(best.trainable_variables, averages, strict=True):
            np.testing.assert_array_equal(kept.numpy(), average.numpy())


def test_the_default_run_is_the_studys(manifest, tmp_path):
    run = begin(manifest, tmp_path, recipe=Recipe(), learning_rate=TrainConfig.learning_rate)
    (adam,) = run.training.optimizer.optimizers
    assert adam.get_config() == keras.optimizers.Adam(1e-4).get_config() | {"name": adam.name}
    assert len(run.model.trainable_variables) * 2 + 2 == len(run.training.optimizer.variables)
    assert run.training.average is None
    assert run.describe().count("\n") == 0


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            Recipe(gradient_accumulation=3),
            "--gradient_accumulation=3: --batch_size=4 ",
        ),
        (Recipe(class_weights="flu:2"), "'flu'.*covid, normal, pneumonia"),
        (Recipe(freeze="until:nothing"), "--freeze=until:nothing: "),
    ],
)
def test_what_does_not_fit_the_data_or_the_network_is_refused(manifest, tmp_path, recipe, message):
    with pytest.raises(UsageError, match=message):
        begin(manifest, tmp_path, recipe=recipe)


def test_what_the_recipe_came_to_is_said(manifest, tmp_path):
    lines = begin(manifest, tmp_path).describe().splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("class weights: covid 0.958, normal 0.958, pneumonia 1.095")
    assert lines[2].startswith("frozen: 3 of 6 layers, 128 parameters, until epoch 2")


def test_a_momentum_without_effect_is_said(manifest, tmp_path):
    run = begin(manifest, tmp_path, recipe=Recipe(freeze="backbone"), batch_norm_momentum=0.9)
    assert run.describe().splitlines()[-1].startswith("--batch_norm_momentum: ")
    run = begin(manifest, tmp_path, recipe=Recipe(), batch_norm_momentum=0.9)
    assert "--batch_norm_momentum" in run.describe().splitlines()[-1]
    run = begin(manifest, tmp_path, recipe=Recipe(), batch_norm_momentum=0.9, batch_norm_statistics="moving")
    assert "--batch_norm_momentum" not in run.describe()
