"""Metrics of findings with unknown labels: against scikit-learn, label by label, and against one class."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_data.core.errors import DataError
from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_train.evaluation import calibration, intervals, metrics, text, thresholds, wording
from cxr_train.evaluation.analysis import analyse
from cxr_train.evaluation.class_map import map_classes
from cxr_train.evaluation.compare import compare_models
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.predictions import NamedPredictions, read_predictions, write_predictions

NAMES = ("atelectasis", "effusion", "nodule")


def drawn(seed: int, images: int = 200, *, known: float = 0.8) -> NamedPredictions:
    """Predictions that know something of three findings, the last of which is in five images."""
    random = np.random.default_rng(seed)
    present = random.random([images, 3]) < [0.3, 0.5, 0]
    present[random.permutation(images)[:5], 2] = True
    logits = random.normal(2 * present - 1, 1.5)
    labels = np.where(random.random([images, 3]) < known, present, random.choice([-1, -2], [images, 3]))
    labels[:, 2] = present[:, 2]
    return NamedPredictions(
        source="drawn",
        class_names=NAMES,
        ids=tuple(f"{number}.png" for number in range(images)),
        groups=tuple(f"patient {number // 2}" for number in range(images)),
        labels=labels.astype(np.int64),
        probabilities=scipy.special.expit(logits),
    )


def known_of(predictions: NamedPredictions, index: int) -> tuple[np.ndarray, np.ndarray]:
    known = predictions.labels[:, index] >= 0
    return predictions.labels[known, index], predictions.probabilities[known, index]


def by_scikit_learn(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Every metric of labels 1 and 0 and the probabilities of 1, for a decision at 0.5."""
    decided = scores >= 0.5
    return {
        "one_vs_rest_accuracy": sklearn.metrics.accuracy_score(labels, decided),
        "sensitivity": sklearn.metrics.recall_score(labels, decided),
        "specificity": sklearn.metrics.recall_score(1 - labels, ~decided),
        "precision": sklearn.metrics.precision_score(labels, decided),
        "f1": sklearn.metrics.f1_score(labels, decided),
        "auroc": sklearn.metrics.roc_auc_score(labels, scores),
        "auprc": sklearn.metrics.average_precision_score(labels, scores),
    }


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), known=st.floats(0.2, 1))
def test_every_metric_is_that_of_scikit_learn_on_the_known_labels(seed, known):
    predictions = drawn(seed, known=known)
    summary = metrics.summarize(predictions.labels, predictions.probabilities, NAMES)
    measured = calibration.measure_calibration(predictions.labels, predictions.probabilities)
    expected = {name: by_scikit_learn(*known_of(predictions, index)) for index, name in enumerate(NAMES)}
    for index, name in enumerate(NAMES):
        row = summary["per_class"][name]
        assert row["images"] + row["negatives"] + row["uncertain"] + row["unknown"] == 200
        assert {key: row[key] for key in expected[name]} == pytest.approx(expected[name], abs=1e-12)
        brier = sklearn.metrics.brier_score_loss(*known_of(predictions, index))
        assert measured["per_class"][index]["brier"] == pytest.approx(brier, abs=1e-12)
    assert not summary["left_out"]
    means = {key: np.mean([row[key] for row in expected.values()]) for key in expected[NAMES[0]]}
    assert summary["macro"] == pytest.approx(means, abs=1e-12)
    mask = predictions.labels >= 0
    pooled = predictions.labels[mask], predictions.probabilities[mask]
    assert summary["micro"] == pytest.approx(by_scikit_learn(*pooled), abs=1e-12)
    assert summary["accuracy"] == summary["micro"]["one_vs_rest_accuracy"]
    expected_nll = sklearn.metrics.log_loss(*pooled)
    assert measured["negative_log_likelihood"] == pytest.approx(expected_nll, abs=1e-12)
    assert measured["brier"] == pytest.approx(sklearn.metrics.brier_score_loss(*pooled), abs=1e-12)


def test_two_findings_that_exclude_each_other_have_the_numbers_of_two_classes():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 100)
    of_second = scipy.special.expit(random.normal(2 * labels - 1, 2))
    probabilities = np.stack([1 - of_second, of_second], axis=1)
    of_findings = np.eye(2, dtype=np.int64)[labels]
    one, many = (metrics.all_metrics(either, probabilities) for either in (labels, of_findings))
    for metric, values in one.items():
        np.testing.assert_array_equal(many[metric], values)
    bootstrap = PatientBootstrap(np.arange(100), resamples=100)
    one, many = (
        intervals.resample_metrics(bootstrap, either, probabilities) for either in (labels, of_findings)
    )
    np.testing.assert_array_equal(one.accuracy, many.accuracy)
    for metric, values in one.per_class.items():
        np.testing.assert_array_equal(many.per_class[metric], values)
    assert calibration.fit_temperature(labels, probabilities) == pytest.approx(
        calibration.fit_temperature(of_findings, probabilities), rel=1e-12
    )


