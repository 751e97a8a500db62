"""Weighted areas against scikit-learn's of images that are really repeated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

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


def test_counts_above_what_float32_can_count_are_exact():
    ranking = Ranking.of(np.array([True, False, True]), np.array([2.0, 1.0, 0.0]))
    concordant, pairs = ranking.pairs(np.array([[2**24, 1, 1]], np.float32))
    assert (concordant[0], pairs[0]) == (2**24, 2**24 + 1)
