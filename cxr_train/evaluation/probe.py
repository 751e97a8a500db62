"""The probe: how much of a model's AUROC remains on pictures without the lungs, and at one brightness.

The model is run again on a sample of the images that it was evaluated on, each changed in three ways:

    frame_alone  the block over the lungs is grey: its pixels are set to the mean of the picture
    lungs_alone  the frame around that block is grey instead
    one_mean     the picture is brighter or darker, so that all of them have the same mean

An AUROC that stays high on the frame alone comes from something else than the lungs: marks, borders, the
scanner. One that falls says less, since no picture with a grey part was in the training. The block is that
of the audit, `cxr_data.images.measure.lung_block`.

Under `probe` of `metrics_{split}.json`, undefined numbers being null:

    schema            "cxr.probe/1"
    images, of        how many images the sample has, of how many that were evaluated
    seed              of the sample and of the bootstrap
    block             [first, last] row of the block, and column, in pixels from 0
    mean              the brightness in [0, 1] of `one_mean`: of the training pixels of the data
    method, confidence, resamples, patients
                      of the intervals, see `intervals.metric_intervals`
    per_class         by class: images, of the sample; undefined: null, or why there is no AUROC; whole (the
                      unchanged pictures) and each way above: auroc, one against the rest, and its interval
    undefined_resamples, exact, no_interval
                      see `intervals.IntervalNotes`
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from cxr_data.images.measure import lung_block
from cxr_data.input.pipeline import Pipeline
from cxr_data.sources.finding_values import PRESENT
from cxr_data.stats.bootstrap import CONFIDENCE, PatientBootstrap
from cxr_data.stats.undefined import json_number
from cxr_train.engine.multi_step import Batch
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import Placement
from cxr_train.evaluation import intervals, metrics
from cxr_train.evaluation.decisions import FEW, Counts, Decisions
from cxr_train.evaluation.forward_pass import Predictions, columns_of_split
from cxr_train.evaluation.intervals import IntervalNotes

SCHEMA = "cxr.probe/1"

_ROUNDS = 4  # each makes up for what was clipped in the one before it

Change = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Probed:
    """What a model says of a sample of a split's images, changed in each way.

    Attributes:
      rows: int64 [n], ascending, which of the evaluated images are in the sample.
      mean: see the head of this file.
      predictions: by way.
    """

    rows: Counts
    mean: float
    predictions: Mapping[str, Predictions]


# -- pictures ----------------------------------------------------------------------------------


def frame_alone(images: tf.Tensor) -> tf.Tensor:
    """Return float32 [B, S, S, C] in [0, 1] with the block over the lungs at each picture's mean."""
    return tf.where(_in_block(images), _means(images), images)


def lungs_alone(images: tf.Tensor) -> tf.Tensor:
    """Return float32 [B, S, S, C] in [0, 1] with all but the block over the lungs at each picture's mean."""
    return tf.where(_in_block(images), images, _means(images))


def at_mean(images: tf.Tensor, mean: float) -> tf.Tensor:
    """Return float32 [B, S, S, C] in [0, 1], each picture moved to a mean by one number, and clipped."""
    for _ in range(_ROUNDS):
        images = tf.clip_by_value(images + (mean - _means(images)), 0.0, 1.0)
    return images


def _in_block(images: tf.Tensor) -> np.ndarray:
    """Return bool [S, S, 1]: whether a pixel is over the lungs."""
    size = images.shape[1]
    inside = np.zeros([size, size, 1], bool)
    inside[lung_block(size), lung_block(size)] = True
    return inside


def _means(images: tf.Tensor) -> tf.Tensor:
    """Return the mean of each picture, float32 [B, 1, 1, 1]: grey, whatever the picture's colour."""
    return tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)


def as_stored(change: Change, images: tf.Tensor) -> tf.Tensor:
    """Change pictures [B, S, S, C] as a batch has them, and keep their dtype: uint8 is rounded.

    The compiled prediction takes them without another trace.
    """
    if images.dtype == tf.uint8:
        return tf.cast(tf.round(255 * change(tf.cast(images, tf.float32) / 255)), tf.uint8)
    return tf.cast(change(tf.cast(images, tf.float32)), images.dtype)


# -- predictions -------------------------------------------------------------------------------


def choose_sample(labels: Counts, images: int, seed: int) -> Counts:
    """Return which of the images are in the sample: int64, ascending, at most `images`.

    Every class has the same share, or all of its images where that is less: an AUROC is no better than
    its rarer side. An image of several findings counts for the rarest of them.

    Args:
      labels: int64 [N], or [N, C] of findings.
    """
    if labels.ndim == 2:  # of findings: by the rarest that an image has
        present = labels == PRESENT
        images_with = np.where(present, present.sum(axis=0), len(labels) + 1)
        labels = np.where(present.any(axis=1), images_with.argmin(axis=1), -1)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)  # of each shuffled image within its class
    for label in np.unique(labels):
        of_class = labels[shuffled] == label
        turn[of_class] = np.arange(of_class.sum())
    return np.sort(shuffled[np.argsort(turn, kind="stable")[:images]])


