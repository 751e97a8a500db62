"""McNemar's test against exact integers and the study, and Holm's correction."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_train.evaluation.significance import agreement, bootstrap_p, holm, mcnemar_exact

# FACTS of the study: against inception_v3, images it alone has right / the other alone, and p.
STUDY = {
    "vgg16": (87, 50, 0.0020, 5e-5),
    "xception": (56, 35, 0.035, 5e-4),
    "inception_resnet_v2": (61, 37, 0.0197, 5e-5),
    "mobilenet_v2": (101, 35, 1.3e-8, 5e-10),
}


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_sum_over_exact_integers(first, second):
    images = first + second
    tail = sum(math.comb(images, k) for k in range(min(first, second) + 1))
    assert mcnemar_exact(first, second) == pytest.approx(min(1.0, 2 * tail / 2**images), rel=1e-12)
    assert mcnemar_exact(first, second) == mcnemar_exact(second, first)


def test_mcnemar_of_many_images_does_not_overflow():
    assert 0 < mcnemar_exact(30_000, 30_500) < 0.05


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_what_its_procedure_rejects(p_values, alpha):
    # From the smallest p-value on, each against alpha over the number of those left, to the first above.
    rejected = set()
    for rank, number in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[number] * (len(p_values) - rank) > alpha:
            break
        rejected.add(number)
    assert {number for number, adjusted in enumerate(holm(p_values)) if adjusted <= alpha} == rejected


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_p_value_of_resamples_by_hand():
    assert bootstrap_p(np.array([0.1] * 99)) == pytest.approx(2 / 100)
    assert bootstrap_p(np.array([0.1] * 95 + [-0.1] * 4 + [np.nan])) == pytest.approx(10 / 100)
    assert bootstrap_p(np.zeros(99)) == bootstrap_p(np.full(3, np.nan)) == 1.0


@pytest.mark.parametrize("model", STUDY)
def test_the_study(shared, model):
    study = json.loads((shared / "oracle" / "study_predictions.json").read_text())
    truth = np.array(study["y_true"])
    right = [np.array(study["y_pred"][name]) == truth for name in ("inception_v3", model)]
    only_this, only_other, p, tolerance = STUDY[model]
    found = agreement(*right)
    assert (found["only_this"], found["only_other"]) == (only_this, only_other)
    assert found["mcnemar_exact_p"] == pytest.approx(p, abs=tolerance)
    assert sum(found[key] for key in ("both_right", "only_this", "only_other", "both_wrong")) == 3432
