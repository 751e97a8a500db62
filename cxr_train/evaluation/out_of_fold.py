"""Predictions of a whole pool, each image by the model that was not trained on it, and doubtful labels.

Each of K runs has validated on one fold (`cxr_train.main --fold=KofN`); together their predictions are of
every image once. An estimate from them is of the recipe, not of one model: the K models differ.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.wording import typed
from cxr_data.records.split_names import fold_splits, parse_split
from cxr_data.stats.undefined import json_number
from cxr_train.evaluation import metrics
from cxr_train.evaluation.decisions import Decisions
from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.evaluation.stored import stored_predictions
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.saved_run import trained_on


def fold_predictions(runs: Sequence[str]) -> dict[str, NamedPredictions]:
    """Return the predictions of each run on its fold.

    Raises:
      UsageError: a run has no fold, or the runs are not of all folds of one pool, once each.
      DataError: a run is not whole, or its best model has not predicted its fold.
    """
    found, pools, numbers = {}, set(), []
    data: dict[tuple[str, str], str] = {}
    for run in runs:
        config = TrainConfig.load(RunLayout(pathlib.Path(run)).config)
        parsed = parse_split(config.validation_split)
        fold, pool = parsed.fold, parsed.pool
        if fold is None or config.train_split != fold_splits(pool, fold.number, fold.count)[0]:
            raise UsageError(f"--runs: {run} was not trained with --fold")
        manifest = trained_on(pathlib.Path(run))
        data.setdefault((manifest.inputs_hash, manifest.index_sha256), run)
        predictions = stored_predictions(pathlib.Path(run), config.validation_split)
        if predictions is None:
            raise DataError(
                f"{run} has no predictions of {config.validation_split} by its best model; "
                f"python -m cxr_train.evaluate {typed(run_dir=run, split=config.validation_split)} makes them"
            )
        found[run] = predictions
        pools.add((pool, fold.count))
        numbers.append(fold.number)
    if len(data) > 1:
        first, second, *_ = data.values()
        raise UsageError(f"--runs: {first} and {second} were trained on different data")
    (pool, count), *others = sorted(pools)
    if others or sorted(numbers) != list(range(1, count + 1)):
        given = ", ".join(map(str, sorted(numbers)))
        raise UsageError(
            f"--runs: must be one run for each of the {count} folds of {pool}; given are the folds {given}"
            + (f", some of them of {others[0][0]}@...of{others[0][1]}" if others else "")
        )
    return found


def join_folds(folds: Sequence[NamedPredictions]) -> NamedPredictions:
    """Return the predictions of all folds as one.

    Raises:
      DataError: two folds have an image in common, or other classes.
    """
    first = folds[0]
    for other in folds[1:]:
        if other.class_names != first.class_names or other.labels.ndim != first.labels.ndim:
            raise DataError(
                f"{other.source} has the classes {', '.join(other.class_names)}, {first.source} "
                f"{', '.join(first.class_names)}: they are not of one pool"
            )
    place: dict[str, str] = {}
    for fold in folds:
        for image_id in fold.ids:
            if image_id in place:
                raise DataError(
                    f"{place[image_id]} and {fold.source} both predict {image_id}: they are not of "
                    "one pool's folds"
                )
            place[image_id] = fold.source
    return NamedPredictions(
        source=f"{len(folds)} folds",
        class_names=first.class_names,
        ids=tuple(image_id for fold in folds for image_id in fold.ids),
        groups=tuple(group for fold in folds for group in fold.groups),
        labels=np.concatenate([fold.labels for fold in folds]),
        probabilities=np.concatenate([fold.probabilities for fold in folds]),
    )


def spread(folds: Mapping[str, NamedPredictions]) -> dict[str, Any]:
    """Return how the mean metrics differ between folds; ready for JSON.

    Args:
      folds: predictions by the name of their run.

    Returns:
      {metric: {"folds": {run: value}, "mean", "low", "high", "left_out"}}: means over the classes that are
      defined in every fold, and of the findings that have not too few images in all folds together, the
      others being left out; null where there is none.
    """
    labels = np.concatenate([fold.labels for fold in folds.values()])
    few = Decisions.of(labels, np.concatenate([fold.probabilities for fold in folds.values()])).few_findings()
    of_run = {name: metrics.all_metrics(fold.labels, fold.probabilities) for name, fold in folds.items()}
    names = np.array(next(iter(folds.values())).class_names)
    found = {}
    for metric in ("auroc", "auprc", "sensitivity", "specificity"):
        of_classes = np.stack([values[metric] for values in of_run.values()])
        # A mean over other classes is another metric.
        everywhere = ~np.isnan(of_classes).any(axis=0) & ~few
        means = of_classes[:, everywhere].mean(axis=1) if everywhere.any() else np.full(len(folds), np.nan)
        found[metric] = {
            "folds": {name: json_number(mean) for name, mean in zip(folds, means, strict=True)},
            "mean": json_number(means.mean()),
            "low": json_number(means.min()),
            "high": json_number(means.max()),
            "left_out": names[~everywhere].tolist(),
        }
    return found


def label_issues(predictions: NamedPredictions) -> list[dict[str, Any]]:
    """Return the labels that are probably wrong, the most doubtful first: nothing is removed.

    Confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset
    Labels", 2021): an image of one class is doubtful where another class is as probable as it is, on average,
    for the images of that other class. Each finding is a choice of its own between present and absent.
    Doubtful labels are ranked by the margin, the probability of the label minus that of the other class.
    Findings with too few images are left out: no model can have learned what doubts their labels.

    Args:
      predictions: out of fold; a model that has learned a label does not doubt it.

    Returns:
      id, group, label, suggested and margin of each; of findings, label and suggested name the finding.
    """
    names, probabilities = predictions.class_names, predictions.probabilities
    rows: list[dict[str, Any]] = []

    def add(row: int, label: str, suggested: str, margin: float) -> None:
        identity = {"id": predictions.ids[row], "group": predictions.groups[row]}
        rows.append({**identity, "label": label, "suggested": suggested, "margin": float(margin)})

    if predictions.labels.ndim == 1:
        for row, other in _doubtful(predictions.labels, probabilities):
            label = predictions.labels[row]
            add(row, names[label], names[other], probabilities[row, label] - probabilities[row, other])
    else:
        decisions = Decisions.of(predictions.labels, probabilities)
        for index in np.flatnonzero(~decisions.too_few()):
            name = names[index]
            known = np.flatnonzero(decisions.known[:, index])
            there = probabilities[known, index]
            labels = decisions.is_class[known, index].astype(np.int64)
            texts = (f"no {name}", name)
            for number, other in _doubtful(labels, np.stack([1 - there, there], axis=1)):
                of_other = there[number] if other else 1 - there[number]
                add(int(known[number]), texts[labels[number]], texts[other], 1 - 2 * of_other)
    return sorted(rows, key=lambda row: (row["margin"], row["id"]))


def _doubtful(labels: np.ndarray, probabilities: np.ndarray) -> list[tuple[int, int]]:
    """Return the rows whose label is doubtful, and the class that they probably are."""
    classes = probabilities.shape[1]
    # The self-confidence of each class: how probable it is, on average, for its own images.
    usual = np.array(
        [probabilities[labels == c, c].mean() if (labels == c).any() else np.inf for c in range(classes)]
    )
    above = np.where(probabilities >= usual, probabilities, -1)
    confident = above.argmax(axis=1)
    is_doubtful = (above.max(axis=1) >= 0) & (confident != labels)
    return [(int(row), int(confident[row])) for row in np.flatnonzero(is_doubtful)]
