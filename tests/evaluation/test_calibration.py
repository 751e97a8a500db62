"""Calibration against by-hand cases and a minimiser that knows nothing of derivatives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_train.evaluation import calibration, thresholds
from cxr_train.evaluation.decisions import is_given
from cxr_train.evaluation.forward_pass import Predictions
from cxr_train.evaluation.predictions import six_digits


def scored(images: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N] drawn from softmax(z), and softmax(z / temperature): too sure below 1."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, size=(images, 3))
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    return labels, calibration.apply_temperature(softmax(logits), temperature)


def softmax(logits: np.ndarray) -> np.ndarray:
    likelihoods = np.exp(logits - logits.max(axis=1, keepdims=True))
    return likelihoods / likelihoods.sum(axis=1, keepdims=True)


def test_reliability_and_ece_by_hand():
    rows = calibration.reliability([True, False, True, True], [0.9, 0.8, 0.85, 0.3], bins=2)
    assert [row["images"] for row in rows] == [1, 3]
    assert rows[0] == {"low": 0.0, "high": 0.5, "images": 1, "confidence": 0.3, "accuracy": 1.0}
    assert rows[1]["confidence"] == pytest.approx(0.85)
    assert rows[1]["accuracy"] == pytest.approx(2 / 3)
    expected = 1 / 4 * 0.7 + 3 / 4 * abs(2 / 3 - 0.85)
    assert calibration.expected_calibration_error(rows) == pytest.approx(expected)


def test_the_edges_of_the_bins_belong_to_the_lower_one():
    rows = calibration.reliability([True] * 4, [0.0, 0.5, 0.5000001, 1.0], bins=2)
    assert [row["images"] for row in rows] == [2, 2]


def test_an_empty_bin_is_null():
    assert calibration.reliability([True], [0.9], bins=2)[0]["accuracy"] is None


def test_brier_and_likelihood_by_hand():
    found = calibration.measure_calibration(np.array([0, 1]), np.array([[0.8, 0.2], [0.6, 0.4]]))
    assert found["brier"] == pytest.approx((0.2**2 * 2 + 0.6**2 * 2) / 2)
    assert found["negative_log_likelihood"] == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)


@settings(max_examples=20, deadline=None)
@given(temperature=st.floats(0.3, 3), seed=st.integers(0, 99))
def test_the_temperature_is_the_minimum_of_the_likelihood(temperature, seed):
    labels, probabilities = scored(300, temperature, seed)

    def loss(log_t: float) -> float:
        cooled = calibration.apply_temperature(probabilities, np.exp(log_t))
        return -np.log(cooled[np.arange(len(labels)), labels]).mean()

    best = np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-9}).x)
    assert calibration.fit_temperature(labels, probabilities) == pytest.approx(best, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(temperature=st.floats(0.3, 3), seed=st.integers(0, 99))
def test_the_temperature_has_all_its_digits(temperature, seed):
    labels, probabilities = scored(300, temperature, seed)
    logits = np.log(probabilities)
    of_label = logits[np.arange(len(labels)), labels]
    low, high = 1e-2, 1e2
    for _ in range(100):  # bisection of the likelihood's slope
        middle = np.sqrt(low * high)
        expected = (calibration.apply_temperature(probabilities, middle) * logits).sum(axis=1)
        low, high = (middle, high) if (expected - of_label).mean() > 0 else (low, middle)
    assert calibration.fit_temperature(labels, probabilities) == pytest.approx(low, rel=1e-12)


@pytest.mark.parametrize("sure", [0.9, 0.1, 1 / 3], ids=["all right", "all wrong", "nothing said"])
def test_there_is_no_best_temperature_where_the_likelihood_grows_to_an_end(sure):
    labels = np.array([0, 1, 2])
    probabilities = np.where(np.eye(3, dtype=bool), sure, (1 - sure) / 2)
    assert calibration.fit_temperature(labels, probabilities) is None


def test_a_temperature_undoes_overconfidence():
    labels, probabilities = scored(20_000, 0.4)
    temperature = calibration.fit_temperature(labels, probabilities)
    assert temperature == pytest.approx(1 / 0.4, rel=0.05)
    before = calibration.measure_calibration(labels, probabilities)
    after = calibration.measure_calibration(labels, calibration.apply_temperature(probabilities, temperature))
    assert before["ece"] > 0.08
    assert after["ece"] < 0.02


def test_temperature_one_changes_nothing_and_none_changes_the_class():
    _, probabilities = scored(100, 1.0)
    np.testing.assert_allclose(calibration.apply_temperature(probabilities, 1), probabilities, atol=1e-14)
    hot = calibration.apply_temperature(probabilities, 7.0)
    np.testing.assert_array_equal(hot.argmax(axis=1), probabilities.argmax(axis=1))


def test_saturated_probabilities_are_no_trouble():
    logits = np.array([[900.0, 0, -900], [0, 900, 0], [5, 0, 0]], np.float32)
    predictions = Predictions(np.arange(3), np.array([0, 1, 1]), logits)
    temperature = calibration.fit_temperature(predictions.labels, predictions.probabilities)
    assert np.isfinite(temperature)
    assert np.isfinite(
        calibration.measure_calibration(predictions.labels, predictions.probabilities)["brier"]
    )


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 999),
    images=st.integers(1, 50),
    sensitivity=st.sampled_from([0.01, 0.5, 0.9, 0.95, 1]),
)
def test_the_threshold_is_the_highest_that_reaches_the_sensitivity(seed, images, sensitivity):
    random = np.random.default_rng(seed)
    positive, scores = random.random(images) < 0.5, random.integers(10, size=images) / 10
    threshold = thresholds.threshold_at_sensitivity(positive, scores, sensitivity)
    if not positive.any():
        assert np.isnan(threshold)
        return
    reached = [t for t in np.unique(scores) if (scores[positive] >= t).mean() >= sensitivity - 1e-12]
    assert threshold == max(reached)


def test_095_of_20_is_19():
    scores = np.arange(20) / 20
    assert thresholds.threshold_at_sensitivity(np.ones(20, bool), scores, 0.95) == scores[1]


@settings(max_examples=200, deadline=None)
@given(
    p=st.lists(
        st.sampled_from([0.1234564, 0.1234565, 0.12345651, 0.123457, 0.9999994, 0.9999996, 1.0]), min_size=1
    ),
    sensitivity=st.sampled_from([0.3, 0.95, 1]),
    seed=st.integers(0, 99),
)
def test_what_is_counted_is_what_is_decided_by_the_digits_that_are_written(p, sensitivity, seed):
    scores = six_digits(np.array(p))
    positive = np.random.default_rng(seed).random(len(scores)) < 0.5
    both = np.stack([scores, 1 - scores], axis=1)
    threshold = thresholds.choose_thresholds(np.where(positive, 0, 1), both, sensitivity)[0]
    written = [float(f"{score:.6g}") for score in scores]
    called = is_given(scores, threshold)
    assert called.tolist() == [score >= threshold for score in written]
    assert is_given(both, [threshold, np.nan]).tolist() == [[c, False] for c in called]
    if positive.any():
        assert called[positive].mean() >= sensitivity - 1e-12


def test_thresholds_are_reported_on_other_images():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    covid = np.array([0.1, 0.2, 0.6, 0.3, 0.9, 0.5, 0.7, 0.4])
    probabilities = np.stack([1 - covid, covid], axis=1)
    bootstrap = PatientBootstrap.of_names([str(n) for n in range(8)], resamples=200)
    found = thresholds.report_thresholds(
        labels, probabilities, np.array([np.nan, 0.5]), ("a", "b"), bootstrap
    )
    row = found["per_class"]["b"]
    assert (row["sensitivity"], row["specificity"], row["precision"]) == (0.75, 0.75, 0.75)
    low, high = row["intervals"]["sensitivity"]
    assert 0 <= low < 0.75 < high <= 1
    assert found["per_class"]["a"]["threshold"] is None
    assert found["per_class"]["a"]["sensitivity"] is None


@pytest.mark.parametrize("images", [30, 300])
def test_the_error_by_chance_is_that_of_drawn_labels(images):
    random = np.random.default_rng(0)
    probabilities = random.beta(1, 2, [images, 2])
    drawn = [
        calibration.measure_calibration((random.random([images, 2]) < probabilities) * 1, probabilities)
        for _ in range(200)
    ]
    errors = [each["ece"] for each in drawn if each["ece"] is not None]
    assert drawn[0]["ece_by_chance"] == pytest.approx(np.mean(errors), rel=0.1)
    classes = calibration.measure_calibration(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]))
    # Two bins of an image each: the root of 2/pi p (1 - p).
    assert classes["ece_by_chance"] == pytest.approx(np.sqrt(2 / np.pi) * (0.3 + 0.4) / 2)
    assert calibration.error_by_chance(np.empty(0)) is None
