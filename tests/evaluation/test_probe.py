"""What a model makes of pictures without the lungs: the pictures, the sample, the numbers, the words."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from runs import evaluated, make_run, probabilities_of
from shards import labels_of, random_images, write_shards
from sklearn.metrics import roc_auc_score

from cxr_data.audit.shortcuts import frame_of
from cxr_data.images.measure import THUMBNAIL, lung_block
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation import probe, text
from cxr_train.evaluation.forward_pass import predict_split

SIZE = 16
WAYS = ("whole", "frame_alone", "lungs_alone", "one_mean")

evaluate = functools.partial(evaluated, batch_size=32, validation_split=None)


def slowly(way: str, picture: np.ndarray, mean: float) -> np.ndarray:
    """Change one picture [S, S, C] in [0, 1], pixel by pixel."""
    size, grey = len(picture), picture.astype(np.float64).mean()
    changed = picture.astype(np.float64)
    if way == "one_mean":
        # The number to add: halved until the mean of the clipped picture is the one asked for.
        low, high = -1.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            too_dark = np.clip(changed + middle, 0, 1).mean() < mean
            low, high = (middle, high) if too_dark else (low, middle)
        return np.clip(changed + low, 0, 1)
    for row in range(size):
        for column in range(size):
            over_the_lungs = all(size // 8 <= at < size - size // 8 for at in (row, column))
            if over_the_lungs == (way == "frame_alone"):
                changed[row, column] = grey
    return changed


@pytest.mark.parametrize(("dtype", "channels"), [("float32", 3), ("float16", 3), ("uint8", 1)])
def test_pictures_are_changed_as_the_slow_way_does_it_in_the_form_they_are_stored_in(dtype, channels):
    pictures = random_images(5, SIZE, channels)
    scale, tolerance = (255, 0.501 / 255) if dtype == "uint8" else (1, 1e-3 if dtype == "float16" else 1e-5)
    stored = tf.constant(np.rint(pictures * scale) if dtype == "uint8" else pictures, dtype)
    changes = {"one_mean": lambda images: probe.at_mean(images, 0.6)}
    changes |= {"frame_alone": probe.frame_alone, "lungs_alone": probe.lungs_alone}
    for way, change in changes.items():
        changed = probe.as_stored(change, stored)
        assert (changed.dtype, changed.shape) == (stored.dtype, stored.shape)
        expected = [slowly(way, picture / scale, 0.6) for picture in stored.numpy().astype(np.float64)]
        # Random pixels are clipped far more than those of a radiograph.
        most = tolerance + (1e-3 if way == "one_mean" else 0)
        np.testing.assert_allclose(changed.numpy() / scale, expected, atol=most)


def test_the_frame_is_that_of_the_audit():
    thumbnails = np.random.default_rng(0).integers(0, 256, (4, THUMBNAIL, THUMBNAIL), np.uint8)
    grey = probe.frame_alone(tf.constant(thumbnails[..., np.newaxis] / np.float32(255))).numpy()[..., 0]
    changed = np.rint(255 * grey).astype(np.uint8)
    assert (changed != thumbnails).any()
    np.testing.assert_array_equal(frame_of(changed), frame_of(thumbnails))
    alone = probe.lungs_alone(tf.constant(thumbnails[..., np.newaxis] / np.float32(255))).numpy()[..., 0]
    assert not np.ptp(frame_of(np.rint(255 * alone).astype(np.uint8)))


@pytest.mark.parametrize(("size", "block"), [(360, slice(45, 315)), (32, slice(4, 28)), (3, slice(1, 2))])
def test_the_block_is_the_middle_three_quarters(size, block):
    assert lung_block(size) == block


def test_a_sample_has_the_same_share_of_every_class_that_has_so_many():
    labels = np.repeat([0, 1, 2], [5, 100, 300])
    chosen = probe.choose_sample(labels, 60, seed=3)
    assert np.bincount(labels[chosen]).tolist() in ([5, 27, 28], [5, 28, 27])
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, probe.choose_sample(labels, 60, seed=3))
    assert chosen.tolist() != probe.choose_sample(labels, 60, seed=4).tolist()
    np.testing.assert_array_equal(probe.choose_sample(labels, 1000, seed=0), np.arange(len(labels)))


@pytest.mark.parametrize(
    ("strategy", "dtype", "channels", "reader", "batch_size"),
    [
        ("one", "float32", 3, "auto", 4),
        ("mirrored", "uint8", 1, "auto", 5),
        pytest.param("one", "uint8", 1, "stream", 64, marks=pytest.mark.ci),
    ],
)
def test_each_image_of_the_sample_is_predicted_in_each_way_without_another_trace(
    tmp_path, strategy, dtype, channels, reader, batch_size
):
    pictures = random_images(31, SIZE, channels)
    manifest = write_shards(tmp_path, {"train": pictures[:3], "test": pictures}, dtype=dtype)
    pipeline = Pipeline(manifest, ReadOptions(reader=reader))
    placement = choose_placement(strategy, "float32", "off")
    with placement.strategy.scope():
        model = tiny_model_of(manifest)
    step = PredictStep(model, placement)
    evaluated = predict_split(pipeline, "test", step, placement, batch_size=batch_size)
    before = step.traces
    probed = probe.probe_split(
        pipeline, "test", step, placement, evaluated, images=10, seed=1, batch_size=batch_size
    )
    assert step.traces == before > 0
    assert probed.mean == pytest.approx(np.mean(manifest.mean))
    assert tuple(probed.predictions) == WAYS
    rows = probe.choose_sample(evaluated.labels, 10, seed=1)
    np.testing.assert_array_equal(probed.rows, rows)
    if dtype == "uint8":
        pictures = np.rint(pictures * 255) / np.float32(255)
    for way, said in probed.predictions.items():
        np.testing.assert_array_equal(said.index, rows)
        np.testing.assert_array_equal(said.labels, labels_of(31)[rows])
        changed = pictures[rows]
        if way != "whole":
            changed = np.stack([slowly(way, picture, probed.mean) for picture in changed])
        changed = np.repeat(changed, 3 // channels, axis=3).astype(np.float32)
        np.testing.assert_allclose(said.probabilities, probabilities_of(model, changed), atol=0.02)


def tiny_model_of(manifest):
    """A network that looks at all of the picture, and whose logits are not far from each other."""
    keras.utils.set_random_seed(0)
    images = keras.Input((manifest.size, manifest.size, 3))
    return keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(images)))


def looks_at(weights: np.ndarray) -> keras.Model:
    """A network that takes a picture for covid as far as its pixels [S, S], so weighted, are bright."""
    images = keras.Input((*weights.shape, 3))
    dense = keras.layers.Dense(3)
    model = keras.Model(images, dense(keras.layers.Flatten()(images)))
    kernel = np.zeros((*weights.shape, 3, 3), np.float32)
    kernel[..., 0] = weights[..., np.newaxis]
    dense.set_weights([kernel.reshape(-1, 3), np.zeros(3, np.float32)])
    return model


def single(row: int, column: int) -> np.ndarray:
    weights = np.zeros((SIZE, SIZE), np.float32)
    weights[row, column] = 1
    return weights


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Noise in which covid has a mark in the frame and one over the lungs, or is brighter.

    A mark is two pixels, as much brighter as darker: it does not change the mean of a picture.
    """
    noise = 0.4 + 0.2 * random_images(90, SIZE, 1, seed=7)
    marked, bright = noise.copy(), noise.copy()
    covid = labels_of(90) == 0
    for row in (0, 8):
        marked[covid, row, 8] += 0.3
        marked[covid, row, 9] -= 0.3
    bright[covid] += 0.3
    splits = {"train": noise[:9], "marked": marked, "bright": bright}
    return write_shards(tmp_path_factory.mktemp("planted"), splits)


