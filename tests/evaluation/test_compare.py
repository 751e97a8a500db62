"""Two models on the same images: how they are matched, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from made_predictions import predictions

from cxr_data.core.errors import DataError
from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_train.evaluation.compare import align, compare_models
from cxr_train.evaluation.predictions import read_predictions, write_predictions


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
    bootstrap = PatientBootstrap.of_names(better.groups, resamples=500)
    found = compare_models(better, worse, bootstrap)
    low, high = found["differences"]["accuracy"]["interval"]
    assert 0 < low < found["differences"]["accuracy"]["value"] < high
    assert found["mcnemar_exact_p"] < 1e-6
    swapped = compare_models(worse, better, bootstrap)["differences"]["macro auroc"]
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
    bootstrap = PatientBootstrap.of_names(one.groups, resamples=500)
    low, high = compare_models(one, nearly, bootstrap)["differences"]["macro auroc"]["interval"]
    alone = compare_models(one, predictions(300, 3), bootstrap)["differences"]["macro auroc"]["interval"]
    assert high - low < 0.3 * (alone[1] - alone[0])


def test_a_run_against_itself_differs_in_nothing():
    one = predictions()
    found = compare_models(one, one, PatientBootstrap.of_names(one.groups, resamples=100))
    assert found["mcnemar_exact_p"] == 1.0
    assert {entry["value"] for entry in found["differences"].values()} == {0.0}


def test_other_images_labels_and_classes_are_refused():
    one = predictions()
    others = {
        "1 and 1 .* a/0.png; ": {"ids": ("new.png", *one.ids[1:])},
        "0 and 1 .* extra; ": {
            "ids": (*one.ids, "extra"),
            "groups": (*one.groups, "g"),
            "labels": np.append(one.labels, 0),
            "probabilities": np.concatenate([one.probabilities, one.probabilities[:1]]),
        },
        "1 image, as a/0.png: covid and normal": {"labels": np.array([1, *one.labels[1:]])},
        "classes a, b, c, ": {"class_names": ("a", "b", "c")},
        f"run0 .*id {one.ids[1]} ": {"ids": (one.ids[1], *one.ids[1:])},
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
        ("", "p.csv .*''$"),
        ("path,label\n", "p.csv .*'path,label'$"),
        ("id,group,label,predicted,p_a,p_b\nx,x,a,a,0.5\n", "p.csv line 2 "),
        ("id,group,label,predicted,p_a,p_b\nx,x,c,a,0.5,0.5\n", "p.csv line 2 "),
        ("id,group,label,predicted,p_a,p_b\nx,x,a,a,0.5,half\n", "p.csv line 2 "),
    ],
)
def test_damaged_predictions_are_named(tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_predictions(tmp_path / "p.csv")
