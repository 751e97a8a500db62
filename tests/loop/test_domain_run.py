"""Whole runs with a domain method: stopped and resumed bit for bit, its state in the checkpoint."""

import functools

import numpy as np
import pytest
from shards import random_images, write_shards
from tiny import StopAfter, make_trainer, results, train_whole

from cxr_data.core.errors import UsageError
from cxr_data.input.options import ReadOptions
from cxr_train.loop import trainer
from cxr_train.loop.stop import Stopped, StopRequest
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig

pytestmark = pytest.mark.usefixtures("tiny")
BALANCED = ReadOptions(balance_batches=True)


def recipe(method: str) -> Recipe:
    steps = {"domain_warmup_steps": 4} if method == "irm" else {}
    return Recipe(domain_method=method, ema=0.5, augment="brightness", **steps)


begin = functools.partial(make_trainer, batch_size=16, epochs=2, read=BALANCED, monitor="loss")


def write(directory, findings: int = 0):
    splits = {"train": random_images(48), "validation": random_images(12, seed=1)}
    return write_shards(directory, splits, findings=findings, sources=("nih", "guangzhou"))


def state(run) -> list[np.ndarray]:
    training = run.training
    values = [*run.model.variables, *training.optimizer.variables, *training.domain.state]
    return [value.numpy() for value in (*values, *training.average.averages)]


@pytest.mark.parametrize(
    ("method", "findings", "steps"),
    [
        ("dann", 0, 2),
        pytest.param("irm", 0, 5, marks=pytest.mark.ci),
        pytest.param("groupdro", 3, 2, marks=pytest.mark.ci),
        pytest.param("mixstyle", 0, 2, marks=pytest.mark.ci),
    ],
)
def test_a_run_stopped_within_an_epoch_ends_bit_for_bit_the_same(
    tmp_path, monkeypatch, method, findings, steps
):
    data = write(tmp_path / "data", findings)
    whole, _ = train_whole(begin, data, tmp_path / "whole", recipe=recipe(method))
    monkeypatch.setattr(trainer, "MOST_STEPS_PER_CALL", 1)
    with pytest.raises(Stopped):
        begin(data, tmp_path / "run", recipe=recipe(method)).run(StopAfter(steps))
    resumed = begin(data, tmp_path / "run", recipe=recipe(method))
    resumed.resume()
    resumed.run(StopRequest())
    for value, expected in zip(state(resumed), state(whole), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert results(tmp_path / "run") == results(tmp_path / "whole")


@pytest.mark.ci
def test_balanced_is_the_run_without_a_method(tmp_path):
    data = write(tmp_path / "data")
    plain, _ = train_whole(begin, data, tmp_path / "plain", recipe=Recipe())
    balanced, _ = train_whole(begin, data, tmp_path / "balanced", recipe=Recipe(domain_method="balanced"))
    for value, expected in zip(balanced.model.variables, plain.model.variables, strict=True):
        np.testing.assert_array_equal(value, expected)
    coral = begin(data, tmp_path / "coral", recipe=Recipe(domain_method="coral"))
    assert "penalty sees 16 images" in coral.describe()


def test_one_source_has_no_domains(tmp_path):
    one = write_shards(tmp_path / "one", {"train": random_images(16), "validation": random_images(4)})
    with pytest.raises(UsageError, match="--domain_method=coral: "):
        begin(one, tmp_path / "run", recipe=Recipe(domain_method="coral"))
    assert begin(one, tmp_path / "run", recipe=Recipe(domain_method="balanced")).training.domain


def test_a_run_adapts_to_images_of_another_source_and_goes_on_as_it_was(tmp_path, monkeypatch):
    data = write(tmp_path / "data")
    split = {"train_split": "train@only=nih", "validation_split": "validation@only=nih"}
    adapt = functools.partial(make_trainer, epochs=1, **split)
    plain, _ = train_whole(adapt, data, tmp_path / "plain")
    adapted = functools.partial(adapt, fda_split="train@only=guangzhou", fda_beta=0.2)
    whole, _ = train_whole(adapted, data, tmp_path / "whole")
    pairs = zip(whole.model.variables, plain.model.variables, strict=True)
    assert any((one.numpy() != other.numpy()).any() for one, other in pairs)
    monkeypatch.setattr(trainer, "MOST_STEPS_PER_CALL", 1)
    with pytest.raises(Stopped):
        adapted(data, tmp_path / "run").run(StopAfter(2))
    resumed = adapted(data, tmp_path / "run")
    resumed.resume()
    resumed.run(StopRequest())
    for value, expected in zip(resumed.model.variables, whole.model.variables, strict=True):
        np.testing.assert_array_equal(value.numpy(), expected.numpy())


@pytest.mark.parametrize("values", [{"fda_beta": 0.05}, {"fda_split": "train", "fda_beta": 0.5}], ids=str)
def test_an_adaptation_that_cannot_be_is_refused(values):
    with pytest.raises(UsageError, match="--fda_beta="):
        TrainConfig("xception", "data", "run", **values)


@pytest.mark.parametrize("method", ["coral", pytest.param("dann", marks=pytest.mark.ci)])
def test_where_the_backbone_is_frozen_the_features_are_those_of_the_head(tmp_path, method):
    data = write(tmp_path / "data")
    frozen = Recipe(domain_method=method, freeze="backbone")
    changes = {"epochs": 1, "head": (6, 5)}
    run, _ = train_whole(begin, data, tmp_path / "run", recipe=frozen, **changes)
    assert run.training.domain.feature_layer == "head_2"
    plain, _ = train_whole(begin, data, tmp_path / "plain", recipe=Recipe(freeze="backbone"), **changes)
    pairs = zip(run.model.get_layer("head_1").weights, plain.model.get_layer("head_1").weights, strict=True)
    assert any((one.numpy() != other.numpy()).any() for one, other in pairs)
    thawed = Recipe(domain_method=method, freeze="backbone", unfreeze_at_epoch=2)
    assert begin(data, tmp_path / "thawed", recipe=thawed).training.domain.feature_layer == "pooling"
    with pytest.raises(UsageError, match="--head=: .*coral"):
        begin(data, tmp_path / "none", recipe=frozen, head=())


@pytest.mark.ci
def test_micro_batches_need_not_be_balanced(tmp_path):
    """BatchNorm's statistics are of micro-batches, as in training: parts of balanced batches."""
    data = write(tmp_path / "data")
    micro = Recipe(domain_method="balanced", gradient_accumulation=2)
    run = begin(data, tmp_path / "run", recipe=micro, epochs=1, batch_norm_statistics="precise")
    run.run(StopRequest())
    assert len(results(tmp_path / "run")) == 1