def test_what_is_left_without_the_lungs_says_where_the_model_looks(planted, tmp_path):
    make_run(tmp_path / "run", planted)

    def aurocs(model, split):
        found = evaluate(tmp_path / "run", planted, model, split)["probe"]["per_class"]["covid"]
        return {way: found[way]["auroc"] for way in WAYS}

    chance = pytest.approx(0.5, abs=0.2)
    in_the_frame = aurocs(looks_at(single(0, 8)), "marked")
    assert in_the_frame == {"whole": 1.0, "frame_alone": 1.0, "lungs_alone": chance, "one_mean": 1.0}
    perfect = evaluate(tmp_path / "run", planted, looks_at(single(0, 8)), "marked")["probe"]
    assert perfect["per_class"]["covid"]["frame_alone"]["interval"] == pytest.approx([0.025 ** (1 / 30), 1])
    on_the_lungs = aurocs(looks_at(single(8, 8)), "marked")
    assert on_the_lungs == {"whole": 1.0, "frame_alone": chance, "lungs_alone": 1.0, "one_mean": 1.0}
    of_brightness = aurocs(looks_at(np.full((SIZE, SIZE), 1e-3, np.float32)), "bright")
    assert of_brightness == {"whole": 1.0, "frame_alone": 1.0, "lungs_alone": 1.0, "one_mean": chance}


