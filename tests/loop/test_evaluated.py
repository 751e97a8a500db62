"""The state in which a run evaluates and keeps its model, and what it leaves of the training: nothing."""

import functools
import json
import logging

import keras
import numpy as np
import pytest
import tiny as tiny_runs
from runs import evaluated
from tiny import StopAfter, make_trainer, results, rows

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import read_manifest
from cxr_data.synthetic.sample import SampleConfig, make_sample
from cxr_train.engine.predict_step import PredictStep
from cxr_train.evaluation import text, wording
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.lifecycle.trained_run import load_run
from cxr_train.lifecycle.training import evaluate_best
from cxr_train.loop import trainer
from cxr_train.loop.stop import Stopped, StopRequest
from cxr_train.recipe.recipe import Recipe
from cxr_train.reporting.page import write_report
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_model import load_best_model, load_model

pytestmark = pytest.mark.usefixtures("tiny")
begin = functools.partial(make_trainer, dropout=0.3)
PRECISE = functools.partial(begin, batch_norm_statistics="precise")


def kept_model(run_dir) -> keras.Model:
    return load_model(run_dir / "last.keras")


def norm(model: keras.Model) -> keras.layers.BatchNormalization:
    return next(layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))


def reference(model: keras.Model, manifest, *, epoch: int, batch_size: int, batches: int):
    """Mean and variance of all that enters BatchNorm, of the first batches of an epoch."""
    before = keras.Model(model.input, norm(model).input)
    dataset = Pipeline(manifest).training_dataset("train", batch_size=batch_size, seed=0, epoch=epoch)
    items = list(dataset.as_numpy_iterator())[:batches]
    activations = np.concatenate([before(item["image"]).numpy() for item in items]).astype(np.float64)
    return activations.mean(axis=(0, 1, 2)), activations.var(axis=(0, 1, 2))


@pytest.mark.parametrize(
    ("strategy", "batches", "recipe"),
    [
        ("one", 2, Recipe(augment="all")),
        pytest.param("one", 100, Recipe(ema=0.5), marks=pytest.mark.ci),
        pytest.param("mirrored", 100, Recipe(ema=0.5, gradient_accumulation=2), marks=pytest.mark.ci),
    ],
)
def test_what_is_kept_holds_the_statistics_of_its_own_weights(manifest, tmp_path, strategy, recipe, batches):
    run = PRECISE(manifest, tmp_path, strategy=strategy, recipe=recipe, epochs=2, batch_norm_batches=batches)
    run.run(StopRequest())
    model = kept_model(tmp_path)
    mean, variance = reference(model, manifest, epoch=1, batch_size=4, batches=batches)
    np.testing.assert_allclose(norm(model).moving_mean.numpy(), mean, rtol=1e-4)
    np.testing.assert_allclose(norm(model).moving_variance.numpy(), variance, rtol=1e-4)
    found = evaluated(tmp_path, manifest, model, "validation", probe_images=0)
    row = rows(tmp_path)[-1]
    assert found["loss"] == pytest.approx(row["validation"]["loss"], rel=1e-5)
    assert row["train"]["initial_statistics_share"] is found["initial_statistics_share"] is None


def test_no_more_images_are_evaluated_at_once_than_are_trained_at_once(manifest, tmp_path, monkeypatch):
    """A device may have memory for a micro-batch, and not for all of a batch."""
    at_once = set()

    def predict(_: PredictStep, batch: dict) -> np.ndarray:
        at_once.add(len(batch["image"]))
        return np.zeros([len(batch["image"]), 3], np.float32)

    monkeypatch.setattr(PredictStep, "__call__", predict)
    recipe = Recipe(gradient_accumulation=2)
    run = begin(manifest, tmp_path, recipe=recipe, batch_size=6, epochs=1, batch_norm_statistics="moving")
    run.checkpoints.step.assign(3)  # as if all steps of the epoch had been taken
    run.checkpoints.sums.assign([1, 1, 1])
    run.run(StopRequest())
    assert at_once == {3}
    config = TrainConfig.load(tmp_path / "config.json")
    evaluate_best(config, Pipeline(manifest), run.placement, StopRequest())
    load_run(tmp_path).evaluate("train", options=EvaluationOptions(probe_images=2))
    assert at_once == {3}


