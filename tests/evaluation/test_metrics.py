"""Metrics against scikit-learn, against hand-computed cases and against the study."""

import json
import pathlib
import warnings

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cxr_data.core.errors import CxrError
from cxr_train.evaluation import metrics
from cxr_train.runs.metric_names import RANKINGS, RATES

# The first call into scikit-learn imports for longer than hypothesis grants an example.
UNHURRIED = settings(deadline=None, max_examples=30)
NAMES = ("normal", "covid", "pneumonia")

# Accuracy, sensitivity and specificity in percent, as the study prints them.
PUBLISHED = {
    "mobilenet_v2": (96.29, 94.09, 97.36),
    "vgg16": (96.85, 94.75, 97.74),
    "densenet201": (96.87, 94.79, 97.75),
    "xception": (97.16, 95.34, 97.99),
    "inception_resnet_v2": (97.11, 95.30, 97.94),
    "resnet152_v2": (96.69, 94.51, 97.61),
    "nasnet_large": (95.69, 92.61, 96.63),
    "inception_v3": (97.57, 95.98, 98.27),
}

# [true, predicted]; the third class is never predicted, so its precision is 0/0.
HAND = np.array([[5, 1, 0], [2, 4, 0], [1, 3, 0]])


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels [N] and predictions [N] over C classes, some of them missing."""
    classes = draw(st.integers(2, 6))
    images = draw(st.integers(1, 60))
    index = st.integers(0, classes - 1)
    labels, predicted = (draw(hnp.arrays(np.int64, images, elements=index)) for _ in range(2))
    return labels, predicted, classes


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N] in which every class occurs, and probabilities [N, C] with many ties."""
    classes = draw(st.integers(2, 5))
    images = draw(st.integers(2 * classes, 40))
    labels = draw(st.permutations([number % classes for number in range(images)]))
    scores = draw(hnp.arrays(np.int64, (images, classes), elements=st.integers(1, 9)))
    return np.array(labels), scores / scores.sum(axis=1, keepdims=True)