def test_the_numbers_are_of_the_sample_and_have_intervals(planted, tmp_path):
    make_run(tmp_path / "run", planted)
    weak = looks_at(single(0, 8) + 0.7 * single(4, 4) + 0.7 * single(5, 5))
    found = evaluate(tmp_path / "run", planted, weak, "marked", probe_images=40, seed=2)
    probed = found["probe"]
    assert json.loads((tmp_path / "run" / "metrics_marked.json").read_text())["probe"] == probed
    assert probed["schema"] == "cxr.probe/1"
    assert (probed["images"], probed["of"], probed["patients"], probed["seed"]) == (40, 90, 40, 2)
    assert probed["block"] == [2, 13]
    rows = probe.choose_sample(labels_of(90), 40, seed=2)
    pixels = Pipeline(planted).images("marked", rows)
    for number, (name, row) in enumerate(probed["per_class"].items()):
        of_class = labels_of(90)[rows] == number
        assert row["images"] == of_class.sum()
        assert row["undefined"] is None
        scores = probabilities_of(weak, pixels)[:, number]
        assert row["whole"]["auroc"] == pytest.approx(roc_auc_score(of_class, scores)), name
        low, high = row["whole"]["interval"]
        assert low < row["whole"]["auroc"] < high
    table = text.probe(found)
    assert "40 of 90 images" in table[0]
    assert [line.split()[0] for line in table[2:5]] == ["covid", "normal", "pneumonia"]


def test_a_class_without_an_image_has_no_auroc_and_says_why(planted, tmp_path):
    make_run(tmp_path / "run", planted)
    model = looks_at(single(0, 8))
    found = evaluate(tmp_path / "run", planted, model, "marked", class_map={"pneumonia": "-"})
    absent = found["probe"]["per_class"]["pneumonia"]
    assert absent["images"] == 0
    assert "no image" in absent["undefined"]
    assert [absent[way] for way in WAYS] == 4 * [{"auroc": None, "interval": None}]
    assert found["probe"]["of"] == 60
    assert any("no image" in line for line in text.probe(found))


def test_no_probe_is_made_of_no_images(planted, tmp_path):
    make_run(tmp_path / "run", planted)
    found = evaluate(tmp_path / "run", planted, looks_at(single(0, 8)), "marked", probe_images=0)
    assert found["probe"] is None
    assert text.probe(found) == text.probe({}) == []


def test_the_table_fits_a_terminal_also_where_a_class_has_a_long_name():
    cell = {"auroc": 0.98765, "interval": [0.97, 0.99]}
    row = {"images": 9, "undefined": None} | dict.fromkeys(WAYS, cell)
    names = ["covid", "a class with a name of some forty letters"]
    lines = text.probe({"probe": {"images": 1256, "of": 112120, "per_class": dict.fromkeys(names, row)}})
    assert max(map(len, lines)) < 100
    assert lines[1].split() == ["whole", "frame", "alone", "lungs", "alone", "one", "mean"]
    assert lines[2].split() == ["covid"] + 4 * ["0.988", "[0.970,", "0.990]"]
    assert lines[3] == names[1]
    assert lines[4].split() == lines[2].split()[1:]
