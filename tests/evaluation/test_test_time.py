"""Test-time methods: what they undo is simulated, and what they must leave alone stays."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from shards import random_images, write_shards
from tiny import make_trainer, plain, registered, train_whole

from cxr_data.core.errors import UsageError
from cxr_data.input.pipeline import Pipeline
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation import priors
from cxr_train.evaluation.evaluator import evaluate_split
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.plan import plan_evaluation
from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.evaluation.test_time import adapted_batch_norm, with_corrected_prior
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_model import load_best_model


def scored(random: np.random.Generator, shares: np.ndarray, count: int, of: np.ndarray) -> np.ndarray:
    """Probabilities by Bayes with the prior `of`, of images drawn with other shares: one score each."""
    labels = random.choice(len(shares), size=count, p=shares)
    scores = random.normal(labels[:, None] * 1.5, 1)
    likelihood = np.exp(-((scores - np.arange(len(shares)) * 1.5) ** 2) / 2)
    joint = likelihood * of
    return joint / joint.sum(axis=1, keepdims=True)


def test_a_simulated_prior_is_recovered():
    random = np.random.default_rng(0)
    old, new = np.array([0.6, 0.3, 0.1]), np.array([0.1, 0.3, 0.6])
    seen = scored(random, new, 20000, old)
    corrected, found = priors.correct(seen, old, of_findings=False)
    np.testing.assert_allclose(found, new, atol=0.02)
    weighed = seen * found / old
    np.testing.assert_allclose(corrected, weighed / weighed.sum(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(corrected.mean(axis=0), found, atol=1e-6)
    # Each column of findings is a question of its own.
    two = np.stack(
        [scored(random, np.array([1 - s, s]), 20000, np.array([0.8, 0.2]))[:, 1] for s in (0.5, 0.1)]
    )
    _, shares = priors.correct(two.T, np.array([0.2, 0.2]), of_findings=True)
    np.testing.assert_allclose(shares, [0.5, 0.1], atol=0.02)


def test_the_shares_that_a_model_expects_are_those_of_its_probabilities_when_they_are_calibrated():
    random = np.random.default_rng(2)
    scores = random.normal(size=4000)
    sharp = 1 / (1 + np.exp(-4 * (scores - 1)))  # four times as sure as it is right
    labels = (random.random(4000) < 1 / (1 + np.exp(1 - scores))).astype(np.int64)
    said = NamedPredictions(
        "", ("no", "yes"), tuple(map(str, range(4000))), tuple(map(str, range(4000))), labels,
        np.stack([1 - sharp, sharp], axis=1),
    )  # fmt: skip
    expected = priors.expected_shares(said)
    np.testing.assert_allclose(expected, (1 - labels.mean(), labels.mean()), atol=0.02)
    corrected, _, shares = with_corrected_prior(said, said)
    np.testing.assert_allclose([*shares["before"].values()], expected, rtol=1e-12)
    assert corrected.labels is labels


def test_the_prior_of_the_probabilities_themselves_changes_nothing():
    probabilities = scored(np.random.default_rng(1), np.array([0.5, 0.5]), 50, np.array([0.5, 0.5]))
    corrected, prior = priors.correct(probabilities, probabilities.mean(axis=0), of_findings=False)
    np.testing.assert_allclose(corrected, probabilities, rtol=1e-12)
    np.testing.assert_allclose(prior, probabilities.mean(axis=0), rtol=1e-12)
    ones = np.ones([4, 1])
    np.testing.assert_array_equal(priors.correct(ones, np.ones(1), of_findings=True)[0], ones)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run on a network with BatchNorm, its data, and the same images in another brightness."""
    place = tmp_path_factory.mktemp("adapt")
    images = random_images(32, seed=1)
    data = write_shards(place / "data", {"train": random_images(24), "validation": images})
    shifted = write_shards(place / "shifted", {"validation": images * 0.25 + 0.5})
    with registered("tiny", normalised):
        _, run_dir = train_whole(make_trainer, data, place / "run", epochs=1)
        yield run_dir, data, shifted


def normalised(*, include_top, weights, input_tensor) -> keras.Model:
    """BatchNorm of the pixels, then of what a convolution makes of them."""
    x = keras.layers.BatchNormalization()(input_tensor)
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    return keras.Model(input_tensor, keras.layers.BatchNormalization()(x))


def test_adabn_undoes_an_affine_change_of_the_images_and_leaves_the_model_as_it_was(run):
    run_dir, data, shifted = run
    model, placement = load_best_model(run_dir), choose_placement("one", "float32", "off")
    before = [variable.numpy() for variable in model.variables]
    inputs = [tf.constant(Pipeline(one).images("validation", np.arange(32))) for one in (data, shifted)]

    def logits(of: int) -> np.ndarray:
        options = {"images": 100, "batch_size": 16, "seed": 0}
        with adapted_batch_norm(
            model, placement, Pipeline((data, shifted)[of]), "validation", **options
        ) as taken:
            assert taken == 32
            return model(inputs[of]).numpy()

    plain_difference = np.abs(model(inputs[0]) - model(inputs[1])).max()
    adapted_difference = np.abs(logits(0) - logits(1)).max()
    assert adapted_difference < plain_difference / 20  # the rest is BatchNorm's epsilon
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_an_evaluation_with_test_time_methods_has_a_folder_of_its_own(run):
    run_dir, data, _ = run
    config = TrainConfig.load(run_dir / "config.json")
    options = EvaluationOptions(adapt_batch_norm=20, prior_correction=True, probe_images=0, resamples=100)
    plan = plan_evaluation(run_dir, config, "validation", options=options)
    assert plan.output == run_dir / "test_time" / "adabn20-prior"
    assert not plan.on_page
    with pytest.raises(UsageError, match="--output="):
        plan_evaluation(run_dir, config, "validation", options=options, output=run_dir)
    placement = choose_placement("one", "float32", "off")

    def evaluate(**changed) -> dict:
        predict = PredictStep(load_best_model(run_dir), placement)
        return evaluate_split(run_dir, Pipeline(data), "validation", predict, batch_size=8, **changed)

    with pytest.raises(UsageError, match="--prior_correction: "):
        evaluate(options=plan.options, output=plan.output)
    usual = evaluate(options=EvaluationOptions(probe_images=0, resamples=100))
    assert "test_time" not in usual
    found = evaluate(options=plan.options, output=plan.output)
    assert json.loads((plan.output / "metrics_validation.json").read_text()) == found
    assert found["test_time"]["batch_norm_images"] == 16
    assert sum(found["test_time"]["prior"]["after"].values()) == pytest.approx(1)
    assert found["test_time"]["prior"]["temperature"] > 0
    assert found["loss"] != usual["loss"]


def test_a_network_without_batch_norm_cannot_be_adapted(run):
    _, data, _ = run
    model = plain(include_top=False, weights=None, input_tensor=keras.Input([8, 8, 3]))
    placement = choose_placement("one", "float32", "off")
    options = {"images": 4, "batch_size": 4, "seed": 0}
    with (
        pytest.raises(UsageError, match="--adapt_batch_norm=4: "),
        adapted_batch_norm(model, placement, Pipeline(data), "validation", **options),
    ):
        pass
