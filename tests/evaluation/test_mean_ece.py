"""The mean ECE of findings and its interval: which findings, and which resamples, they are of."""

import dataclasses

import numpy as np
import pytest

from cxr_train.evaluation import text
from cxr_train.evaluation.analysis import analyse
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.predictions import NamedPredictions

OPTIONS = EvaluationOptions(resamples=200)


def predictions_of(labels: np.ndarray, probabilities: np.ndarray, images_of_patient: int) -> NamedPredictions:
    images = len(labels)
    return NamedPredictions(
        source="drawn",
        class_names=tuple("abcd"[: probabilities.shape[1]]),
        ids=tuple(f"{number}.png" for number in range(images)),
        groups=tuple(f"patient {number // images_of_patient}" for number in range(images)),
        labels=labels.astype(np.int64),
        probabilities=probabilities,
    )


def drawn(findings: int, images_of_patient: int) -> NamedPredictions:
    random = np.random.default_rng(0)
    labels = np.arange(200)[:, np.newaxis] % 2 * np.ones(findings, int)
    probabilities = (labels + random.random(labels.shape)) / 2 * 0.6 + 0.4 * random.random(labels.shape)
    return predictions_of(labels, probabilities, images_of_patient)


def uncalibrated(predictions: NamedPredictions) -> dict:
    return analyse(predictions, OPTIONS)["calibration"]["uncalibrated"]


@pytest.mark.parametrize("known", [0, 1, 19])
def test_a_finding_with_too_few_images_is_in_neither_the_mean_ece_nor_its_interval(known):
    whole = drawn(3, 2)
    labels = whole.labels.copy()
    labels[known:, 2] = -2
    found = uncalibrated(dataclasses.replace(whole, labels=labels))
    assert found["ece"] == pytest.approx(
        np.mean([found["per_class"][name]["ece"] for name in "ab"]), rel=1e-12
    )
    two = dataclasses.replace(
        whole, class_names=("a", "b"), labels=labels[:, :2], probabilities=whole.probabilities[:, :2]
    )
    of_two = uncalibrated(two)
    assert found["ece"] == of_two["ece"]
    assert found["intervals"]["ece"] == pytest.approx(of_two["intervals"]["ece"], abs=1e-12)
    assert found["intervals"]["per_class"]["c"] == {"ece": None, "brier": None}


def test_there_is_no_mean_ece_where_every_finding_has_too_few_images():
    whole = drawn(2, 2)
    labels = np.where(np.arange(200)[:, np.newaxis] < 1, whole.labels, -2)
    few = dataclasses.replace(whole, labels=labels)
    summary = analyse(few, OPTIONS, validation=whole)
    found = summary["calibration"]
    assert found["temperature"] is not None
    assert (found["uncalibrated"]["ece"], found["uncalibrated"]["intervals"]["ece"]) == (None, None)
    rest = {"probe": None, "audit": None, "dropped": {}, "seen_in_training": False, "own_data": True}
    assert "ECE undefined" in text.evaluation_table(summary | rest | {"split": "test"})


def test_a_resample_has_a_mean_ece_without_the_findings_that_it_does_not_know():
    whole = drawn(4, 20)
    labels = whole.labels.copy()
    for finding in (1, 2, 3):  # each known in one patient of ten: few resamples have all of them
        labels[np.arange(200) // 20 != finding, finding] = -2
    found = uncalibrated(dataclasses.replace(whole, labels=labels))
    low, high = found["intervals"]["ece"]
    assert low < found["ece"] < high
    lost = found["intervals"]["undefined_resamples"]
    assert lost.keys() == {f"{name} {metric}" for name in "bcd" for metric in ("ece", "brier")}
    constant = {name for name in found["intervals"]["no_interval"] if name[0] in "bcd"}
    assert constant == lost.keys()


@pytest.mark.parametrize("sure", [0.7, 0.9, 0.55])
def test_an_ece_that_is_the_same_in_all_resamples_has_no_interval(sure):
    labels, probabilities = np.zeros(30), np.tile([sure, 1 - sure], (30, 1))
    found = uncalibrated(predictions_of(labels, probabilities, 3))["intervals"]
    assert (found["ece"], found["brier"]) == (None, None)
    assert found["no_interval"].keys() == {"ece", "brier"}
    assert found["no_interval"]["ece"].endswith(f"({1 - sure:g})")
