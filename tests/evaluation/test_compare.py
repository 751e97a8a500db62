"""Two models on the same images: McNemar against scipy and the study, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_predictions import predictions
from scipy.stats import binomtest

from cxr_data.core.errors import DataError
from cxr_train.evaluation.compare import agreement, align, compare, holm, mcnemar_exact
from cxr_train.evaluation.intervals import PatientBootstrap
from cxr_train.evaluation.predictions import read_predictions, write_predictions

# FACTS of the study: against inception_v3, images it alone has right / the other alone, and p.
STUDY = {
    "vgg16": (87, 50, 0.0020, 5e-5),
    "xception": (56, 35, 0.035, 5e-4),
    "inception_resnet_v2": (61, 37, 0.0197, 5e-5),
    "mobilenet_v2": (101, 35, 1.3e-8, 5e-10),
}


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(first, second):
    expected = binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert mcnemar_exact(first, second) == pytest.approx(expected, rel=1e-9)
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


def test_rows_and_columns_are_matched_by_name():
    one = predictions()
    order, columns = np.random.default_rng(1).permutation(60), [2, 0, 1]
    other = dataclasses.replace(
        one,
        class_names=tuple(one.class_names[c] for c in columns),
        ids=tuple(one.ids[row] for row in order),
        groups=tuple(one.groups[row] for row in order),
        labels=np.argsort(columns)[one.labels[order]],
        probabilities=one.probabilities[np.ix_(order, columns)],
    )
    aligned = align(one, other)
    np.testing.assert_array_equal(aligned.labels, one.labels)
    np.testing.assert_array_equal(aligned.probabilities, one.probabilities)
    assert aligned.class_names == one.class_names


def test_differences_have_paired_intervals():
    better, worse = predictions(300, 1, sure=2), predictions(300, 2, sure=0.3)
    bootstrap = PatientBootstrap(better.groups, resamples=500)
    found = compare(better, worse, bootstrap)
    low, high = found["differences"]["accuracy"]["interval"]
    assert 0 < low < found["differences"]["accuracy"]["value"] < high
    assert found["mcnemar_exact_p"] < 1e-6
    swapped = compare(worse, better, bootstrap)["differences"]["macro auroc"]
    assert swapped["value"] == pytest.approx(-found["differences"]["macro auroc"]["value"])
    assert swapped["interval"] == pytest.approx(
        [-bound for bound in reversed(found["differences"]["macro auroc"]["interval"])]
    )
    assert found["other"] == "run2"
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_pairing_makes_the_interval_narrower():
    one = predictions(300, 1)
    noise = np.random.default_rng(2).random(one.probabilities.shape) * 0.02
    nearly = dataclasses.replace(one, probabilities=one.probabilities + noise, source="nearly")
    bootstrap = PatientBootstrap(one.groups, resamples=500)
    low, high = compare(one, nearly, bootstrap)["differences"]["macro auroc"]["interval"]
    alone = compare(one, predictions(300, 3), bootstrap)["differences"]["macro auroc"]["interval"]
    assert high - low < 0.3 * (alone[1] - alone[0])


def test_a_run_against_itself_differs_in_nothing():
    one = predictions()
    found = compare(one, one, PatientBootstrap(one.groups, resamples=100))
    assert found["mcnemar_exact_p"] == 1.0
    assert {entry["value"] for entry in found["differences"].values()} == {0.0}


def test_other_images_labels_and_classes_are_refused():
    one = predictions()
    others = {
        "1 and 1 are in one alone, as a/0.png; evaluate both": {"ids": ("new.png", *one.ids[1:])},
        "0 and 1 are in one alone, as extra": {
            "ids": (*one.ids, "extra"),
            "groups": (*one.groups, "g"),
            "labels": np.append(one.labels, 0),
            "probabilities": np.concatenate([one.probabilities, one.probabilities[:1]]),
        },
        "disagree about the label of 1 images, as a/0.png: covid and normal": {
            "labels": np.array([1, *one.labels[1:]])
        },
        "has the classes a, b, c": {"class_names": ("a", "b", "c")},
        "two images of one id": {"ids": (one.ids[1], *one.ids[1:])},
    }
    for message, changes in others.items():
        with pytest.raises(DataError, match=message):
            align(one, dataclasses.replace(one, **changes))


def test_predictions_survive_the_file(tmp_path):
    one = predictions()
    names = ('a "b", c.png', "caf\udce9.png", "line\nbreak.png", "Icon\r")
    odd = dataclasses.replace(one, ids=(*names, *one.ids[4:]))
    write_predictions(tmp_path / "p.csv", odd)
    back = read_predictions(tmp_path / "p.csv")
    assert (back.ids, back.groups, back.class_names) == (odd.ids, odd.groups, odd.class_names)
    np.testing.assert_array_equal(back.labels, odd.labels)
    np.testing.assert_array_equal(back.probabilities, odd.probabilities)
    assert b"caf\xe9.png" in (tmp_path / "p.csv").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a file of predictions"),
        ("path,label\n", "not a file of predictions: its first line is 'path,label'"),
        ("id,group,label,predicted,p_a,p_b\nx,x,a,a,0.5\n", "line 2 is damaged"),
        ("id,group,label,predicted,p_a,p_b\nx,x,c,a,0.5,0.5\n", "line 2 is damaged"),
        ("id,group,label,predicted,p_a,p_b\nx,x,a,a,0.5,half\n", "line 2 is damaged"),
    ],
)
def test_damaged_predictions_are_named(tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_predictions(tmp_path / "p.csv")