def test_unknown_and_uncertain_labels_change_no_number():
    predictions = drawn(1)
    options = EvaluationOptions(resamples=100)
    summary = analyse(predictions, options, validation=predictions, other=predictions)
    moved = predictions.probabilities.copy()
    moved[predictions.labels < 0] = 0.123
    other = dataclasses.replace(predictions, probabilities=moved)
    assert analyse(other, options, validation=other, other=other) == summary


def test_a_finding_with_too_few_images_says_so_and_has_no_number():
    predictions = drawn(2)
    summary = analyse(predictions, EvaluationOptions(resamples=100), validation=predictions)
    assert summary["too_few"] == ["nodule"]
    row = summary["per_class"]["nodule"]
    assert row["images"] == 5
    assert {row[metric] for metric in ("auroc", "auprc", "sensitivity", "specificity")} == {None}
    assert set(summary["intervals"]["per_class"]["nodule"].values()) == {None}
    assert summary["thresholds"]["per_class"]["nodule"]["sensitivity"] is None
    assert summary["calibration"]["platt"]["lines"]["nodule"] is None
    assert summary["macro"]["auroc"] == pytest.approx(
        np.mean([summary["per_class"][name]["auroc"] for name in NAMES[:2]])
    )
    json.dumps(summary, allow_nan=False)
    probe = {"probe": None, "audit": None, "dropped": {}, "seen_in_training": False}
    for form in (text.evaluation_table, text.evaluation_in_brief):
        page = form(summary | probe | {"own_data": True, "split": "test"})
        assert "too few: nodule (5 of 200)" in page
        assert "macro auroc is without" not in page
        assert max(map(len, page.splitlines())) <= 100


def test_the_exact_interval_of_the_known_labels_is_over_the_patients_that_have_some():
    made = drawn(0)
    right = made.labels == 1
    labels = np.where(np.arange(200)[:, np.newaxis] < 8, right.astype(np.int64), -2)  # of four patients
    sure = dataclasses.replace(made, labels=labels, probabilities=np.where(right, 0.9, 0.1))
    found = analyse(sure, EvaluationOptions(resamples=100))
    assert found["accuracy"] == 1
    assert found["intervals"]["accuracy"][0] == pytest.approx(0.025 ** (1 / 4))


def test_the_threshold_of_youden_is_the_best_of_all():
    for seed in range(20):
        random = np.random.default_rng(seed)
        positive = random.random(40) < 0.3
        scores = np.round(random.random(40), 1)  # with ties
        found = thresholds.youden_threshold(positive, scores)

        def youden(threshold, positive=positive, scores=scores):
            given_ = scores >= threshold
            return (given_ & positive).sum() / positive.sum() - (given_ & ~positive).sum() / (~positive).sum()

        best = max(map(youden, scores))
        assert youden(found) == pytest.approx(best, abs=1e-12)
        assert found == max(score for score in scores if youden(score) == pytest.approx(best, abs=1e-12))
    assert np.isnan(thresholds.youden_threshold(np.ones(3, bool), np.ones(3)))


def test_platt_recovers_the_line_by_which_probabilities_are_wrong():
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, [20_000, 2])
    labels = (random.random([20_000, 2]) < scipy.special.expit(logits)).astype(np.int64)
    wrong = scipy.special.expit((logits - 1) / 0.5)
    for slope, offset in calibration.fit_platt(labels, wrong):
        assert slope == pytest.approx(0.5, abs=0.03)
        assert offset == pytest.approx(1, abs=0.06)
    right = calibration.apply_platt(wrong, calibration.fit_platt(labels, wrong))
    before, after = (calibration.measure_calibration(labels, p)["ece"] for p in (wrong, right))
    assert before > 0.1 > 0.02 > after
    temperature = calibration.fit_temperature(labels, scipy.special.expit(3 * logits))
    assert temperature == pytest.approx(3, abs=0.1)


