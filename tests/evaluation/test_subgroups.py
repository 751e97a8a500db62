"""Metrics by group: the numbers of the group alone, too few said, ages in bands."""

import dataclasses
import json

import numpy as np
import pytest
from made_predictions import predictions

from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_train.evaluation import intervals, metrics
from cxr_train.evaluation.subgroups import in_bands, measure_subgroups


def test_each_group_has_the_numbers_of_its_images_alone_and_the_gap_is_theirs():
    made = predictions(images=240, sure=0.5)
    sources = ["nih", "guangzhou", "nih", ""] * 60
    found = measure_subgroups(made, {"source": sources}, resamples=100, seed=3)["source"]
    assert [*found["groups"]] == ["guangzhou", "nih", "unknown"]
    for value, row in found["groups"].items():
        rows = np.array([source == (value if value != "unknown" else "") for source in sources])
        alone = metrics.summarize(made.labels[rows], made.probabilities[rows], made.class_names)
        assert row["macro"] == alone["macro"]
        assert row["images"] == rows.sum()
        patients = [group for group, kept in zip(made.groups, rows, strict=True) if kept]
        bootstrap = PatientBootstrap.of_names(patients, resamples=100, seed=3)
        expected = intervals.metric_intervals(
            made.labels[rows], made.probabilities[rows], made.class_names, bootstrap
        )
        assert row["intervals"]["macro"] == expected["macro"]
        assert row["patients"] == expected["patients"]
    of_groups = {value: row["macro"]["auroc"] for value, row in found["groups"].items()}
    gap = found["gap"]["auroc"]
    assert gap["value"] == pytest.approx(max(of_groups.values()) - min(of_groups.values()))
    assert gap["classes"] == ["covid", "normal", "pneumonia"]
    assert of_groups[gap["worst"]] == min(of_groups.values())
    json.dumps(found, allow_nan=False)


def test_a_group_with_too_few_images_of_a_class_says_so_and_has_no_part_in_the_gap():
    made = predictions(images=90)
    views = ["AP" if number < 9 else "PA" for number in range(90)]
    found = measure_subgroups(made, {"view": views}, resamples=100, seed=0)["view"]
    few = found["groups"]["AP"]
    assert few["too_few"] == ["covid", "normal", "pneumonia"]
    assert few["macro"]["auroc"] is None
    assert few["intervals"]["macro"]["auroc"] is None
    assert found["groups"]["PA"]["macro"]["auroc"] is not None
    assert found["gap"] == {}


def test_many_numbers_are_cut_into_bands_and_few_or_words_are_not():
    ages = [str(age) for age in range(5, 95, 5)]
    found = in_bands([*ages, "", "101"])
    assert found[0] == "0-19"
    assert found[3] == "20-39"
    assert found[-2:] == ["unknown", "100-119"]
    assert in_bands([f"{age.zfill(3)}Y" for age in ages] + ["006M"]) == [*in_bands(ages), "0-19"]
    assert in_bands([f"{age},5" for age in ages] + ["NA"]) == [*in_bands(ages), "unknown"]
    assert in_bands(["0", "1", "0"]) == ["0", "1", "0"]
    assert in_bands(["F", "M", " "]) == ["F", "M", "unknown"]
    made = predictions(images=60)
    groups = measure_subgroups(made, {"age": (ages * 4)[:60]}, resamples=100, seed=0)["age"]["groups"]
    assert [*groups] == ["0-19", "20-39", "40-59", "60-79", "80-99"]


def test_the_gap_is_over_the_findings_that_have_a_number_in_every_group():
    random = np.random.default_rng(0)
    labels = (random.random([300, 3]) < [0.4, 0.3, 0.2]).astype(np.int64)
    views = np.array(["AP", "PA"])[np.arange(300) % 2]
    labels[views == "AP", 2] = 0  # the last finding is too rare in one view
    probabilities = np.clip(labels + random.normal(0, 1, [300, 3]), 0, 1)
    made = dataclasses.replace(predictions(images=300), labels=labels, probabilities=probabilities)
    gap = measure_subgroups(made, {"view": views.tolist()}, resamples=100, seed=0)["view"]["gap"]["auroc"]
    assert gap["classes"] == ["covid", "normal"]
    chosen = [views == view for view in ("AP", "PA")]
    of_views = [metrics.auroc(labels[rows], probabilities[rows])[:2].mean() for rows in chosen]
    assert gap["value"] == pytest.approx(abs(of_views[0] - of_views[1]))
