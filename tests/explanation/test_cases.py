"""Which images are shown: the surest ones of each kind."""

import numpy as np

from cxr_train.explanation.cases import asked_cases, pick_cases

# Positions 10 to 16; columns are the probabilities of the classes 0, 1, 2.
PROBABILITIES = np.array(
    [
        [0.6, 0.3, 0.1],
        [0.9, 0.0, 0.1],
        [0.2, 0.7, 0.1],
        [0.1, 0.8, 0.1],
        [0.3, 0.3, 0.4],
        [0.8, 0.1, 0.1],
        [0.0, 0.1, 0.9],
    ]
)
LABELS = np.array([0, 0, 0, 0, 0, 1, 2])
NAMES = ("a", "b", "c")


def picked(classes, each):
    cases = pick_cases(np.arange(10, 17), LABELS, PROBABILITIES, NAMES, classes, each=each)
    return [(case.kind, case.mapped, case.position) for case in cases]


def test_the_surest_come_first():
    assert picked([0], 2) == [
        ("true_positive", (0,), 11),
        ("true_positive", (0,), 10),
        ("false_negative", (0,), 13),
        ("false_negative", (0,), 12),
        ("false_positive", (0,), 15),
        ("confusion", (0, 1), 13),
        ("confusion", (0, 1), 12),
        ("confusion", (0, 2), 14),
        ("confusion", (1, 0), 15),
    ]


def test_a_class_without_errors_has_no_gallery_of_them():
    assert picked([2], 4) == [
        ("true_positive", (2,), 16),
        ("false_positive", (2,), 14),
        ("confusion", (0, 2), 14),
    ]


def test_a_case_says_what_was_true_and_what_was_predicted():
    case = pick_cases(np.arange(7), LABELS, PROBABILITIES, NAMES, [1], each=1)[0]
    assert (case.kind, case.label, case.predicted) == ("false_negative", "b", "a")
    assert (case.probability, case.label_probability) == (0.8, 0.1)


def test_nothing_wrong_nothing_confused():
    right = pick_cases(np.arange(2), np.array([0, 1]), np.eye(2), NAMES, [0, 1], each=3)
    assert [case.kind for case in right] == ["true_positive", "true_positive"]


def test_an_image_that_was_asked_for_shows_every_finding_that_the_model_says():
    labels, thresholds = np.array([1, 0, -2]), np.array([0.1, 0.5, 0.35])
    cases = asked_cases(4, labels, np.array([0.2, 0.1, 0.4]), NAMES, thresholds)
    assert [(case.mapped, case.label, case.predicted) for case in cases] == [
        ((2,), f"{NAMES[2]} unknown", NAMES[2]),
        ((0,), NAMES[0], NAMES[0]),
    ]
    (case,) = asked_cases(4, labels, np.array([0.01, 0.1, 0.3]), NAMES, thresholds)
    assert (case.mapped, case.predicted, case.probability) == ((2,), f"no {NAMES[2]}", 0.7)
    (case,) = asked_cases(4, np.array(1), np.array([0.3, 0.1, 0.6]), NAMES, thresholds)
    assert (case.mapped, case.label, case.predicted) == ((2,), NAMES[1], NAMES[2])


def test_findings_have_a_gallery_each_by_their_thresholds_and_unknown_labels_none():
    labels = np.array([[1, 0, -2], [1, 1, -1], [0, 0, 1], [0, 1, 1]])
    probabilities = np.array([[0.3, 0.1, 0.9], [0.1, 0.9, 0.9], [0.25, 0.6, 0.9], [0.05, 0.2, 0.1]])
    thresholds = np.array([0.2, 0.5, 0.5])
    cases = pick_cases(np.arange(4), labels, probabilities, NAMES, [0, 1, 2], each=3, thresholds=thresholds)
    assert [(case.kind, case.mapped, case.position) for case in cases] == [
        ("true_positive", (0,), 0),
        ("false_negative", (0,), 1),
        ("false_positive", (0,), 2),
        ("true_positive", (1,), 1),
        ("false_negative", (1,), 3),
        ("false_positive", (1,), 2),
        ("true_positive", (2,), 2),
        ("false_negative", (2,), 3),
    ]
    wrong = cases[2]
    assert (wrong.label, wrong.predicted) == ("no a", "a")
    assert (wrong.probability, wrong.label_probability) == (0.25, 0.75)
