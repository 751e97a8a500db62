"""Classification metrics: from a confusion matrix, and from probabilities.

labels, probabilities -> decisions, class by class -> one-vs-rest counts -> rates -> summary

Labels are those of one class an image, [N], or of C findings, [N, C]: see `decisions`.

A metric whose denominator is zero (the sensitivity of a class without images, the
precision of a class that is never predicted) is undefined: it is NaN here and null
in JSON, never a made-up 0 or 1. `macro` says what an average does with it.

Padding must be gone before: every row that comes in is counted.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_data.core.errors import CxrError
from cxr_data.sources.finding_values import ABSENT, PRESENT, UNCERTAIN, UNKNOWN
from cxr_data.stats.undefined import json_number, ratio
from cxr_train.evaluation.decisions import Counts, Decisions, Floats
from cxr_train.runs.metric_names import RATES


def confusion_matrix(labels: npt.ArrayLike, predictions: npt.ArrayLike, classes: int) -> Counts:
    """Count the images of each true class that were given each predicted class.

    Args:
      labels: true class indices, integers [N] in [0, classes).
      predictions: predicted class indices, integers [N] in [0, classes).
      classes: number of classes C; a class may be missing from both arrays.

    Returns:
      int64 [C, C], indexed [true, predicted]; its sum is N.

    Raises:
      ValueError: the arrays differ in length, are not integers, or hold an index
        outside of [0, classes).
    """
    true = _class_indices(labels, classes, "labels")
    predicted = _class_indices(predictions, classes, "predictions")
    if true.shape != predicted.shape:
        raise ValueError(f"{true.size} labels but {predicted.size} predictions")
    cells = np.bincount(true * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes).astype(np.int64)


def accuracy(matrix: npt.ArrayLike) -> Floats:
    """Return the plain accuracy: the share of images given their true class, trace / N.

    Args:
      matrix: confusion matrices [..., C, C], indexed [true, predicted].

    Returns:
      float64 [...] in [0, 1]; NaN for a matrix without images.
    """
    matrix = np.asarray(matrix)
    return ratio(np.trace(matrix, axis1=-2, axis2=-1), matrix.sum(axis=(-2, -1)))


@dataclasses.dataclass(frozen=True)
class OneVsRest:
    """A confusion matrix seen as C binary problems, "this class" against "any other".

    Every rate is float64 [..., C] in [0, 1], NaN where its denominator is 0. Leading
    dimensions are kept, so that a stack of bootstrap replicates costs one call.

    Attributes:
      true_positives: int64 [..., C], images of the class that were given it.
      false_positives: int64 [..., C], images of another class that were given it.
      false_negatives: int64 [..., C], images of the class that were given another.
      true_negatives: int64 [..., C], all other images.
    """

    true_positives: Counts
    false_positives: Counts
    false_negatives: Counts
    true_negatives: Counts

    @classmethod
    def from_matrix(cls, matrix: npt.ArrayLike) -> "OneVsRest":
        """Split confusion matrices [..., C, C], indexed [true, predicted]."""
        matrix = np.asarray(matrix, dtype=np.int64)
        hits = np.diagonal(matrix, axis1=-2, axis2=-1)
        of_class = matrix.sum(axis=-1)
        given_class = matrix.sum(axis=-2)
        images = matrix.sum(axis=(-2, -1))[..., np.newaxis]
        return cls(hits, given_class - hits, of_class - hits, images - of_class - given_class + hits)

    @classmethod
    def from_decisions(cls, decisions: "Decisions") -> "OneVsRest":
        """Count [C]; unlike in a matrix, an image may be given several classes."""
        return cls(*(cell.sum(axis=0) for cell in decisions.outcomes))

    @property
    def micro(self) -> "OneVsRest":
        """The counts [..., 1] of all classes together."""
        return OneVsRest(
            *(getattr(self, f.name).sum(axis=-1, keepdims=True) for f in dataclasses.fields(self))
        )

    @property
    def one_vs_rest_accuracy(self) -> Floats:
        """(TP + TN) / N. Its macro average is what the study prints as accuracy.

        It is higher than the plain accuracy, because an image that two classes
        disagree about is still a true negative of every third class: with three
        classes the error is 2/3 of the plain one (97.57 % instead of 96.36 %).
        """
        right = self.true_positives + self.true_negatives
        return ratio(right, right + self.false_positives + self.false_negatives)

    @property
    def sensitivity(self) -> Floats:
        """TP / (TP + FN), also called recall; undefined for a class without images.

        The study's sensitivity is its macro average (the balanced accuracy),
        although its slide prints the formula of the precision.
        """
        return ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def specificity(self) -> Floats:
        """TN / (TN + FP); undefined where every image is of the class. As in the study."""
        return ratio(self.true_negatives, self.true_negatives + self.false_positives)

    @property
    def precision(self) -> Floats:
        """TP / (TP + FP); undefined for a class that is never predicted."""
        return ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def f1(self) -> Floats:
        """2 TP / (2 TP + FP + FN), the harmonic mean of precision and sensitivity.

        In this form it is 0, not undefined, for a class that has images and is
        never predicted; undefined only for a class that occurs on neither side.
        """
        return ratio(
            2 * self.true_positives,
            2 * self.true_positives + self.false_positives + self.false_negatives,
        )


def macro(values: npt.ArrayLike) -> Floats:
    """Average over the classes, each with the same weight.

    Undefined classes (NaN) are left out of the average, as scikit-learn does with
    `zero_division=nan`, and the average is NaN only where no class is defined.
    This is the fair choice for a class without images. For the precision of a
    class that is never predicted it flatters the model, so `summarize` lists the
    classes left out; the macro F1, where such a class counts as 0, is the check.

    Args:
      values: float [..., C].

    Returns:
      float64 [...].
    """
    values = np.asarray(values, dtype=np.float64)
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def auroc(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Floats:
    """Return the area under the ROC curve of each class against the rest (scikit-learn's).

    The probability that an image of the class scores higher on it than an image
    of another class, a tie counting one half.

    Args:
      labels: true class indices, integers [N] in [0, C); or of findings, see `decisions`.
      probabilities: float [N, C]; only their order within a column matters.

    Returns:
      float64 [C] in [0, 1]; NaN for a class that no image or every image has.

    Raises:
      ValueError, CxrError: as `summarize`.
    """
    return _per_class("roc_auc_score", labels, probabilities)


def auprc(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Floats:
    """Return the area under the precision-recall curve of each class, as average precision.

    sum over thresholds of (R_n - R_{n-1}) P_n, scikit-learn's step-wise sum: the
    trapezoidal area is too optimistic (Davis and Goadrich, 2006). Chance is the
    share of the class in the data, not one half.

    Args:
      labels: true class indices, integers [N] in [0, C); or of findings, see `decisions`.
      probabilities: float [N, C]; only their order within a column matters.

    Returns:
      float64 [C] in [0, 1]; NaN for a class that no image or every image has.

    Raises:
      ValueError, CxrError: as `summarize`.
    """
    return _per_class("average_precision_score", labels, probabilities)


def all_metrics(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, hide_few: bool = False
) -> dict[str, Floats]:
    """Return each of `RATES` and `RANKINGS` by name, float64 [C]; the arguments as for `summarize`."""
    true, scores = _labels_and_scores(labels, probabilities)
    decisions = Decisions.of(true, scores)
    one_vs_rest = OneVsRest.from_decisions(decisions)
    metrics = {name: getattr(one_vs_rest, name) for name in RATES}
    metrics |= {"auroc": auroc(true, scores), "auprc": auprc(true, scores)}
    hidden = decisions.too_few() & hide_few
    return {metric: np.where(hidden, np.nan, values) for metric, values in metrics.items()}


def micro_metrics(labels: Counts, probabilities: Floats) -> dict[str, float]:
    """Return each of `RATES` and `RANKINGS` over all known labels of findings, as if they were of one.

    Args:
      labels: int64 [N, C]; probabilities: float64 [N, C].
    """
    counts = OneVsRest.from_decisions(Decisions.of(labels, probabilities)).micro
    pooled = labels.reshape(-1, 1), probabilities.reshape(-1, 1)
    values = {name: getattr(counts, name)[0] for name in RATES}
    return {**values, "auroc": auroc(*pooled)[0], "auprc": auprc(*pooled)[0]}


def summarize(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    class_names: Sequence[str],
    *,
    hide_few: bool = False,
) -> dict[str, Any]:
    """Evaluate predicted probabilities; the result goes to JSON as it is.

    The predicted class is the most probable one, the lower index in a tie. A finding is predicted where its
    probability is at least 0.5.

    Args:
      labels: true class indices, integers [N] in [0, C); or of findings, see `decisions`.
      probabilities: finite float [N, C], one row an image.
      class_names: C distinct names in index order.
      hide_few: whether the metrics of a class or finding are undefined where `Decisions.too_few` says so.

    Returns:
      A dictionary of plain Python values, undefined metrics being None (null):
        images: N.
        class_names: as given.
        confusion_matrix: C lists of C counts, [true][predicted]; null for findings.
        accuracy: plain accuracy; of findings, the share of the known labels that is right.
        macro: the average over the classes of each of `RATES` and `RANKINGS`.
        per_class: by class name, `images` (of that true class) and each of
          `RATES` and `RANKINGS`; of findings also `negatives`, `unknown` and `uncertain` images.
        left_out: by metric, the names of the classes for which it is undefined
          and which its macro average therefore leaves out; {} in the usual case.
        too_few: the names whose metrics `hide_few` has left out; only with it.
        micro: of findings alone, `RATES` and `RANKINGS` over all known labels together.

    Raises:
      ValueError: shapes, lengths or class indices that do not fit together.
      CxrError: a probability is NaN or infinite, the model has diverged.
    """
    names = [str(name) for name in class_names]
    if len(set(names)) != len(names):
        raise ValueError(f"class names are not distinct: {names}")
    true, scores = _labels_and_scores(labels, probabilities)
    if scores.shape[1] != len(names):
        raise ValueError(f"probabilities of {scores.shape[1]} classes but {len(names)} class names")

    decisions = Decisions.of(true, scores)
    metrics = all_metrics(true, scores, hide_few=hide_few)
    counts: dict[str, list[int]] = {"images": decisions.positives.sum(axis=0).tolist()}
    if decisions.of_findings:
        counts["negatives"] = decisions.negatives.sum(axis=0).tolist()
        counts["uncertain"] = (true == UNCERTAIN).sum(axis=0).tolist()
        counts["unknown"] = (true == UNKNOWN).sum(axis=0).tolist()
    summary: dict[str, Any] = {
        "images": len(true),
        "class_names": names,
        "confusion_matrix": None,
        "accuracy": json_number(accuracy_of(true, scores)),
        "macro": {metric: json_number(macro(values)) for metric, values in metrics.items()},
        "per_class": {
            name: {key: counted[index] for key, counted in counts.items()}
            | {metric: json_number(values[index]) for metric, values in metrics.items()}
            for index, name in enumerate(names)
        },
        "left_out": _undefined_classes(metrics, names),
    }
    if hide_few:
        summary["too_few"] = [name for name, few in zip(names, decisions.too_few(), strict=True) if few]
    if not decisions.of_findings:
        matrix = confusion_matrix(true, scores.argmax(axis=1), len(names))
        return summary | {"confusion_matrix": matrix.tolist()}
    micro = micro_metrics(true, scores)
    return summary | {"micro": {metric: json_number(value) for metric, value in micro.items()}}


def accuracy_of(labels: Counts, probabilities: Floats) -> Floats:
    """Return the share [] of images given their true class; of findings, of known labels that are right."""
    if labels.ndim == 1:
        return ratio((probabilities.argmax(axis=1) == labels).sum(), len(labels))
    decisions = Decisions.of(labels, probabilities)
    right = (decisions.is_class == decisions.is_given) & decisions.known
    return ratio(right.sum(), decisions.known.sum())


def _class_indices(values: npt.ArrayLike, classes: int, what: str) -> Counts:
    """Return `values` as int64 [N] after checking that each is a class index."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{what} have shape {list(array.shape)}, not [N]")
    if array.size == 0:
        return array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{what} are {array.dtype}, not class indices")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= classes:
        raise ValueError(f"{what} reach from {low} to {high}, outside of the {classes} classes")
    return array.astype(np.int64)


