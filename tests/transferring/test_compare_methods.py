"""Differences over patients and seeds, shares of a gap, the sentence, and metrics against slow references."""

import numpy as np
import pytest
import scipy.stats

from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_train.evaluation import metrics
from cxr_train.evaluation.calibration import expected_calibration_error, reliability
from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.transferring.compare import (
    Estimate,
    over_seeds,
    over_sources,
    share_closed,
    verdict,
    worst_of_sources,
)
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


def of_seeds(values, resampled=0.0, seed=0) -> Estimate:
    """An AUROC of training seeds, whose patients add a normal chance that all seeds share."""
    chance = resampled * np.random.default_rng(seed).normal(size=2000)
    measured = [Measured(dict.fromkeys(METRICS, v), dict.fromkeys(METRICS, v + chance)) for v in values]
    return over_seeds(measured)["auroc"]


def test_seeds_add_students_t_of_their_mean():
    values = (0.6, 0.64, 0.7, 0.71)
    found = of_seeds(values)
    assert found.value == pytest.approx(np.mean(values))
    in_errors = (found.replicates - found.value) / (np.std(values, ddof=1) / 2)
    quantiles = [0.025, 0.2, 0.5, 0.9, 0.975]
    expected = scipy.stats.t(df=3).ppf(quantiles)
    np.testing.assert_allclose(np.quantile(in_errors, quantiles), expected, rtol=0.15, atol=0.05)
    difference = found - of_seeds(values)
    assert np.ptp(difference.replicates) == 0
    assert (difference.value, difference.p_value) == (0, 1)


def test_one_seed_adds_nothing_to_the_patients():
    chance = 0.01 * np.random.default_rng(0).normal(size=2000)
    np.testing.assert_allclose(of_seeds([0.7], 0.01).replicates, 0.7 + chance)


@pytest.mark.parametrize(
    ("of_seed", "of_patients"), [(0.03, 0.001), (0.03, 0.01), (0.02, 0.02), (0.01, 0.03)]
)
def test_where_seeds_and_patients_alone_differ_few_differences_are_beyond_chance(of_seed, of_patients):
    random, tried = np.random.default_rng(1), 300
    called = 0
    for seed in range(tried):
        stray = of_patients * random.normal()  # of these patients, in all seeds
        ours, theirs = (of_seeds(0.7 + of_seed * random.normal(size=3)) for _ in range(2))
        chance = of_patients * np.random.default_rng(seed).normal(size=2000)
        difference = Estimate(
            ours.value - theirs.value + stray, ours.replicates - theirs.replicates + stray + chance
        )
        called += difference.p_value < 0.05
    assert called / tried < 0.05 + 2 * np.sqrt(0.05 * 0.95 / tried)


def test_the_interval_of_a_share_lies_between_0_and_1():
    low, high = of_seeds([0.9, 0.99, 0.95], 0.01).entry(is_share=True)["interval"]
    assert low < 0.9
    assert high == 1


def test_p_values_are_two_sided_and_never_0():
    assert estimate(0.1).p_value == estimate(-0.1).p_value == 2 / 2001
    assert estimate(0.0).p_value > 0.5
    assert estimate(0.0196).p_value == pytest.approx(0.05, abs=0.02)


def test_mean_and_worst_of_sources():
    one, other = estimate(0.6), estimate(0.9, seed=1)
    assert over_sources([one, other]).value == pytest.approx(0.75)
    assert worst_of_sources([one, other], "auroc") == {"value": 0.6, "interval": None}
    assert worst_of_sources([one, other], "ece") == {"value": 0.9, "interval": None}


def test_a_share_of_a_gap_needs_a_gap():
    share = share_closed(estimate(0.75), estimate(0.7), estimate(0.8))
    assert share is not None
    assert share.value == pytest.approx(0.5)
    assert share_closed(estimate(0.75), estimate(0.8), estimate(0.7)) is None
    assert share_closed(estimate(0.75), estimate(0.7), estimate(0.701, seed=3)) is None


def sentence(*what) -> str:
    return verdict(*what)["sentence"]


def test_the_sentence_says_what_is_beyond_chance():
    def row(name, value, p, seeds=3):
        return {"method": name, "against": {"difference": {"value": value}, "holm_p": p, "seeds": seeds}}

    rows = [row("coral", 0.1, 0.2), row("irm", -0.1, 0.04)]
    nothing = sentence("erm", ["coral", "dann", "irm"], rows, "here")
    assert verdict("erm", ["coral", "dann", "irm"], rows, "here")["better"] == []
    assert "not compared" in nothing
    assert nothing.endswith("dann")
    assert "no method was better" in nothing
    assert "irm was worse" in nothing
    rows = [row("coral", 0.1, 0.02), row("dann", 0.1, 0.01)]
    better = sentence("erm", ["coral", "dann"], rows, "here")
    assert verdict("erm", ["coral", "dann"], rows, "here")["better"] == ["coral", "dann"]
    assert "seed" not in better
    of_one = sentence("erm", ["coral"], [row("coral", 0.1, 0.02, seeds=1)], "here")
    assert "beyond the chance of" in of_one
    assert "one seed each" in of_one
    mixed = [row("coral", 0.1, 0.02), row("dann", 0.1, 0.5, seeds=1)]
    of_both = sentence("erm", ["coral", "dann"], mixed, "here")
    assert "beyond chance" in of_both
    assert "one seed of dann" in of_both
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
    assert np.isnan(found.replicates["ece"]).all()
    for metric in ("auroc", "sensitivity", "specificity"):
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
