"""Dates in words, and the charts of a split: bins of reliability, marks of the working points."""

import base64
import re

import numpy as np
import pytest

from cxr_data.core.dates import date_in_words
from cxr_train.evaluation import metrics
from cxr_train.evaluation.text import PROBE_WAYS
from cxr_train.reporting import result_charts


@pytest.mark.parametrize(
    ("stamp", "said"),
    [
        ("2026-11-27T16:40:09+00:00", "27 November 2026, 16:40 UTC"),
        ("2026-01-02T03:04:05", "2 January 2026, 03:04"),
        ("at night", "at night"),
    ],
)
def test_dates_are_as_people_write_them(stamp, said):
    assert date_in_words(stamp) == said


def test_the_reliability_diagram_has_as_many_bins_as_the_images_allow():
    rng = np.random.default_rng(0)
    for images, bins in ((5, 1), (47, 4), (1000, 15)):
        scores = rng.dirichlet(np.ones(3), images)
        picture = result_charts.reliability_chart(np.zeros(images, np.int64), scores, 0.5)
        assert f"in {bins} bin" in picture.alt


def test_the_interval_of_a_share_is_wilsons():
    labels, scores = np.array([0, 0, 1]), np.array([[0.8, 0.2]] * 3)  # 2 of 3 are right
    picture = result_charts.reliability_chart(labels, scores, 0.5)
    content = base64.b64decode(picture.source.partition(",")[2]).decode()
    top, height = 12, 300  # of the plot, whose axis goes from -0.02 to 1.02
    ends = [top + height * (1.02 - share) / 1.04 for share in (0.2077, 0.9385)]
    bar = r'M365\.5 ([0-9.]+)L365\.5 ([0-9.]+)" fill="none" stroke="#0072B2"'
    (low, high) = re.search(bar, content).groups()
    assert (float(low), float(high)) == pytest.approx(ends, abs=0.1)


def test_the_working_points_are_where_the_rates_are():
    labels = np.array([0, 0, 1, 1, 1])
    scores = np.array([0.9, 0.4, 0.6, 0.3, 0.1])
    probabilities = np.stack([scores, 1 - scores], axis=1)
    summary = metrics.summarize(labels, probabilities, ("a", "b"))
    assert "Diamond" not in result_charts.working_points(summary)
    summary["thresholds"] = {"at_sensitivity": 0.9, "chosen_on": "validation"}
    summary["thresholds"]["per_class"] = {"a": {"threshold": 0.35}, "b": {"threshold": None}}
    assert "sensitivity of 0.9" in result_charts.working_points(summary)
    assert "a 0.833" in result_charts.roc(labels, probabilities, ("a", "b"), summary).alt
    assert "b 0.917" in result_charts.precision_recall(labels, probabilities, ("a", "b"), summary).alt
    assert result_charts.roc(np.zeros(5, np.int64), probabilities, ("a", "b"), summary) is None


def test_findings_that_the_probe_says_nothing_of_are_named_and_not_drawn():
    nothing = {way: {"auroc": None, "interval": None} for way in PROBE_WAYS}
    known = nothing | {"whole": {"auroc": 0.75, "interval": [0.5, 1.0]}}
    found = {"images": 20, "of": 60, "per_class": {"Mass": known, "Hernia": nothing}}
    ((picture, caption),) = result_charts.probe_forest({"probe": found})
    assert "Mass" in picture.alt
    assert "Hernia" not in picture.alt
    assert "Hernia" in caption
    assert result_charts.probe_forest({"probe": {**found, "per_class": {"Hernia": nothing}}}) == []
