"""The patient bootstrap: what is drawn, in which order, and sums against resamples that are really made."""

import numpy as np
import pytest
import scipy.stats

from cxr_data.stats import bootstrap
from cxr_data.stats.bootstrap import PatientBootstrap, disjoint_pairs, exact_interval, percentiles


def test_patients_are_drawn_whole_and_as_many_as_there_are():
    bootstrap = PatientBootstrap.of_names(["a", "b", "a", "c", "d", "a"], resamples=5000)
    draws = np.concatenate(list(bootstrap.times_drawn()))
    assert draws.shape == (5000, 4)
    assert (draws.sum(axis=1) == 4).all()
    np.testing.assert_allclose(draws.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(draws.var(axis=0), 3 / 4, atol=0.06)  # of a binomial (4, 1/4)
    np.testing.assert_array_equal(bootstrap.patient_of, [0, 1, 0, 2, 3, 0])


@pytest.mark.parametrize("trials", [1, 7, 300])
def test_the_exact_interval_is_that_of_scipy(trials):
    for value in (0, 1):
        expected = scipy.stats.binomtest(value * trials, trials).proportion_ci(0.9, "exact")
        assert exact_interval(value, trials, 0.9) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("patients", "positive", "pairs"),
    [
        ([0, 1, 2, 3, 4], [1, 1, 0, 0, 0], 2),
        ([0, 0, 0, 1, 2], [1, 1, 1, 0, 0], 1),
        ([0, 0, 1, 1, 2, 2], [1, 0, 1, 0, 1, 0], 1),  # each has both: of three patients one pair
        ([0, 0], [1, 0], 0),
        ([0, 1], [1, 1], 0),
    ],
)
def test_no_patient_is_in_two_pairs(patients, positive, pairs):
    assert disjoint_pairs(np.array(patients), np.array(positive, bool)) == pairs


def test_blocks_do_not_change_the_draws(monkeypatch):
    groups = [f"{n % 7}" for n in range(20)]
    whole = np.concatenate(list(PatientBootstrap.of_names(groups, resamples=50, seed=3).times_drawn()))
    monkeypatch.setattr(bootstrap, "BLOCK_VALUES", 1)
    parts = list(PatientBootstrap.of_names(groups, resamples=50, seed=3).times_drawn())
    assert len(parts) == 50
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    other = np.concatenate(list(PatientBootstrap.of_names(groups, resamples=50, seed=4).times_drawn()))
    assert (other != whole).any()


def test_the_draws_are_those_of_one_call_to_numpy():
    # So that the numbers of an old evaluation or audit can be computed again.
    patient_of = [2, 0, 1, 1, 3]
    drawn = np.concatenate(list(PatientBootstrap(patient_of, resamples=70, seed=[5, 1]).patients_drawn()))
    np.testing.assert_array_equal(drawn, np.random.default_rng([5, 1]).integers(4, size=(70, 4)))
    one_by_one = np.random.default_rng([5, 1])
    np.testing.assert_array_equal(drawn, [one_by_one.integers(4, size=4) for _ in range(70)])


def test_a_generator_goes_on_where_a_seed_starts_again():
    again = PatientBootstrap([0, 1, 2, 3, 4], resamples=20, seed=7)
    first, second = (np.concatenate(list(again.patients_drawn())) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    on = PatientBootstrap([0, 1, 2, 3, 4], resamples=20, seed=np.random.default_rng(7))
    np.testing.assert_array_equal(np.concatenate(list(on.patients_drawn())), first)
    assert (np.concatenate(list(on.patients_drawn())) != first).any()


def test_sums_are_those_of_the_images_of_the_patients_drawn():
    patient_of = np.array([0, 2, 1, 0, 2, 2])
    values = np.random.default_rng(0).integers(9, size=(6, 2))
    resampled = PatientBootstrap(patient_of, resamples=30)
    for patients, sums in zip(
        np.concatenate(list(resampled.patients_drawn())), resampled.sums(values), strict=True
    ):
        rows = np.concatenate([np.flatnonzero(patient_of == patient) for patient in patients])
        np.testing.assert_array_equal(sums, values[rows].sum(axis=0))


def test_percentiles_by_hand():
    assert percentiles(np.arange(101) / 100) == pytest.approx((0.025, 0.975))
    assert percentiles(np.arange(101) / 100, confidence=0.5) == pytest.approx((0.25, 0.75))
