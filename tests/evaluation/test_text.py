"""What an evaluation says in words."""

import numpy as np
import pytest

from cxr_train.evaluation import text
from cxr_train.evaluation.evaluator import analyse
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.evaluation.text import patients, threshold


def predictions(groups: list[str]) -> NamedPredictions:
    ids = tuple(f"{number}.png" for number in range(len(groups)))
    labels = np.arange(len(groups)) % 3
    scores = np.random.default_rng(0).random((len(groups), 3)) + np.eye(3)[labels]
    scores /= scores.sum(axis=1, keepdims=True)
    return NamedPredictions("run", ("covid", "normal", "pneumonia"), ids, tuple(groups), labels, scores)


def summary_of(groups: list[str], **options: float) -> dict:
    said = predictions(groups)
    found = analyse(said, EvaluationOptions(resamples=100, **options), validation=said, other=said)
    return {**found, "dropped": {}, "seen_in_training": False, "own_data": True, "split": "test"}


def test_images_of_no_known_patient_are_not_called_patients():
    ids = [f"{number}.png" for number in range(60)]
    alone = summary_of(ids)
    assert alone["intervals"]["without_patient"] == 60
    assert "no patient is known" in text.evaluation_table(alone)
    some = summary_of([*ids[:10], *(f"p{number}" for number in range(50))])
    assert "10 images " in text.evaluation_table(some)
    assert patients(summary_of([f"p{number}" for number in range(90)])) == []


def test_few_patients_make_no_interval_that_can_be_believed():
    # Of the normal images (1, 4, 7, ...) all are of two patients.
    (note,) = patients(summary_of([f"p{n % 2 if n % 3 == 1 else n}" for n in range(90)]))
    assert note.startswith("fewer than 30 patients (normal 2) ")
    assert patients({"images": 3}) == []
    assert patients({"images": 90, "intervals": {"patients_of": {"covid": 90, "normal": 0}}}) == []


def test_the_table_fits_a_terminal_and_has_a_column_a_class():
    lines = text.evaluation_table(summary_of([f"p{number}" for number in range(90)])).splitlines()[:9]
    assert lines[0].split() == ["covid", "normal", "pneumonia", "macro"]
    assert lines[1].split() == ["images", "30", "30", "30", "90"]
    assert [line[:14].strip() for line in lines[2:]][-2:] == ["AUROC", "AUPRC"]
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "none"), (0.125, "0.125"), (0.98765, "0.9877"), (1.0, "1"), (1.3e-5, "1.3e-05")],
)
def test_a_threshold_is_shown_with_the_digits_that_it_has(value, shown):
    assert threshold(value) == shown


def test_a_threshold_near_one_is_not_shown_as_one():
    assert threshold(0.999998) == "1 - 2e-06"


def test_thresholds_and_differences_say_what_they_are_of():
    told = text.evaluation_table(summary_of([f"p{number}" for number in range(60)], at_sensitivity=0.9))
    assert "temperature" in told
    assert "mean AUROC +0.0000" in told
    assert "macro auroc +" not in told