@pytest.mark.parametrize("strategy", ["mirrored", pytest.param("one", marks=pytest.mark.ci)])
def test_training_goes_on_as_without_them(manifest, tmp_path, strategy):
    states = []
    for statistics in ("moving", "precise"):
        changes = {"batch_norm_statistics": statistics, "strategy": strategy, "epochs": 2}
        run = begin(manifest, tmp_path / statistics, **changes)
        run.run(StopRequest())
        training = run.training
        state = [*run.model.variables, *training.optimizer.variables]
        states.append([*(variable.numpy() for variable in state), training.replica_values.read()])
    for moving, precise in zip(*states, strict=True):
        np.testing.assert_array_equal(moving, precise)
    losses = [[row["train"]["loss"] for row in rows(tmp_path / name)] for name in ("moving", "precise")]
    assert losses[0] == losses[1]
    assert rows(tmp_path / "moving")[0]["validation"] != rows(tmp_path / "precise")[0]["validation"]


@pytest.fixture(scope="module")
def whole(manifest, tiny, tmp_path_factory):
    """The directory of a run that was never stopped."""
    directory = tmp_path_factory.mktemp("whole")
    PRECISE(manifest, directory, batch_norm_batches=3).run(StopRequest())
    return directory


# A stop is asked for before each of the 5 steps, the 3 batches of the statistics and the 2 of validation.
@pytest.mark.parametrize(
    "calls", [5, *(pytest.param(calls, marks=pytest.mark.ci) for calls in (4, 7, 8, 17))]
)
def test_a_run_stopped_while_they_are_measured_goes_on_bit_for_bit(
    manifest, tmp_path, monkeypatch, whole, calls
):
    monkeypatch.setattr(trainer, "MOST_STEPS_PER_CALL", 1)
    with pytest.raises(Stopped):
        PRECISE(manifest, tmp_path / "parts", batch_norm_batches=3).run(StopAfter(calls))
    resumed = PRECISE(manifest, tmp_path / "parts", batch_norm_batches=3)
    resumed.resume()
    resumed.run(StopRequest())
    assert results(tmp_path / "parts") == results(whole)
    for model in ("last", "best"):
        kept = [
            keras.saving.load_model(directory / f"{model}.keras", compile=False).get_weights()
            for directory in (tmp_path / "parts", whole)
        ]
        for value, expected in zip(*kept, strict=True):
            np.testing.assert_array_equal(value, expected)


def test_a_data_service_is_not_asked_for_them(manifest):
    """None answers at this address."""
    served = Pipeline(manifest, ReadOptions(data_service="grpc://127.0.0.1:1"))
    streamed = Pipeline(manifest, ReadOptions(reader="stream"))
    batches = [
        list(pipeline.training_sample("train", batch_size=4, seed=0, epoch=2, batches=3).as_numpy_iterator())
        for pipeline in (served, streamed, streamed)
    ]
    assert [len(each) for each in batches] == [3, 3, 3]
    for here, there, again in zip(*batches, strict=True):
        np.testing.assert_array_equal(here["index"], there["index"])
        np.testing.assert_array_equal(again["index"], there["index"])


