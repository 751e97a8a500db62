"""A network that XLA cannot compile: auto goes on without it from the same batch, on says why not."""

import dataclasses
import logging
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from runs import make_run
from tiny import make_trainer, registered

from cxr_data.core.choice import Choice
from cxr_data.core.errors import CxrError
from cxr_data.input.pipeline import Pipeline
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import Placement, choose_placement
from cxr_train.engine.xla import go_on_uncompiled
from cxr_train.evaluation import evaluator
from cxr_train.inference import predictor
from cxr_train.inference.files import ImageFile
from cxr_train.loop.stop import StopRequest
from cxr_train.loop.trainer import Trainer


@keras.saving.register_keras_serializable("tests")
class ThroughText(keras.layers.Layer):
    """Adds 0, by way of an operation that no XLA backend has."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + 0 * tf.strings.to_number(tf.strings.as_string(tf.stop_gradient(x)))


def uncompilable(*, include_top, weights, input_tensor) -> keras.Model:
    x = keras.layers.Conv2D(2, 3)(ThroughText()(input_tensor))
    return keras.Model(input_tensor, keras.layers.BatchNormalization()(x))


@pytest.fixture(scope="module", autouse=True)
def network():
    with registered("text", uncompilable):
        yield


def trainer(manifest, run_dir, *, compile: bool, why: str = "") -> Trainer:
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    choices = (Choice("xla", "on" if compile else "off", why),)
    placement = Placement(strategy, "float32", compile, choices)
    return make_trainer(manifest, run_dir, placement, backbone="text", epochs=1, head=())


def test_auto_says_so_in_one_line_and_trains_on_the_same_batches(manifest, tmp_path, caplog):
    run = trainer(manifest, tmp_path / "auto", compile=True, why="a GPU gains from fusion")
    with caplog.at_level(logging.INFO, "cxr_train"):
        run.run(StopRequest())
    (line,) = [line for line in caplog.messages if line.startswith("xla: ")]
    assert re.match(r"xla: off \(auto: .*AsString", line)
    plain = trainer(manifest, tmp_path / "off", compile=False)
    plain.run(StopRequest())
    for variable, expected in zip(run.model.variables, plain.model.variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), expected.numpy())
    assert not run.placement.compile


def test_on_is_one_clear_line(manifest, tmp_path):
    with pytest.raises(CxrError, match="--xla=on: .*AsString.*--xla=auto") as caught:
        trainer(manifest, tmp_path / "on", compile=True).run(StopRequest())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [tf.errors.ResourceExhaustedError, tf.errors.InvalidArgumentError])
def test_another_error_stays_itself(kind):
    placement = Placement(tf.distribute.get_strategy(), "float32", True, (Choice("xla", "on", "a GPU"),))
    error = kind(None, None, "allocating 12 GB")
    with pytest.raises(kind, match="12 GB"):
        go_on_uncompiled(error, placement)


@pytest.fixture
def run_dir(manifest, tmp_path) -> pathlib.Path:
    """A run of which no backend of XLA can compile the best model."""
    make_run(tmp_path / "run", manifest)
    images = keras.Input((8, 8, 3), name="image")
    logits = keras.layers.Dense(3, name="logits")(keras.layers.Flatten()(ThroughText()(images)))
    keras.Model(images, logits).save(tmp_path / "run" / "best.keras")
    return tmp_path / "run"


def test_an_evaluation_goes_on_without_xla(manifest, run_dir, caplog):
    model = keras.saving.load_model(run_dir / "best.keras")
    found = []
    for placement in (
        choose_placement("one", "float32", "off"),
        Placement(
            tf.distribute.OneDeviceStrategy("/cpu:0"), "float32", True, (Choice("xla", "on", "a GPU"),)
        ),
    ):
        options = evaluator.EvaluationOptions(resamples=100)
        arguments = (run_dir, Pipeline(manifest), "validation", PredictStep(model, placement))
        with caplog.at_level(logging.INFO, "cxr_train"):
            found.append(evaluator.evaluate_split(*arguments, batch_size=2, options=options))
    assert found[0] == found[1]
    (line,) = [line for line in caplog.messages if line.startswith("xla: ")]
    assert re.match(r"xla: off \(auto: .*AsString", line)


def test_a_prediction_goes_on_without_xla(run_dir, capfd, caplog, monkeypatch):
    # The program itself saves no such layer, and refuses a file with one.
    model = keras.saving.load_model(run_dir / "best.keras")
    monkeypatch.setattr(predictor, "load_best_model", lambda _: model)
    Image.linear_gradient("L").save(run_dir / "x.png")
    files = [ImageFile("x.png", str(run_dir / "x.png"))]
    plain = predictor.predict_files(files, run_dir, xla="off")
    with pytest.raises(CxrError, match="--xla=on: .*AsString"):
        predictor.predict_files(files, run_dir, xla="on")

    def on_a_gpu(*arguments: str) -> Placement:
        chosen = dataclasses.replace(choose_placement(*arguments), compile=True)
        return dataclasses.replace(chosen, choices=(Choice("xla", "on", "a GPU gains from fusion"),))

    monkeypatch.setattr(predictor, "choose_placement", on_a_gpu)
    capfd.readouterr()
    with caplog.at_level(logging.INFO, "cxr_train"):
        assert predictor.predict_files(files, run_dir) == plain
    assert not capfd.readouterr().out  # the place of the table
    chosen, without = (line for line in caplog.messages if line.startswith("xla: "))
    assert chosen == "xla: on (auto: a GPU gains from fusion)"
    assert without.startswith("xla: off (auto: XLA cannot compile")