def test_two_models_are_compared_finding_by_finding_with_holm():
    first, second = drawn(3), drawn(3)
    worse = second.probabilities.copy()
    worse[:, 0] = 1 - worse[:, 0]
    second = dataclasses.replace(second, probabilities=worse)
    found = compare_models(first, second, PatientBootstrap.of_names(first.groups, resamples=100))
    rows = found["per_finding"]
    assert rows["atelectasis"]["holm_p"] == pytest.approx(2 * rows["atelectasis"]["mcnemar_exact_p"])
    assert "nodule" not in rows  # of five images
    assert found["differences"]["nodule auroc"] == {"value": None, "interval": None}
    of_two = [found["differences"][f"{name} auroc"]["value"] for name in NAMES[:2]]
    assert found["differences"]["macro auroc"]["value"] == pytest.approx(np.mean(of_two))
    assert rows["atelectasis"]["holm_p"] < 1e-6
    assert rows["effusion"]["only_this"] == 0
    assert found["differences"]["atelectasis auroc"]["value"] > 0.5
    assert found["differences"]["effusion auroc"]["value"] == 0
    other = dataclasses.replace(second, labels=np.where(second.labels == 1, 0, second.labels))
    with pytest.raises(DataError, match="disagree about the label"):
        compare_models(first, other, PatientBootstrap.of_names(first.groups, resamples=100))


def test_predictions_are_read_back_as_they_were_written(tmp_path):
    predictions = drawn(4)
    path = tmp_path / "predictions_test.csv"
    write_predictions(path, predictions)
    found = read_predictions(path)
    assert dataclasses.replace(found, source="drawn", labels=None, probabilities=None) == dataclasses.replace(
        predictions, labels=None, probabilities=None
    )
    np.testing.assert_array_equal(found.labels, predictions.labels)
    np.testing.assert_array_equal(found.probabilities, predictions.probabilities)
    path.write_text(path.read_text().replace(",1,", ",5,", 1))
    with pytest.raises(DataError, match=r"predictions_test.csv line \d+ .*'5'"):
        read_predictions(path)


def test_findings_of_another_hospital_are_joined_or_unknown():
    mapped = map_classes(
        ("fluid", "pleural fluid", "nodule", "hernia"),
        ("nodule", "effusion", "edema"),
        {"fluid": "effusion", "pleural fluid": "effusion", "hernia": "-"},
    )
    theirs = np.array([[1, 0, 1, 1], [0, 0, 0, 1], [0, -1, -2, 0], [-2, 0, 0, 0], [-2, -1, 0, 0]])
    labels, kept = mapped.labels(theirs)
    expected = [[1, 1, -2], [0, 0, -2], [-2, -1, -2], [0, -2, -2], [0, -1, -2]]
    np.testing.assert_array_equal(labels, expected)
    assert kept.all()
    assert mapped.dropped(theirs) == {"hernia": 2}
    (note,) = wording.left_out_by_class_map({"dropped": {"hernia": 2}, "confusion_matrix": None})
    assert "hernia, present in 2 images" in note


def test_no_threshold_and_no_line_is_made_of_a_few_images_or_of_noise():
    made = drawn(5)
    assert np.isnan(thresholds.choose_thresholds(made.labels, made.probabilities, 0.9)).tolist() == [
        False,
        False,
        True,
    ]
    turned = 1 - made.probabilities
    assert calibration.fit_platt(made.labels, turned)[:2] == [None, None]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_line_is_found_where_all_probabilities_are_nearly_the_same(sign):
    random = np.random.default_rng(1)
    units = random.normal(0, 1, [400, 1])
    labels = (random.random([400, 1]) < scipy.special.expit(units)).astype(np.int64)
    # All are 0.953: such is a network that has learned the share of a finding, and little else.
    (line,) = calibration.fit_platt(labels, scipy.special.expit(3 + sign * 1e-4 * units))
    if sign < 0:  # the order of the images is the wrong one
        assert line is None
        return
    (in_units,) = calibration.fit_platt(labels, scipy.special.expit(units))
    assert line[0] == pytest.approx(in_units[0] / 1e-4, rel=1e-3)
    assert line[1] == pytest.approx(in_units[1] - 3 * line[0], rel=1e-3)


@pytest.mark.parametrize("probability", [0.3, 0.1, 0.7])
def test_no_line_is_made_of_one_probability(probability):
    labels = (np.arange(100)[:, None] % 3 == 0).astype(np.int64)
    assert calibration.fit_platt(labels, np.full([100, 1], probability)) == [None]