def test_moving_statistics_that_remember_their_start_are_said_where_numbers_are(manifest, tmp_path, caplog):
    run = begin(manifest, tmp_path, batch_norm_statistics="moving")
    with caplog.at_level(logging.INFO, "cxr_train"):
        run.run(StopRequest())
    shares = [row["train"]["initial_statistics_share"] for row in rows(tmp_path)]
    np.testing.assert_allclose(shares, [0.99**5, 0.99**10])
    for share in shares:
        (line,) = wording.initial_statistics(share)
        assert f"{share:.0%}" in line
        assert "--batch_norm_statistics=precise" in line
    said = " ".join(" ".join(caplog.messages).split())
    assert wording.initial_statistics(shares[0])[0] in said
    assert said.count("BatchNorm's moving") == 1
    best = int(run.checkpoints.best_epoch.numpy())
    found = evaluated(tmp_path, manifest, load_best_model(tmp_path), "validation", probe_images=0)
    assert found["initial_statistics_share"] == shares[best - 1]
    (line,) = wording.initial_statistics(shares[best - 1])
    assert line in " ".join(text.evaluation_table(found).split())
    assert line in write_report(tmp_path).read_text().replace("&#39;", "'")


def test_layers_that_are_freed_late_remember_more(manifest, tmp_path):
    recipe = Recipe(freeze="backbone", unfreeze_at_epoch=2, gradient_accumulation=2)
    run = begin(manifest, tmp_path, batch_norm_statistics="moving", recipe=recipe)
    run.run(StopRequest())
    shares = [row["train"]["initial_statistics_share"] for row in rows(tmp_path)]
    np.testing.assert_allclose(shares, [0, 0.99**10])


@pytest.mark.parametrize(("share", "lines"), [(None, 0), (0.0, 0), (0.01, 0), (0.02, 1), (1.0, 1)])
def test_a_start_that_is_nearly_forgotten_is_not_said(share, lines):
    assert len(wording.initial_statistics(share)) == lines


def test_a_run_of_before_had_moving_ones_and_may_go_on_with_either(manifest, tmp_path):
    PRECISE(manifest, tmp_path)
    path = tmp_path / "config.json"
    config = TrainConfig.load(path)
    values = json.loads(path.read_text())
    for name in ("batch_norm_statistics", "batch_norm_batches"):
        del values[name]
    path.write_text(json.dumps(values))
    before = TrainConfig.load(path)
    assert before.batch_norm_statistics == "moving"
    assert before.what_decides_the_result() == config.what_decides_the_result()


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """The sample of `make demo`, with half as many images, and smaller: 96 to train on, 24 to validate."""
    directory = tmp_path_factory.mktemp("synthetic")
    make_sample(SampleConfig(output=directory / "images", images=120, sizes=(64,)))
    shards = str(directory / "shards")
    make_tfrecords(
        SharderConfig(str(directory / "images"), shards, size=32, splits="folders", workers=0, audit=False)
    )
    return read_manifest(shards)


def deep(*, include_top, weights, input_tensor) -> keras.Model:
    """Three times convolution and BatchNorm, as deep as 32 pixels go."""
    x = input_tensor
    for width in (8, 16, 32):
        x = keras.layers.Conv2D(width, 3, strides=2, use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    return keras.Model(input_tensor, x)


@pytest.mark.parametrize("statistics", ["precise", pytest.param("moving", marks=pytest.mark.ci)])
def test_a_short_run_from_random_weights_validates_as_it_trains_or_says_why_not(
    synthetic, tmp_path, caplog, statistics
):
    changes = {"backbone": "deep", "head": (), "epochs": 3, "batch_norm_statistics": statistics}
    with tiny_runs.registered("deep", deep), caplog.at_level(logging.INFO, "cxr_train"):
        make_trainer(synthetic, tmp_path, **changes).run(StopRequest())
    last = rows(tmp_path)[-1]
    trained, validated = last["train"]["accuracy"], last["validation"]["accuracy"]
    said = [line for line in caplog.messages if "--batch_norm_statistics" in line]
    assert trained > 0.45  # a third is chance
    if statistics == "precise":
        assert validated > trained - 0.1
        assert not said
    else:
        assert len(said) == 1  # below the first row
