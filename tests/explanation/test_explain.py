"""Explaining a run, from its directory to explain.json and the pictures."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
from unittest import mock

import cv2
import explained_backbone
import keras
import numpy as np
import pytest
import tensorflow as tf
from in_process import run_command
from project import ROOT, assert_one_clear_line
from shards import CLASS_NAMES, labels_of, random_images, write_shards
from tiny import make_trainer, registered

from cxr_data.core.errors import UsageError
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.foreign import adopt
from cxr_data.records.layout import MANIFEST_NAME
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation.evaluator import evaluate_split
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.predictions import read_predictions
from cxr_train.explanation import explainer
from cxr_train.explanation.explainer import Explainer, initial_model
from cxr_train.explanation.options import ExplainOptions
from cxr_train.loop.stop import StopRequest
from cxr_train.loop.trainer import Trainer
from cxr_train.models import backbones
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_model import load_best_model
from cxr_train.runs.saved_run import model_sha256

SIZE = 16
QUICK = ExplainOptions(gallery_size=2, check_images=7, filters=2, filter_steps=4)


def tiny_backbone(*, include_top, weights, input_tensor) -> keras.Model:
    x = keras.layers.Conv2D(4, 3, activation="relu", name="early")(input_tensor)
    x = keras.layers.Conv2D(6, 3, strides=2, name="late")(x)
    # As in keras.applications: from the images, not from the pixels that were rescaled for it.
    images = keras.utils.get_source_inputs(input_tensor)
    return keras.Model(images, keras.layers.BatchNormalization(name="end")(x))


@pytest.fixture(scope="module", autouse=True)
def network():
    with registered("tiny", tiny_backbone, smallest_image=8):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    splits = {"train": random_images(12, SIZE), "validation": random_images(9, SIZE, seed=1)}
    return write_shards(tmp_path_factory.mktemp("data"), splits, dtype="uint8")


def trainer(data, run_dir, **changes) -> Trainer:
    values = {"epochs": 1, "learning_rate": 1e-4, "input_range": "imagenet", "strategy": "one"} | changes
    return make_trainer(data, run_dir, xla="off", **values)


@pytest.fixture(scope="module")
def config(data, tmp_path_factory) -> TrainConfig:
    run_dir = tmp_path_factory.mktemp("run")
    trainer(data, run_dir, precision="mixed_float16").run(StopRequest())
    return TrainConfig.load(run_dir / "config.json")


def test_a_run_is_explained(config, data):
    explainer = Explainer(config, Pipeline(data), QUICK)
    document = explainer.explain()
    assert json.loads((explainer.directory / "explain.json").read_text()) == document
    assert explainer.directory.parts[-2:] == ("explain", "validation")
    assert document["layers"] == ["early", "end"]
    assert document["class_names"] == ["covid", "normal", "pneumonia"]
    assert document["model_sha256"] == model_sha256(pathlib.Path(config.run_dir))
    for case in document["cases"]:
        assert (case["label"] == case["predicted"]) == (case["kind"] == "true_positive")
        picture = cv2.imread(str(explainer.directory / case["file"]))
        assert picture.shape == (SIZE, SIZE * (1 + len(case["mapped"])), 3)
    wrong = [case for case in document["cases"] if case["kind"] == "confusion"]
    assert wrong
    assert all(case["mapped"] == [case["label"], case["predicted"]] for case in wrong)
    assert document["occlusion"]["images"] == 7
    assert document["occlusion"]["verdict"] in ("passed", "failed")
    assert document["filters"]["before"] == "random initial weights"
    for name in (document["depths"]["file"], document["filters"]["file"]):
        assert cv2.imread(str(explainer.directory / name)).std() > 10
    left = {path.name for path in explainer.directory.iterdir()}
    assert left == {"explain.json", "depths.png", "filters.png"} | {c["file"] for c in document["cases"]}

    with pytest.raises(UsageError, match="explain/validation .*--overwrite"):
        Explainer(config, Pipeline(data), QUICK)


def test_what_the_evaluation_wrote_is_not_predicted_again(config, data, monkeypatch):
    run_dir = pathlib.Path(config.run_dir)
    shutil.copy(pathlib.Path(data.directory, MANIFEST_NAME), run_dir)
    placement = choose_placement("one", config.precision, "off")
    options = EvaluationOptions(resamples=100, probe_images=0)
    arguments = (run_dir, Pipeline(data), "validation", PredictStep(load_best_model(run_dir), placement))
    evaluate_split(*arguments, batch_size=4, options=options)
    stored = read_predictions(run_dir / "predictions_validation.csv")
    with monkeypatch.context() as patch:
        patch.setattr(explainer, "predict_split", lambda *_, **__: pytest.fail("predicted again"))
        options = dataclasses.replace(QUICK, filters=0, overwrite=True)
        document = Explainer(config, Pipeline(data), options).explain()
    of = dict(zip(stored.ids, stored.probabilities, strict=True))
    assert document["cases"]
    for case in document["cases"]:
        # Written with six digits.
        assert case["probability"] == pytest.approx(of[case["id"]].max(), rel=1e-5)
    # Another model's are not taken.
    (run_dir / "metrics_validation.json").write_text('{"model_sha256": "another"}')
    predicted = mock.Mock(wraps=explainer.predict_split)
    monkeypatch.setattr(explainer, "predict_split", predicted)
    assert Explainer(config, Pipeline(data), options).explain()["cases"]
    predicted.assert_called_once()


def test_other_data_have_a_place_of_their_own(config, data, tmp_path):
    theirs = write_shards(
        tmp_path / "hospital", {"validation": random_images(9, SIZE, seed=3)}, dtype="uint8"
    )
    explainer = Explainer(config, Pipeline(theirs), dataclasses.replace(QUICK, filters=0))
    assert explainer.directory == pathlib.Path(config.run_dir, "external/hospital/explain/validation")


@pytest.mark.parametrize("has_mean", [True, False])  # earlier manifests of foreign shards have none
def test_shards_of_another_program_are_explained(config, tmp_path, has_mean):
    images = random_images(9, SIZE, seed=5)
    with tf.io.TFRecordWriter(str(tmp_path / "val.tfrecord")) as writer:
        for image, label in zip(images, labels_of(9), strict=True):
            pixels = tf.train.Feature(float_list=tf.train.FloatList(value=image.ravel()))
            number = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
            features = tf.train.Features(feature={"image": pixels, "label": number})
            writer.write(tf.train.Example(features=features).SerializeToString())
    adopted = adopt(str(tmp_path), CLASS_NAMES, size=SIZE, channels=3, dtype="float32")
    np.testing.assert_allclose(adopted.mean, images.mean(axis=(0, 1, 2)), rtol=1e-5)
    adopted = adopted if has_mean else dataclasses.replace(adopted, mean=(), std=())
    options = dataclasses.replace(QUICK, filters=0, overwrite=True, images=("validation/val.tfrecord/3",))
    document = Explainer(config, Pipeline(adopted), options).explain()
    assert document["occlusion"]["groups"] == document["occlusion"]["without_patient"] == 7
    assert "0 known patients, 7 images " in document["occlusion"]["text"]
    assert [row["id"] for row in document["depths"]["rows"]] == ["validation/val.tfrecord/3"]


def test_only_what_was_asked_for_by_name_is_explained(config, data):
    options = ExplainOptions(
        split="train",
        classes=("pneumonia",),
        images=("train/4.png", "train/1.png"),
        layers=("late",),
        check_images=2,
        filters=0,
    )
    document = Explainer(config, Pipeline(data, ReadOptions(reader="stream")), options).explain()
    assert document["layers"] == ["late"]
    assert [row["id"] for row in document["depths"]["rows"]] == ["train/4.png", "train/1.png"]
    assert document["depths"]["rows"][0]["label"] == "normal"
    kinds = {"true_positive", "false_negative", "false_positive"}
    shown = [case["mapped"] for case in document["cases"] if case["kind"] in kinds]
    assert shown
    assert all(mapped == ["pneumonia"] for mapped in shown)
    assert document["occlusion"]["verdict"] == "undecided"
    assert document["filters"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("Covid",)}, "--classes=Covid: .*covid, normal, pneumonia"),
        ({"images": ("x.png",)}, r"--images=x\.png: .*validation/0\.png"),
        ({"layers": ("lat",)}, "--layers=lat: tiny .*try late"),
    ],
)
def test_what_is_not_there_is_named(config, data, options, message):
    with pytest.raises(UsageError, match=message):
        Explainer(config, Pipeline(data), ExplainOptions(**options, overwrite=True))


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_before_training_is_what_the_run_began_with(data, tmp_path, precision):
    began = trainer(data, tmp_path, precision=precision, seed=3, dropout=0.2)
    config = TrainConfig.load(tmp_path / "config.json")
    again = initial_model(config, 3, image_size=20)
    for weight, expected in zip(again.get_weights(), began.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_images_are_read_in_the_order_asked_for_by_both_readers(data):
    positions = np.array([7, 0, 5])
    expected = np.rint(random_images(9, SIZE, seed=1)[positions] * 255) / 255
    for reader in ("indexed", "stream"):
        images = Pipeline(data, ReadOptions(reader=reader)).images("validation", positions)
        assert images.dtype == np.float32
        np.testing.assert_allclose(images, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", backbones.BACKBONES)
def test_every_backbone_is_explained_and_reported_in_mixed_precision(backbone, tmp_path):
    line = [sys.executable, explained_backbone.__file__, backbone, str(tmp_path)]
    result = subprocess.run(line, capture_output=True, text=True, timeout=1800, check=False)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    assert {"explain.json", "depths.png", "filters.png"} <= set(told["files"])
    # From the first convolution, half of the image's size, or a quarter behind ConvNeXt's, to the last stage.
    assert len(told["layers"]) >= 4
    assert told["resolutions"][0] >= (24 if backbone.startswith("convnext") else 47)
    assert told["resolutions"] == sorted(told["resolutions"], reverse=True)
    assert 1 < told["resolutions"][-1] <= 6
    assert told["finite"]
    assert all(highest > 0 for highest in told["evidence"])
    assert told["difference_to_float32"] == 0
    assert np.isfinite(told["loss"])
    # By the first word of what each says. A run that was not trained has no curves.
    assert told["pictures"].count("X-ray") == told["images"] > 0
    assert {"Grad-CAM", "Pictures", "ROC", "Reliability"} <= {*told["pictures"]}
    begun = [" ".join(problem.split()[:2]) for problem in told["problems"]]
    assert begun == ["no epoch", "the throughput", "versions and"]


def test_the_command_names_what_is_missing(tmp_path):
    result = run_command("cxr_train.explain", f"--run_dir={tmp_path}").completed
    assert_one_clear_line(result, 1, str(tmp_path), "config.json")


@pytest.mark.slow
def test_the_maps_of_a_network_that_learned_real_x_rays_pass_the_occlusion_check(shared, tmp_path):
    data, run_dir = tmp_path / "data", tmp_path / "run"
    weights = shared / "data/weights/mobilenet_v2_notop.weights.h5"
    for line in (
        f"tools.make_tfrecords --source={shared}/data/cxr_sample --output={data} --noaudit "
        "--dtype=uint8 --channels=1 --splits=train:0.6,validation:0.2,test:0.2",
        f"cxr_train.main --backbone=mobilenet_v2 --weights={weights} --data={data} --run_dir={run_dir} "
        "--epochs=4 --batch_size=12 --input_range=imagenet",
        f"cxr_train.explain --run_dir={run_dir} --split=validation --filters=0 --gallery_size=1",
    ):
        result = subprocess.run(
            [sys.executable, "-m", *line.split()],
            capture_output=True,
            text=True,
            timeout=3600,
            check=False,
            cwd=ROOT,
        )
        assert result.returncode == 0, result.stderr[-2000:]
    metrics = json.loads((run_dir / "metrics_validation.json").read_text())
    assert metrics["macro"]["auroc"] > 0.8
    check = json.loads((run_dir / "explain/validation/explain.json").read_text())["occlusion"]
    assert check["verdict"] == "passed", check["text"]
