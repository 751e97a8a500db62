"""Patient-clustered intervals against resamples that are really made, and their coverage."""

import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_train.evaluation import intervals, metrics
from cxr_train.evaluation.intervals import IntervalNotes, metric_intervals

NAMES = ("normal", "covid", "pneumonia")


def case(images: int, classes: int = 3, patients: int = 12, seed: int = 0, levels: int = 9):
    """Labels [N], probabilities [N, C] with ties, patients [N]."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=images)
    scores = random.integers(1, levels, size=(images, classes)) + 4.0 * np.eye(classes)[labels]
    return (
        labels,
        scores / scores.sum(1, keepdims=True),
        [f"p{n}" for n in random.integers(patients, size=images)],
    )


def drawn_rows(bootstrap: PatientBootstrap, resample: int) -> np.ndarray:
    """The images of one resample, a patient drawn twice giving its images twice: the slow way."""
    counts = np.concatenate(list(bootstrap.times_drawn()))[resample].astype(int)
    rows = [
        np.repeat(np.flatnonzero(bootstrap.patient_of == p), counts[p]) for p in range(bootstrap.patients)
    ]
    return np.concatenate(rows)


@settings(max_examples=25, deadline=None)
@given(
    images=st.integers(1, 60),
    classes=st.integers(2, 4),
    patients=st.integers(1, 15),
    seed=st.integers(0, 999),
    levels=st.sampled_from([2, 9, 10**6]),
)
def test_every_resampled_metric_is_that_of_the_resampled_images(images, classes, patients, seed, levels):
    labels, probabilities, groups = case(images, classes, patients, seed, levels)
    bootstrap = PatientBootstrap.of_names(groups, resamples=4, seed=seed)
    replicates = intervals.resample_metrics(bootstrap, labels, probabilities)
    for resample in range(4):
        rows = drawn_rows(bootstrap, resample)
        expected = metrics.all_metrics(labels[rows], probabilities[rows])
        for metric, values in expected.items():
            np.testing.assert_allclose(
                replicates.per_class[metric][resample], values, rtol=0, atol=1e-12, err_msg=metric
            )
        right = (probabilities[rows].argmax(1) == labels[rows]).mean()
        assert replicates.accuracy[resample] == pytest.approx(right, abs=1e-12)


def test_same_seed_same_intervals_and_the_shape_of_the_metrics():
    labels, probabilities, groups = case(80)
    made = [
        metric_intervals(
            labels, probabilities, NAMES, PatientBootstrap.of_names(groups, resamples=200, seed=1)
        )
        for _ in range(2)
    ]
    assert made[0] == made[1]
    summary = metrics.summarize(labels, probabilities, NAMES)
    for name in NAMES:
        for metric, (low, high) in made[0]["per_class"][name].items():
            assert low <= summary["per_class"][name][metric] <= high
    assert made[0]["patients"] == len(set(groups))
    assert made[0]["macro"].keys() == summary["macro"].keys()


def test_percentiles_by_hand():
    notes = IntervalNotes()
    replicates = np.append(np.arange(101) / 100, np.full(9, np.nan))
    assert intervals.percentile_interval(0.5, replicates, "m", notes) == pytest.approx([0.025, 0.975])
    assert notes.undefined_resamples == {"m": 9}


def test_a_rate_of_one_gets_the_exact_interval_over_patients():
    labels = np.array([0] * 10 + [1] * 10)
    groups = [f"p{n // 2}" for n in range(20)]
    made = metric_intervals(
        labels, np.eye(2)[labels], ("a", "b"), PatientBootstrap.of_names(groups, resamples=100)
    )
    # 5 patients of the class, all right: Clopper and Pearson, (0.025)^(1/5).
    assert made["per_class"]["a"]["sensitivity"] == pytest.approx([0.025 ** (1 / 5), 1])
    assert made["accuracy"] == pytest.approx([0.025 ** (1 / 10), 1])
    assert "a sensitivity" in made["exact"]
    # Five disjoint pairs of a patient of one class and one of the other, all concordant.
    assert made["per_class"]["a"]["auroc"] == pytest.approx([0.025 ** (1 / 5), 1])
    assert "a auroc" in made["exact"]
    assert made["per_class"]["a"]["f1"] is None
    assert made["no_interval"]["a f1"].endswith(" (1)")


def test_a_rate_of_zero_gets_the_exact_interval():
    notes = IntervalNotes()
    low, high = intervals.percentile_interval(0.0, np.zeros(100), "m", notes, trials=20)
    assert (low, high) == (0.0, pytest.approx(0.1684, abs=1e-4))


def test_undefined_resamples_are_counted_and_left_out():
    # One patient has the only images of class b: about (1 - 1/5)^5 = 1/3 of the resamples have none.
    labels = np.array([1, 1, 0, 0, 0, 0])
    probabilities = np.array([[0.4, 0.6], [0.6, 0.4], [0.9, 0.1], [0.3, 0.7], [0.8, 0.2], [0.7, 0.3]])
    groups = ["b", "b", "1", "2", "3", "4"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = metric_intervals(
            labels, probabilities, ("a", "b"), PatientBootstrap.of_names(groups, resamples=1000)
        )
    lost = made["undefined_resamples"]["b sensitivity"]
    assert lost == pytest.approx(1000 * 0.8**5, abs=60)
    assert made["per_class"]["b"]["sensitivity"] is None
    assert "(0.5)" in made["no_interval"]["b sensitivity"]
    # The macro average of class a alone would be another metric.
    assert made["undefined_resamples"]["macro sensitivity"] == lost
    assert made["per_class"]["b"]["auroc"] is not None


def test_mostly_undefined_is_no_interval():
    notes = IntervalNotes()
    replicates = np.append(np.linspace(0, 1, 40), np.full(60, np.nan))
    assert intervals.percentile_interval(0.3, replicates, "m", notes) is None
    assert notes.no_interval == {"m": "undefined in 60 of 100 resamples"}


def test_a_class_without_images_has_no_interval_and_is_left_out_of_the_average():
    labels, probabilities, groups = case(40, classes=2)
    wide = np.concatenate([probabilities * 0.99, np.full((40, 1), 0.01)], axis=1)
    made = metric_intervals(labels, wide, NAMES, PatientBootstrap.of_names(groups, resamples=200))
    assert made["per_class"]["pneumonia"]["sensitivity"] is None
    assert made["macro"]["sensitivity"] is not None


def test_one_patient_has_no_interval():
    labels, probabilities, _ = case(30)
    made = metric_intervals(
        labels, probabilities, NAMES, PatientBootstrap.of_names(["one"] * 30, resamples=100)
    )
    assert made["accuracy"] is None
    assert "macro auroc" in made["no_interval"]


def test_2000_resamples_of_the_study_take_seconds():
    labels, probabilities, groups = case(3432, patients=3000, levels=10**9)
    start = time.process_time()
    metric_intervals(labels, probabilities, NAMES, PatientBootstrap.of_names(groups))
    assert time.process_time() - start < 20


def correlated(random: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """A binary problem of patients with 1 to 12 images that are alike: they share most of the score."""
    images = random.integers(1, 13, size=patients)
    of = np.repeat(np.arange(patients), images)
    label_of = random.integers(2, size=patients)
    shared = random.normal(1.2 * label_of - 0.6, 1.0)
    score = shared[of] + random.normal(0, 0.4, size=len(of))
    positive = 1 / (1 + np.exp(-score))
    return label_of[of], np.stack([1 - positive, positive], axis=1), [f"p{n}" for n in of]


@pytest.mark.slow
def test_clustered_intervals_cover_the_truth_and_naive_ones_do_not():
    random = np.random.default_rng(0)
    labels, probabilities, _ = correlated(random, 200_000)
    values = metrics.all_metrics(labels, probabilities)
    truth = {"sensitivity": values["sensitivity"][1], "auroc": values["auroc"][1]}
    covered = {(kind, metric): 0 for kind in ("clustered", "naive") for metric in truth}
    trials = 400
    for trial in range(trials):
        labels, probabilities, groups = correlated(random, 120)
        for kind, of in (("clustered", groups), ("naive", [str(n) for n in range(len(labels))])):
            made = metric_intervals(
                labels, probabilities, ("no", "yes"), PatientBootstrap.of_names(of, resamples=400, seed=trial)
            )
            for metric, value in truth.items():
                low, high = made["per_class"]["yes"][metric]
                covered[kind, metric] += low <= value <= high
    coverage = {key: count / trials for key, count in covered.items()}
    print(coverage)
    for metric in truth:
        assert 0.92 <= coverage["clustered", metric] <= 0.98
        assert coverage["naive", metric] < 0.75