class TestConfusionMatrix:
    def test_true_class_is_the_row(self) -> None:
        matrix = metrics.confusion_matrix([0, 0, 1, 2], [0, 2, 1, 1], 3)
        np.testing.assert_array_equal(matrix, [[1, 0, 1], [0, 1, 0], [0, 1, 0]])
        assert matrix.dtype == np.int64

    @UNHURRIED
    @given(predictions())
    def test_equals_scikit_learn(self, case: tuple[np.ndarray, np.ndarray, int]) -> None:
        labels, predicted, classes = case
        np.testing.assert_array_equal(
            metrics.confusion_matrix(labels, predicted, classes),
            sklearn.metrics.confusion_matrix(labels, predicted, labels=range(classes)),
        )

    def test_no_images(self) -> None:
        np.testing.assert_array_equal(metrics.confusion_matrix([], [], 2), np.zeros((2, 2)))

    def test_narrow_integers_do_not_overflow(self) -> None:
        labels = np.full(3, 100, np.uint8)
        assert metrics.confusion_matrix(labels, labels, 101)[100, 100] == 3

    @pytest.mark.parametrize(
        ("labels", "predicted", "message"),
        [
            ([0, 1], [0], "2 labels but 1 predictions"),
            ([0, 3], [0, 0], "labels reach from 0 to 3"),
            ([0, 1], [-1, 0], "predictions reach from -1 to 0"),
            ([0.0, 1.0], [0, 1], "labels are float64"),
            ([[0], [1]], [0, 1], r"labels have shape \[2, 1\]"),
        ],
    )
    def test_refuses(self, labels: list, predicted: list, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            metrics.confusion_matrix(labels, predicted, 3)


class TestRates:
    def test_by_hand(self) -> None:
        rates = metrics.OneVsRest.from_matrix(HAND)
        np.testing.assert_array_equal(rates.true_positives, [5, 4, 0])
        np.testing.assert_array_equal(rates.false_positives, [3, 4, 0])
        np.testing.assert_array_equal(rates.false_negatives, [1, 2, 4])
        np.testing.assert_array_equal(rates.true_negatives, [7, 6, 12])
        np.testing.assert_allclose(rates.one_vs_rest_accuracy, [12 / 16, 10 / 16, 12 / 16])
        np.testing.assert_allclose(rates.sensitivity, [5 / 6, 4 / 6, 0])
        np.testing.assert_allclose(rates.specificity, [7 / 10, 6 / 10, 1])
        np.testing.assert_allclose(rates.precision, [5 / 8, 4 / 8, np.nan])
        np.testing.assert_allclose(rates.f1, [10 / 14, 8 / 14, 0])
        assert metrics.accuracy(HAND) == 9 / 16

    @UNHURRIED
    @given(predictions())
    def test_equal_scikit_learn(self, case: tuple[np.ndarray, np.ndarray, int]) -> None:
        labels, predicted, classes = case
        matrix = metrics.confusion_matrix(labels, predicted, classes)
        rates = metrics.OneVsRest.from_matrix(matrix)

        binary = sklearn.metrics.multilabel_confusion_matrix(labels, predicted, labels=range(classes))
        np.testing.assert_array_equal(rates.true_negatives, binary[:, 0, 0])
        np.testing.assert_array_equal(rates.false_positives, binary[:, 0, 1])
        np.testing.assert_array_equal(rates.false_negatives, binary[:, 1, 0])
        np.testing.assert_array_equal(rates.true_positives, binary[:, 1, 1])

        precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
            labels, predicted, labels=range(classes), zero_division=np.nan
        )
        close = {"rtol": 0, "atol": 1e-12, "equal_nan": True}
        np.testing.assert_allclose(rates.sensitivity, recall, **close)
        np.testing.assert_allclose(rates.precision, precision, **close)
        np.testing.assert_allclose(rates.f1, f1, **close)
        np.testing.assert_allclose(
            metrics.accuracy(matrix), sklearn.metrics.accuracy_score(labels, predicted), **close
        )
        for name in range(classes):
            np.testing.assert_allclose(
                rates.one_vs_rest_accuracy[name],
                sklearn.metrics.accuracy_score(labels == name, predicted == name),
                **close,
            )
            # Specificity is the recall of "not this class".
            np.testing.assert_allclose(
                rates.specificity[name],
                sklearn.metrics.recall_score(labels != name, predicted != name, zero_division=np.nan),
                **close,
            )

    @UNHURRIED
    @given(predictions())
    def test_macro_equals_scikit_learn(self, case: tuple[np.ndarray, np.ndarray, int]) -> None:
        labels, predicted, classes = case
        rates = metrics.OneVsRest.from_matrix(metrics.confusion_matrix(labels, predicted, classes))
        expected = sklearn.metrics.precision_recall_fscore_support(
            labels, predicted, labels=range(classes), average="macro", zero_division=np.nan
        )
        for values, value in zip((rates.precision, rates.sensitivity, rates.f1), expected[:3], strict=True):
            np.testing.assert_allclose(metrics.macro(values), value, rtol=0, atol=1e-12, equal_nan=True)

    def test_a_stack_is_each_matrix_alone(self) -> None:
        stack = np.random.default_rng(0).integers(0, 9, size=(4, 5, 3, 3))
        stack[1, 2] = 0
        together = metrics.OneVsRest.from_matrix(stack)
        for index in np.ndindex(4, 5):
            alone = metrics.OneVsRest.from_matrix(stack[index])
            np.testing.assert_array_equal(metrics.accuracy(stack)[index], metrics.accuracy(stack[index]))
            for name in RATES:
                np.testing.assert_array_equal(getattr(together, name)[index], getattr(alone, name))

    def test_one_vs_rest_error_of_three_classes_is_two_thirds(self) -> None:
        matrix = np.random.default_rng(1).integers(1, 50, size=(3, 3))
        one_vs_rest = metrics.macro(metrics.OneVsRest.from_matrix(matrix).one_vs_rest_accuracy)
        assert 1 - one_vs_rest == pytest.approx(2 / 3 * (1 - metrics.accuracy(matrix)), abs=1e-12)

    def test_without_images_nothing_is_defined_and_nothing_warns(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rates = metrics.OneVsRest.from_matrix(np.zeros((3, 3), int))
            values = [metrics.macro(getattr(rates, name)) for name in RATES]
            assert np.isnan([*values, metrics.accuracy(np.zeros((3, 3), int))]).all()

    def test_macro_leaves_undefined_classes_out(self) -> None:
        assert metrics.macro([0.5, np.nan, 1.0]) == 0.75
        np.testing.assert_array_equal(metrics.macro([[0.5, np.nan], [np.nan, np.nan]]), [0.5, np.nan])


class TestRankings:
    def test_auroc_by_hand(self) -> None:
        scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8]])
        # Of the four pairs (image of class 1, image of class 0) three are in order, one is a tie.
        np.testing.assert_allclose(metrics.auroc([0, 0, 1, 1], scores), [3.5 / 4, 3.5 / 4], atol=1e-15)

    @UNHURRIED
    @given(scored())
    def test_auroc_counts_pairs(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        labels, scores = case
        result = metrics.auroc(labels, scores)
        for name in range(scores.shape[1]):
            inside, outside = scores[labels == name, name], scores[labels != name, name]
            pairs = np.sign(inside[:, None] - outside[None, :]) / 2 + 0.5
            assert result[name] == pytest.approx(pairs.mean(), abs=1e-12)

    @UNHURRIED
    @given(scored())
    def test_equal_scikit_learn(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        labels, scores = case
        every = np.eye(scores.shape[1])[labels]
        for ours, theirs in (
            (metrics.auroc, sklearn.metrics.roc_auc_score),
            (metrics.auprc, sklearn.metrics.average_precision_score),
        ):
            close = {"rtol": 0, "atol": 1e-12}
            np.testing.assert_allclose(ours(labels, scores), theirs(every, scores, average=None), **close)
            np.testing.assert_allclose(
                metrics.macro(ours(labels, scores)), theirs(every, scores, average="macro"), **close
            )

    def test_a_class_without_images_is_undefined(self) -> None:
        scores = [[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for metric in (metrics.auroc, metrics.auprc):
                np.testing.assert_array_equal(np.isnan(metric([0, 1, 0], scores)), [False, False, True])
                assert np.isnan(metric([0, 0, 0], scores)).all()

    def test_a_diverged_model_is_named(self) -> None:
        with pytest.raises(CxrError, match="1 of 2 images .*finite.*--learning_rate"):
            metrics.auroc([0, 1], [[0.5, 0.5], [np.nan, 0.5]])


class TestSummarize:
    def test_by_hand(self) -> None:
        probabilities = [[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3]]
        summary = metrics.summarize([0, 0, 1, 1], probabilities, NAMES)
        assert summary["images"] == 4
        assert summary["accuracy"] == 0.75
        assert summary["confusion_matrix"] == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
        assert summary["per_class"]["covid"] == {
            "images": 2,
            "one_vs_rest_accuracy": 0.75,
            "sensitivity": 1.0,
            "specificity": 0.5,
            "precision": 2 / 3,
            "f1": 0.8,
            "auroc": 0.75,
            "auprc": pytest.approx(0.5 * 1 + 0.5 * 2 / 3),
        }
        assert summary["per_class"]["pneumonia"]["sensitivity"] is None
        assert summary["per_class"]["pneumonia"]["specificity"] == 1.0
        assert summary["macro"]["sensitivity"] == 0.75
        assert summary["left_out"] == {
            name: ["pneumonia"] for name in ("sensitivity", "precision", "f1", "auroc", "auprc")
        }

    def test_survives_strict_json(self) -> None:
        for labels, rows in (([0, 1], 2), ([], 0)):
            summary = metrics.summarize(labels, np.full((rows, 3), 1 / 3), NAMES)
            assert json.loads(json.dumps(summary, allow_nan=False)) == summary

    def test_nothing_is_left_out_when_all_is_defined(self) -> None:
        summary = metrics.summarize([0, 1, 2], np.eye(3), NAMES)
        assert summary["left_out"] == {}
        assert set(summary["macro"]) == {*RATES, *RANKINGS}
        assert set(summary["macro"].values()) == {1.0}

    def test_a_tie_goes_to_the_lower_index(self) -> None:
        assert metrics.summarize([1], [[0.2, 0.4, 0.4]], NAMES)["confusion_matrix"][1] == [0, 1, 0]

    @UNHURRIED
    @given(scored())
    def test_order_of_the_images_does_not_matter(self, case: tuple[np.ndarray, np.ndarray]) -> None:
        labels, scores = case
        names = [f"class {index}" for index in range(scores.shape[1])]
        order = np.random.default_rng(0).permutation(len(labels))
        assert metrics.summarize(labels, scores, names) == metrics.summarize(
            labels[order], scores[order], names
        )

    @pytest.mark.parametrize(
        ("labels", "probabilities", "names", "message"),
        [
            ([0], np.eye(3), NAMES, "1 labels but 3 rows"),
            ([0, 1, 2], np.eye(3), ("a", "b"), "3 classes but 2 class names"),
            ([0, 1, 2], np.eye(3), ("a", "b", "a"), "not distinct"),
            ([0, 1, 2], np.ones(3), NAMES, r"shape \[3\], not \[N, C\]"),
            ([0, 1, 3], np.eye(3), NAMES, "outside of the 3 classes"),
        ],
    )
    def test_refuses(self, labels: list, probabilities: np.ndarray, names: tuple, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            metrics.summarize(labels, probabilities, names)


@pytest.fixture(scope="module")
def study(shared: pathlib.Path) -> dict:
    oracle = shared / "oracle" / "study_predictions.json"
    if not oracle.exists():
        pytest.skip(f"the study's public predictions are not here: {oracle}")
    return json.loads(oracle.read_text())


class TestStudy:
    @pytest.mark.parametrize("model", PUBLISHED)
    def test_published_values(self, study: dict, model: str) -> None:
        matrix = metrics.confusion_matrix(study["y_true"], study["y_pred"][model], len(NAMES))
        rates = metrics.OneVsRest.from_matrix(matrix)
        ours = [rates.one_vs_rest_accuracy, rates.sensitivity, rates.specificity]
        np.testing.assert_allclose(
            [100 * metrics.macro(values) for values in ours], PUBLISHED[model], rtol=0, atol=0.01
        )

    def test_the_headline_accuracy_is_one_vs_rest(self, study: dict) -> None:
        matrix = metrics.confusion_matrix(study["y_true"], study["y_pred"]["inception_v3"], len(NAMES))
        assert round(100 * float(metrics.accuracy(matrix)), 2) == 96.36

    def test_published_values_are_those_of_the_file(self, study: dict) -> None:
        assert study["class_names"] == list(NAMES)
        assert {model: tuple(values.values()) for model, values in study["published_percent"].items()} == (
            PUBLISHED
        )