def probe_split(
    pipeline: Pipeline,
    split: str,
    predict: PredictStep,
    placement: Placement,
    evaluated: Predictions,
    *,
    images: int,
    seed: int,
    batch_size: int,
    check_stop: Callable[[], None] = lambda: None,
) -> Probed | None:
    """Predict a sample of the images that were evaluated, changed in each way; each worker must call it.

    Args:
      predict: of the evaluation; it is not traced again.
      evaluated: what it said of the unchanged images.
      images: how many are chosen at most; with 0, and of embeddings, nothing is done, and None returned.
      seed: see `choose_sample`.
      batch_size, check_stop: as of the evaluation, see `columns_of_split`.

    Raises:
      DataError: a record is damaged.
    """
    if not images or pipeline.manifest.embedding:
        return None
    rows = choose_sample(evaluated.labels, images, seed)
    sample = evaluated.rows(rows)
    mean = float(np.mean(pipeline.manifest.mean))
    changes: dict[str, Change] = {
        "frame_alone": frame_alone,
        "lungs_alone": lungs_alone,
        "one_mean": lambda pictures: at_mean(pictures, mean),
    }
    on_replicas = _on_replicas(list(changes.values()), placement)

    def columns(batch: Batch) -> Sequence[np.ndarray]:
        return [predict({"image": changed}) for changed in on_replicas(batch["image"])]

    _, *logits = columns_of_split(
        pipeline,
        split,
        predict,
        placement,
        columns,
        batch_size=batch_size,
        positions=sample.index,
        title="probe",
        check_stop=check_stop,
    )
    changed = [dataclasses.replace(sample, logits=said) for said in logits]
    return Probed(rows, mean, {"whole": sample, **dict(zip(changes, changed, strict=True))})


def _on_replicas(changes: Sequence[Change], placement: Placement) -> Callable[[Any], Sequence[Any]]:
    """Return what makes every change of a distributed batch's stored pictures, where they are.

    One function for all: TensorFlow warns where one line of a program makes many.
    """

    def change_all(part: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tuple(as_stored(change, part) for change in changes)

    changed: Callable[[Any], Sequence[Any]] = tf.function(
        lambda images: placement.strategy.run(change_all, args=(images,)), autograph=False
    )
    return changed


# -- results -----------------------------------------------------------------------------------


def measure_probe(
    probed: Probed, class_names: Sequence[str], groups: Sequence[str], *, size: int, resamples: int, seed: int
) -> dict[str, Any]:
    """Return `probe` of `metrics_{split}.json`, see the head of this file.

    Args:
      class_names: [C].
      groups: [N], the patients of all images that were evaluated.
      size: of the pictures, in pixels.
      resamples, seed: of the bootstrap.
    """
    labels = probed.predictions["whole"].labels
    patients = [groups[row] for row in probed.rows]
    bootstrap = PatientBootstrap.of_names(patients, resamples=resamples, seed=seed)
    notes = IntervalNotes()
    of_findings = labels.ndim == 2
    decisions = Decisions.of(labels, probed.predictions["whole"].probabilities)
    counts = decisions.positives.sum(axis=0).tolist()
    known = decisions.known.sum(axis=0).tolist()
    pairs = intervals.patients_counted(bootstrap, decisions)["auroc"]
    per_class: dict[str, dict[str, Any]] = {
        name: {"images": count, "undefined": _why_undefined(count, images, FEW if of_findings else 1)}
        for name, count, images in zip(class_names, counts, known, strict=True)
    }
    for way, said in probed.predictions.items():
        values = metrics.auroc(labels, said.probabilities)
        values[[row["undefined"] is not None for row in per_class.values()]] = np.nan
        resampled, _ = intervals.resample_areas(bootstrap, decisions, said.probabilities)
        for index, name in enumerate(class_names):
            interval = intervals.percentile_interval(
                values[index], resampled[:, index], f"{name} {way}", notes, trials=int(pairs[index])
            )
            per_class[name][way] = {"auroc": json_number(values[index]), "interval": interval}
    block = lung_block(size)
    return {
        "schema": SCHEMA,
        "images": len(labels),
        "of": len(groups),
        "seed": seed,
        "block": [block.start, block.stop - 1],
        "mean": probed.mean,
        "method": intervals.METHOD,
        "confidence": CONFIDENCE,
        "resamples": resamples,
        "patients": bootstrap.patients,
        "per_class": per_class,
        **vars(notes),
    }


def _why_undefined(of_class: int, images: int, few: int) -> str | None:
    if 0 < of_class < few or 0 < images - of_class < few:
        return f"fewer than {few} images of the sample have it, or have it not"
    if not of_class:
        return "no image of the sample is of the class"
    return "every image of the sample is of the class" if of_class == images else None
