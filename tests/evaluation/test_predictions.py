"""The digits of probabilities: few enough to read, and enough for the same metrics."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cxr_train.evaluation import calibration, metrics
from cxr_train.evaluation.forward_pass import Predictions
from cxr_train.evaluation.predictions import NamedPredictions, read_predictions, six_digits, write_predictions

NAMES = ("covid", "normal", "pneumonia")


def made_up(scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels [600] and probabilities [600, 3]; the larger `scale`, the surer is the model."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 600)
    logits = generator.normal(size=[600, 3]).astype(np.float32) + np.eye(3, dtype=np.float32)[labels]
    likelihoods = np.exp(scale * logits.astype(np.float64))
    return labels, likelihoods / likelihoods.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("scale", [0.5, 4, 12])
def test_every_metric_is_that_of_all_digits(scale):
    labels, probabilities = made_up(scale)
    rounded = six_digits(probabilities)
    exact = metrics.all_metrics(labels, probabilities)
    for name, values in metrics.all_metrics(labels, rounded).items():
        np.testing.assert_array_equal(values, exact[name], err_msg=name)
    found, expected = (calibration.measure_calibration(labels, p) for p in (rounded, probabilities))
    for name in ("ece", "negative_log_likelihood", "brier"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)
    temperatures = [calibration.fit_temperature(labels, p) for p in (rounded, probabilities)]
    assert temperatures[0] == pytest.approx(temperatures[1], abs=1e-6)


def test_plain_rounding_would_change_the_auroc_of_a_sure_model():
    labels, probabilities = made_up(12)
    exact, rounded = (
        metrics.all_metrics(labels, p)["auroc"] for p in (probabilities, probabilities.round(6))
    )
    assert np.abs(exact - rounded).max() > 1e-5


@given(hnp.arrays(np.float64, st.tuples(st.integers(0, 20), st.just(3)), elements=st.floats(0, 1)))
def test_order_and_size_stay(probabilities):
    rounded = six_digits(probabilities)
    assert rounded.shape == probabilities.shape
    flat, short = probabilities.ravel(), rounded.ravel()
    order = np.argsort(flat, kind="stable")
    np.testing.assert_array_equal(np.diff(flat[order]) > 0, np.diff(short[order]) > 0)
    # Below 1e-300 a float64 has no six digits.
    np.testing.assert_allclose(short, flat, rtol=5e-6, atol=1e-300)
    np.testing.assert_allclose(1 - short, 1 - flat, rtol=0.0101)


def test_digits():
    given = [0, 1, 0.5, 1 / 3, 0.98765432123, 1.23456789e-9, 0.98765432987, 0.999999712345]
    expected = ["0.0", "1.0", "0.5", "0.333333", "0.98765432", "1.23457e-09", "0.98765433", "0.99999971"]
    assert [repr(p) for p in six_digits(np.array(given)).tolist()] == expected


@pytest.mark.parametrize("surest", [9, 16, 30, 40])  # the sigmoid of 40 is 1 in float64
def test_one_wrong_label_of_the_surest_finding_is_no_worse_than_its_logit(surest):
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, [500, 1])
    labels = (random.random([500, 1]) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    logits[0], labels[0] = surest, 0
    predictions = Predictions(np.arange(500), labels, logits.astype(np.float32))
    rounded = six_digits(predictions.probabilities)
    loss = calibration.measure_calibration(labels, rounded)["negative_log_likelihood"]
    assert loss == pytest.approx(predictions.loss, rel=0.02)

    def slope(temperature: float) -> float:  # of the loss, at the logits themselves
        error = 1 / (1 + np.exp(-logits / temperature)) - labels
        return float((error * logits).mean())

    exact = scipy.optimize.brentq(slope, 0.1, 10)
    assert calibration.fit_temperature(labels, rounded) == pytest.approx(exact, rel=0.02)


def test_what_was_written_is_read(tmp_path):
    labels, probabilities = made_up(4)
    ids = tuple(map(str, range(600)))
    written = NamedPredictions("", NAMES, ids, ids, labels, six_digits(probabilities))
    write_predictions(tmp_path / "predictions_test.csv", written)
    read = read_predictions(tmp_path / "predictions_test.csv")
    np.testing.assert_array_equal(read.probabilities, written.probabilities)
