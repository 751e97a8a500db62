"""Differences over patients and seeds, shares of a gap, the sentence, and metrics against slow references."""

import numpy as np
import pytest

from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_train.evaluation import metrics
from cxr_train.evaluation.calibration import expected_calibration_error, reliability
from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.transferring.compare import Estimate, over_seeds, over_sources, sentence, share_closed
from cxr_train.transferring.measure import METRICS, Measured, measure


def estimate(value, spread=0.01, seed=0):
    return Estimate(value, value + spread * np.random.default_rng(seed).normal(size=2000))


def predictions(images=240, seed=0, strength=1.0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, images)
    logits = strength * (labels - 0.5) + random.normal(size=images)
    present = 1 / (1 + np.exp(-3 * logits))
    groups = tuple(f"p{number // 2}" for number in range(images))
    ids = tuple(f"i{number}" for number in range(images))
    return NamedPredictions("run", ("no", "yes"), ids, groups, labels, np.stack([1 - present, present], 1))


def test_seeds_are_drawn_with_the_patients():
    flat = {metric: np.zeros(2000) for metric in METRICS}
    measured = [Measured(dict.fromkeys(METRICS, v), {m: r + v for m, r in flat.items()}) for v in (0.6, 0.8)]
    found = over_seeds(measured)["auroc"]
    assert found.value == pytest.approx(0.7)
    assert {*np.round(found.replicates, 3)} == {0.6, 0.7, 0.8}
    assert (np.round(found.replicates, 3) == 0.7).mean() == pytest.approx(0.5, abs=0.05)
    difference = found - over_seeds(measured)["auroc"]
    assert (difference.value, np.ptp(difference.replicates), difference.p_value) == (0, 0, 1)


def test_p_values_are_two_sided_and_never_0():
    assert estimate(0.1).p_value == estimate(-0.1).p_value == 2 / 2001
    assert estimate(0.0).p_value > 0.5
    assert estimate(0.0196).p_value == pytest.approx(0.05, abs=0.02)


def test_mean_and_worst_of_sources():
    one, other = estimate(0.6), estimate(0.9, seed=1)
    assert over_sources([one, other]).value == pytest.approx(0.75)
    worst = over_sources([one, other], worst=True)
    assert worst.value == 0.6
    np.testing.assert_array_equal(worst.replicates, np.minimum(one.replicates, other.replicates))
    assert over_sources([one, other], metric="ece", worst=True).value == 0.9


def test_a_share_of_a_gap_needs_a_gap():
    share = share_closed(estimate(0.75), estimate(0.7), estimate(0.8))
    assert share is not None
    assert share.value == pytest.approx(0.5)
    assert share_closed(estimate(0.75), estimate(0.8), estimate(0.7)) is None
    assert share_closed(estimate(0.75), estimate(0.7), estimate(0.701, seed=3)) is None


def test_the_sentence_says_what_is_beyond_chance():
    def row(name, value, p):
        return {"method": name, "against": {"difference": {"value": value}, "holm_p": p}}

    nothing = sentence(
        "erm", ["coral", "dann", "irm"], [row("coral", 0.1, 0.2), row("irm", -0.1, 0.04)], "here"
    )
    assert "not compared" in nothing
    assert nothing.endswith("dann")
    assert "no method was better" in nothing
    assert "irm was worse" in nothing
    better = sentence("erm", ["coral", "dann"], [row("coral", 0.1, 0.02), row("dann", 0.1, 0.01)], "here")
    assert "not compared" not in better
    rows = [{"method": "erm", "auroc": {"value": 0.2}}, {**row("dann", 0.1, 0.01), "auroc": {"value": 0.3}}]
    assert "dann (0.300) was better than ERM beyond chance, whose AUROC is 0.200" in sentence(
        "erm", ["dann"], rows, "here"
    )
    assert "and dann were better" in better


def test_metrics_are_those_of_a_slow_reference_in_each_resample():
    validation, held_out = predictions(seed=1), predictions(seed=2)
    bootstrap = PatientBootstrap.of_names(held_out.groups, resamples=100)
    found = measure(validation, held_out, bootstrap, 0.9)
    times = np.concatenate(list(bootstrap.times_drawn()))[3].astype(int)
    rows = np.repeat(np.arange(240), times[bootstrap.patient_of])
    again = PatientBootstrap.of_names([f"p{n}" for n in range(len(rows))], resamples=100)
    drawn = NamedPredictions(
        "", held_out.class_names, tuple(map(str, range(len(rows)))), tuple(f"p{n}" for n in range(len(rows))),
        held_out.labels[rows], held_out.probabilities[rows],
    )  # fmt: skip
    reference = measure(validation, drawn, again, 0.9)
    for metric in METRICS:
        assert found.replicates[metric][3] == pytest.approx(reference.values[metric], abs=1e-12), metric
    assert found.values["auroc"] == pytest.approx(
        metrics.auroc(held_out.labels, held_out.probabilities).mean(), abs=1e-9
    )
    confident = held_out.probabilities.max(axis=1)
    right = held_out.probabilities.argmax(axis=1) == held_out.labels
    assert found.values["ece"] < expected_calibration_error(reliability(right, confident))


def test_too_few_patients_of_a_class_give_no_number():
    held_out = predictions(images=30)
    bootstrap = PatientBootstrap.of_names(held_out.groups, resamples=100)
    found = measure(predictions(seed=1), held_out, bootstrap, 0.9)
    assert np.isnan(found.values["auroc"])
    assert np.isnan(found.values["sensitivity"])
