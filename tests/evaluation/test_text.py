"""What an evaluation says in words."""

import numpy as np
import pytest

from cxr_train.evaluation import text, wording
from cxr_train.evaluation.analysis import analyse
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.evaluation.subgroups import measure_subgroups
from cxr_train.evaluation.wording import patients, threshold


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


def test_a_number_has_its_noun():
    found = summary_of([f"p{number}" for number in range(60)])
    found["comparison"] |= {"only_this": 1, "only_other": 0}
    assert ": 1 image only this run" in text.comparison(found)[0]
    found["comparison"]["only_this"] = 1_234
    assert ": 1,234 images only this run" in text.comparison(found)[0]
    assert wording.patients({"intervals": {"without_patient": 1}, "images": 2})[0].startswith(
        "1 image has no "
    )


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


def test_no_line_is_wider_than_a_terminal_and_more_classes_go_below():
    few = text.evaluation_table(summary_of([f"p{n % 5}" for n in range(90)], at_sensitivity=0.9))
    assert "fewer than 30 patients" in few
    names = tuple(f"finding_{number}" for number in range(9))
    labels = np.arange(90) % 9
    scores = np.random.default_rng(0).dirichlet(np.ones(9), 90)
    ids = tuple(map(str, range(90)))
    said = NamedPredictions("run", names, ids, ids, labels, scores)
    found = analyse(said, EvaluationOptions(resamples=100))
    found = {**found, "dropped": {}, "seen_in_training": False, "own_data": True, "split": "test"}
    table = text.evaluation_table(found).splitlines()
    assert [line.split() for line in table if line.startswith(" ")][:3] == [
        list(names[:4]),
        list(names[4:8]),
        [names[8], "macro"],
    ]
    matrix = text.confusion_matrix(found).splitlines()
    for lines in (few.splitlines(), table, matrix):
        assert max(map(len, lines)) <= 100


def test_the_brief_form_has_a_row_a_class_and_fits_a_terminal():
    summary = summary_of([f"p{n % 5}" for n in range(90)])
    header, *lines = text.evaluation_in_brief(summary).splitlines()
    assert header.split() == ["test", "images", "sensitivity", "specificity", "AUROC"]
    assert [line.split()[:2] for line in lines[:4]] == [
        ["covid", "30"],
        ["normal", "30"],
        ["pneumonia", "30"],
        ["macro", "90"],
    ]
    assert lines[4].startswith("accuracy ")
    whole = text.evaluation_in_brief(summary)
    assert "fewer than 30 patients" in whole
    assert max(map(len, whole.splitlines())) <= 100


def test_a_confusion_matrix_has_a_row_a_true_class():
    classes = {"covid": {}, "normal": {}}
    few = {"split": "test", "per_class": classes, "confusion_matrix": [[1200, 34], [5, 6]]}
    _, header, *rows = text.confusion_matrix(few).splitlines()
    assert header.split() == ["covid", "normal"]
    assert [line.split() for line in rows] == [["covid", "1,200", "34"], ["normal", "5", "6"]]
    long = {f"a_long_name_of_a_finding_{number}": {} for number in range(8)}
    many = {"split": "test", "per_class": long, "confusion_matrix": [[7] * 8] * 8}
    wide = text.confusion_matrix(many).splitlines()
    assert wide[1].split() == [str(number) for number in range(1, 9)]
    assert max(map(len, wide)) <= 100


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "none"), (0.125, "0.125"), (0.9876543, "0.987654"), (1.0, "1"), (1.3e-5, "1.3e-05")],
)
def test_a_threshold_is_shown_with_the_digits_that_it_has(value, shown):
    assert threshold(value) == shown


def test_a_threshold_near_one_is_not_shown_as_one():
    assert threshold(0.9999998) == "1 - 2e-07"


def test_thresholds_and_differences_say_what_they_are_of():
    told = text.evaluation_table(summary_of([f"p{number}" for number in range(60)], at_sensitivity=0.9))
    assert "temperature" in told
    assert "mean AUROC +0.0000" in told
    assert "macro auroc +" not in told


def findings_summary(count: int, groups: int) -> dict:
    """Of 300 images, of which the first finding is in every second, and all others in five."""
    names = tuple(f"finding {number}" for number in range(count))
    labels = np.zeros([300, count], np.int64)
    labels[::2, 0] = 1
    labels[:5, 1:] = 1
    ids = tuple(f"{number}.png" for number in range(300))
    scores = np.random.default_rng(0).random(labels.shape) * 0.7 + 0.2 * labels
    said = NamedPredictions("run", names, ids, ids, labels, scores)
    found = analyse(said, EvaluationOptions(resamples=100), validation=said)
    by = {"view": [f"view {number % groups}" for number in range(300)]}
    found["by"] = measure_subgroups(said, by, resamples=100, seed=0)
    return {**found, "dropped": {}, "seen_in_training": False, "own_data": True, "split": "test"}


def test_many_findings_that_are_too_few_do_not_hide_the_groups():
    found = findings_summary(60, 3)
    lines = text.subgroups(found)
    assert [line for line in lines if "view 1: 0." in line]
    assert len(" ".join(lines)) < 600
    assert [line.count("finding") for line in lines if "too few" in line] == [4] * 3
    assert all("55 more" in line for line in lines if "too few" in line)
    assert "metrics_test.json" in lines[-1]
    assert len(text.evaluation_table(found).splitlines()) < 40
    assert "more" not in "".join(text.subgroups(findings_summary(6, 3)))
    (whole,) = wording.too_few(found)
    assert "finding 59" in whole


def test_a_calibration_by_finding_is_shown_where_no_temperature_is():
    found = findings_summary(2, 3)
    said = " ".join(text.evaluation_table(found).split())
    assert " at temperature " in said
    assert "(Platt)" in said
    found["calibration"] |= {"temperature": None, "calibrated": None}
    said = " ".join(text.evaluation_table(found).split())
    assert "no temperature" in said
    assert "(Platt)" in said
    found["calibration"]["platt"]["lines"] = dict.fromkeys(found["per_class"])
    assert "(Platt)" not in text.evaluation_table(found)