def _finding_labels(labels: npt.NDArray[Any], findings: int) -> Counts:
    """Return labels as int64 [N, C] after checking that each is of `decisions`."""
    if labels.shape[1] != findings:
        raise ValueError(f"labels of {labels.shape[1]} findings but probabilities of {findings}")
    if not np.isin(labels, (PRESENT, ABSENT, UNCERTAIN, UNKNOWN)).all():
        raise ValueError("labels of findings are none of 1, 0, -1 and -2")
    return labels.astype(np.int64)


def _labels_and_scores(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[Counts, Floats]:
    """Return int64 [N] and float64 [N, C] after checking that they fit together."""
    scores = np.asarray(probabilities, dtype=np.float64)
    if scores.ndim != 2:
        raise ValueError(f"probabilities have shape {list(scores.shape)}, not [N, C]")
    true = np.asarray(labels)
    if true.ndim == 2:
        true = _finding_labels(true, scores.shape[1])
    else:
        true = _class_indices(labels, scores.shape[1], "labels")
    if len(true) != len(scores):
        raise ValueError(f"{len(true)} labels but {len(scores)} rows of probabilities")
    lost = len(scores) - int(np.isfinite(scores).all(axis=1).sum())
    if lost:
        raise CxrError(
            f"the probabilities of {lost} of {len(scores)} images are not finite: the model has "
            "diverged; train it again with a lower --learning_rate or with --precision=float32"
        )
    return true, scores


def _per_class(metric: str, labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Floats:
    """Apply a binary ranking metric of `sklearn.metrics` to every class against the rest."""
    import sklearn.metrics  # here: it takes a second, and most of this module does without it

    true, scores = _labels_and_scores(labels, probabilities)
    decisions = Decisions.of(true, scores)
    result = np.full(scores.shape[1], np.nan)
    for index in range(scores.shape[1]):
        known = decisions.known[:, index]
        positive = decisions.is_class[known, index]
        # A ranking needs both sides; scikit-learn warns and answers NaN, 0 or 1 by metric.
        if positive.any() and not positive.all():
            result[index] = getattr(sklearn.metrics, metric)(positive, scores[known, index])
    return result


def _undefined_classes(metrics: dict[str, Floats], names: Sequence[str]) -> dict[str, list[str]]:
    undefined = {
        metric: [name for name, value in zip(names, values, strict=True) if np.isnan(value)]
        for metric, values in metrics.items()
    }
    return {metric: classes for metric, classes in undefined.items() if classes}