def rows_of(predictions: NamedPredictions, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return predictions.labels[rows], predictions.probabilities[rows]


def test_micro_brier_and_ece_are_resampled_with_their_patients():
    predictions = drawn(3, 90)
    bootstrap = PatientBootstrap.of_names(predictions.groups, resamples=200)
    resampled = intervals.resample_metrics(bootstrap, predictions.labels, predictions.probabilities)
    drawn_often = np.concatenate(list(bootstrap.times_drawn())).astype(int)
    measured = []
    for resample, often in enumerate(drawn_often):
        rows = np.repeat(np.arange(90), often[bootstrap.patient_of])
        measured.append(calibration.measure_calibration(*rows_of(predictions, rows)))
        if resample < 5:
            for metric, value in metrics.micro_metrics(*rows_of(predictions, rows)).items():
                assert resampled.micro[metric][resample] == pytest.approx(value, abs=1e-12, nan_ok=True)
    for one in measured:  # the nodule has too few images, whatever a resample has of the others
        one["ece"] = np.mean([row["ece"] for row in one["per_class"][:2]])
    found = calibration.calibration_intervals(predictions.labels, predictions.probabilities, NAMES, bootstrap)
    whole = calibration.measure_calibration(predictions.labels, predictions.probabilities)
    for metric in ("ece", "brier"):
        for of, interval, value in (
            (measured, found, whole),
            (
                [one["per_class"][1] for one in measured],
                found["per_class"]["effusion"],
                whole["per_class"][1],
            ),
        ):
            ends = np.quantile([one[metric] for one in of], [0.025, 0.975])
            if metric == "ece":  # without the bias of its resamples
                ends = np.maximum(ends + value[metric] - np.mean([one[metric] for one in of]), 0)
            assert interval[metric] == pytest.approx(ends, abs=1e-12)
            assert interval[metric][0] < value[metric] < interval[metric][1]
        assert found["per_class"]["nodule"][metric] is None  # too few
    classes = np.arange(90) % 3
    of_one = predictions.probabilities / predictions.probabilities.sum(axis=1, keepdims=True)
    found = calibration.calibration_intervals(classes, of_one, NAMES, bootstrap)
    value = calibration.measure_calibration(classes, of_one)["brier"]
    assert found["brier"][0] < value < found["brier"][1]
    assert "per_class" not in found


def test_micro_stands_beside_macro_with_its_intervals():
    predictions = drawn(4, 300)
    summary = analyse(predictions, EvaluationOptions(resamples=100), validation=predictions)
    assert summary["intervals"]["micro"].keys() == summary["micro"].keys()
    for metric, (low, high) in summary["intervals"]["micro"].items():
        assert low < summary["micro"][metric] < high
    probe = {"probe": None, "audit": None, "dropped": {}, "seen_in_training": False}
    lines = text.evaluation_table(summary | probe | {"own_data": True, "split": "test"}).splitlines()
    (titles,) = (line.split() for line in lines if "micro" in line.split())
    assert titles[-2:] == ["macro", "micro"]
    rows = {line[:15].strip(): line for line in lines}
    effusion = summary["per_class"]["effusion"]
    of_known = f" {effusion['images']} of {effusion['images'] + effusion['negatives']} "
    assert any(line.startswith("images") and of_known in line + " " for line in lines)
    brier, reach = summary["calibration"]["uncalibrated"], summary["calibration"]["uncalibrated"]["intervals"]
    assert f"{brier['brier']:.3f} [{reach['brier'][0]:.3f}, {reach['brier'][1]:.3f}]" in rows["Brier"]
    assert f"{brier['per_class']['effusion']['ece']:.3f}" in "\n".join(lines)


def test_two_runs_are_compared_at_the_thresholds_that_each_has_chosen():
    this, other = drawn(5, 400), drawn(5, 400)
    shifted = scipy.special.expit(scipy.special.logit(this.probabilities) - 3)
    this = dataclasses.replace(this, probabilities=shifted)  # the same model, far below 0.5
    options = EvaluationOptions(resamples=100)
    at_half = analyse(this, options, validation=this, other=other)["comparison"]
    assert at_half["at_thresholds"] is False
    assert at_half["per_finding"]["effusion"]["holm_p"] < 0.01
    chosen = analyse(this, options, validation=this, other=other, other_validation=other)["comparison"]
    assert chosen["at_thresholds"] is True
    row = chosen["per_finding"]["effusion"]
    assert (row["only_this"], row["only_other"], row["holm_p"], row["auroc_holm_p"]) == (0, 0, 1.0, 1.0)
    assert list(chosen["per_finding"]) == ["atelectasis", "effusion"]
    few = dataclasses.replace(other, labels=np.where(np.arange(3) == 1, 0, other.labels))
    without = analyse(this, options, validation=few, other=other, other_validation=other)["comparison"]
    assert list(without["per_finding"]) == ["atelectasis"]  # the other has no threshold of this run
    noise = np.random.default_rng(0).random(other.probabilities.shape)
    worse = dataclasses.replace(other, probabilities=noise)
    summary = analyse(this, options, validation=this, other=worse, other_validation=worse)
    found = summary["comparison"]
    assert found["per_finding"]["effusion"]["auroc_p"] == pytest.approx(2 / 101)
    assert found["per_finding"]["effusion"]["auroc_holm_p"] == pytest.approx(4 / 101)
    said = "\n".join(text.comparison(summary))
    assert "effusion" in said
    assert "accuracy at p >= 0.5 +" in said
