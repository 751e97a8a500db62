"""Weighted areas against scikit-learn's of images that are really repeated."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from cxr_data.stats.auroc import Ranking


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_weighted_areas_are_those_of_repeated_images(data):
    n = data.draw(st.integers(1, 30))
    scores = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), np.float32)
    positive = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    ranking = Ranking.of(positive, scores)
    # Beside it a row of other weights, which must not matter.
    rows = np.stack([weights, np.ones(n, int)])[:, ranking.images]
    concordant, pairs = ranking.pairs(rows.astype(np.float32))
    auroc, auprc = ranking.areas(rows)
    repeated = np.repeat(np.arange(n), weights)
    if len(set(positive[repeated])) == 2:
        expected = roc_auc_score(positive[repeated], scores[repeated])
        assert concordant[0] / pairs[0] == pytest.approx(expected)
        assert auroc[0] == pytest.approx(expected)
        assert auprc[0] == pytest.approx(average_precision_score(positive[repeated], scores[repeated]))
    else:
        assert pairs[0] == 0
        assert np.isnan([auroc[0], auprc[0]]).all()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_curve_is_that_of_scikit_learn_on_its_corners(data):
    n = data.draw(st.integers(2, 30))
    scores = np.array(data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)), np.float32)
    positive = np.array([True, False, *data.draw(st.lists(st.booleans(), min_size=n - 2, max_size=n - 2))])
    wrong, right = Ranking.of(positive, scores).curve()
    all_wrong, all_right, _ = roc_curve(positive, scores, drop_intermediate=False)
    assert set(zip(wrong, right, strict=True)) <= set(zip(all_wrong, all_right, strict=True))
    # Between corners the line goes through what was left out: the areas are the same.
    area = (np.diff(wrong) * (right[1:] + right[:-1]) / 2).sum()
    assert area == pytest.approx(roc_auc_score(positive, scores))
    slopes = [complex(*step) for step in zip(np.diff(wrong), np.diff(right), strict=True)]
    assert all(abs(np.angle(a / b)) > 1e-9 for a, b in itertools.pairwise(slopes))


def test_counts_above_what_float32_can_count_are_exact():
    ranking = Ranking.of(np.array([True, False, True]), np.array([2.0, 1.0, 0.0]))
    concordant, pairs = ranking.pairs(np.array([[2**24, 1, 1]], np.float32))
    assert (concordant[0], pairs[0]) == (2**24, 2**24 + 1)


def test_a_finding_that_is_known_in_no_image_has_no_area():
    ranking = Ranking.of(np.zeros(0, bool), np.zeros(0))
    for area in ranking.areas(np.ones((2, 0))):
        assert np.isnan(area).tolist() == [True, True]
