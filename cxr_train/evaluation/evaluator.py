"""The evaluation of a model on a split: its predictions to a CSV, its metrics to JSON.

`metrics_{split}.json`, undefined numbers being null:

    schema            "cxr.metrics/1"
    split, data       what was evaluated
    own_data          whether it is a split of the data that the run was trained on
    model_sha256      of the run's best.keras
    seen_in_training  whether the model was trained on these very images
    images_trained_on of other data, and of a part of a split: see `trained_images`; else null
    initial_statistics_share
                      of the moving statistics of the model's BatchNorm, what is still their start, in [0, 1];
                      null where it holds precise ones, or this is not known
    dropped           images left out by --class_map, by their class; of a left-out finding,
                      the images in which it is present
    loss              mean cross-entropy, in nats; of findings, over the known labels
    images, class_names, confusion_matrix, accuracy, macro, per_class, left_out
                      see `metrics.summarize`
    intervals         see `intervals.metric_intervals`; without_patient: images of no known patient, each
                      resampled as a patient of its own
    calibration       uncalibrated: see `calibration.measure_calibration`, with the intervals of
                      `calibration.calibration_intervals`; temperature, fitted_on (a split),
                      calibrated: the same at that temperature; all three null without validation data,
                      temperature and calibrated also where none is the best (`fit_temperature`). Of findings,
                      `platt`: lines, by finding slope and offset of `fit_platt`, and calibrated by them
    thresholds        null, or at_sensitivity, chosen_on (a split), and `thresholds.report_thresholds`; of
                      findings, with at_sensitivity null, the thresholds of Youden's index
    comparison        null, or see `compare.compare_models`; other_seen_in_training: whether the other model
                      was trained on images of this split
    audit             what the audit of the data says beside it: see the head of `beside_audit`
    by                {} or every metric by group: see the head of `subgroups`
    test_time         only with a test-time method: batch_norm_images, the images that BatchNorm's statistics
                      are of, 0 for none; prior, null or a temperature and the shares of the classes
                      before and after
    probe             null where it was left out, or what remains without the lungs: see the head of `probe`

With `own_data` and `fitted_on` or `chosen_on` the split itself, these numbers are of the very images
that temperature or thresholds were chosen on, and flatter.
"""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.split_names import have_common_images
from cxr_train.engine.predict_step import PredictStep
from cxr_train.evaluation.analysis import analyse
from cxr_train.evaluation.beside_audit import audit_beside
from cxr_train.evaluation.class_map import ClassMap, class_map_for
from cxr_train.evaluation.forward_pass import (
    Predictions,
    known_predictions,
    name_predictions,
    predict_split,
)
from cxr_train.evaluation.options import SOURCE, EvaluationOptions
from cxr_train.evaluation.predictions import NamedPredictions, write_predictions
from cxr_train.evaluation.probe import measure_probe, probe_split
from cxr_train.evaluation.stored import (
    other_predictions,
    other_validation,
    saw_in_training,
    stored_predictions,
)
from cxr_train.evaluation.subgroups import measure_subgroups
from cxr_train.evaluation.table_columns import read_columns
from cxr_train.evaluation.test_time import adapted_batch_norm, said_of, with_corrected_prior
from cxr_train.evaluation.trained_images import images_trained_on
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.saved_run import initial_statistics_share, is_own_data, model_sha256

logger = logging.getLogger(__name__)

SCHEMA = "cxr.metrics/1"


def _by(
    named: NamedPredictions, pipeline: Pipeline, split: str, index: np.ndarray, options: EvaluationOptions
) -> dict[str, Any]:
    """Return every metric by the columns that are asked for, see `subgroups`."""
    columns: dict[str, list[str]] = {}
    if SOURCE in options.by:
        names = pipeline.manifest.sources
        columns[SOURCE] = [names[number] for number in pipeline.reader(split).sources[index]]
    if others := [name for name in options.by if name != SOURCE]:
        columns |= read_columns(pathlib.Path(options.by_table), others, named.ids)
    ordered = {name: columns[name] for name in options.by}
    return measure_subgroups(named, ordered, resamples=options.resamples, seed=options.seed)


def _predict(
    run_dir: pathlib.Path,
    pipeline: Pipeline,
    split: str,
    predict: PredictStep,
    mapped: ClassMap,
    batch_size: int,
    take_stored: bool,
    check_stop: Callable[[], None],
) -> tuple[Predictions, NamedPredictions, dict[str, int]]:
    """Return the predictions of the images that the class map keeps, without and with their names, and how
    many it drops of each class.

    Args:
      take_stored: whether earlier predictions of this very model and these images will do.
    """
    manifest = pipeline.manifest
    known = known_predictions(run_dir, pipeline, split) if take_stored else None
    if known:
        predicted, stored = known
        logger.info("%s is of this model and these images, and is not computed again", stored.source)
    else:
        predicted = predict_split(
            pipeline, split, predict, predict.placement, batch_size=batch_size, check_stop=check_stop
        )
    dropped = mapped.dropped(predicted.labels)
    labels, kept = mapped.labels(predicted.labels)
    predicted = dataclasses.replace(predicted, labels=labels).rows(kept)
    if not len(predicted.labels):
        raise DataError(f"--class_map leaves out every image of the {split} split of {manifest.directory}")
    named = name_predictions(predicted, manifest, split, mapped.ours, f"this run ({run_dir})")
    if known:
        named = dataclasses.replace(named, probabilities=stored.probabilities[kept])
    return predicted, named, dropped


def evaluate_split(
    run_dir: pathlib.Path,
    pipeline: Pipeline,
    split: str,
    predict: PredictStep,
    *,
    batch_size: int,
    options: EvaluationOptions | None = None,
    output: pathlib.Path | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Evaluate a model on `split`; write `predictions_{split}.csv` and `metrics_{split}.json`.

    Args:
      run_dir: of the model; validation predictions are looked for in it.
      pipeline: of the data, the run's own or other data.
      predict: of the model; it is traced and compiled once for all splits that it is given for.
      batch_size: global.
      output: receives the two files; the run directory by default.
      check_stop: see `predict_split`.

    Returns:
      What was written as JSON, see the head of this file.

    Raises:
      UsageError, DataError: the data does not fit the model, a record is damaged, or as `analyse`.
    """
    options = options or EvaluationOptions()
    manifest = pipeline.manifest
    own = is_own_data(run_dir, manifest)
    mapped = class_map_for(run_dir, manifest, options.class_map)
    other = None if options.compare is None else other_predictions(options.compare, split)
    take_stored = other is not None and not options.test_time
    adapted = adapted_batch_norm(
        predict.model,
        predict.placement,
        pipeline,
        split,
        images=options.adapt_batch_norm,
        batch_size=batch_size,
        seed=options.seed,
    )
    with adapted as adapted_to:
        predicted, named, dropped = _predict(
            run_dir, pipeline, split, predict, mapped, batch_size, take_stored, check_stop
        )
        probed = probe_split(
            pipeline,
            split,
            predict,
            predict.placement,
            predicted,
            images=options.probe_images,
            seed=options.seed,
            batch_size=batch_size,
            check_stop=check_stop,
        )
    validation = None
    if own and split == options.validation_split and not options.test_time:
        validation = named
    elif options.validation_split:
        validation = stored_predictions(run_dir, options.validation_split)
    shares = None
    if options.prior_correction:
        named, validation, shares = with_corrected_prior(named, validation)
    trained_on = images_trained_on(run_dir, manifest, split, predicted.index, options.train_split)
    summary = {
        "schema": SCHEMA,
        "split": split,
        "data": manifest.directory,
        "own_data": own,
        "model_sha256": model_sha256(run_dir),
        "seen_in_training": own and have_common_images(split, options.train_split),
        "images_trained_on": trained_on,
        "initial_statistics_share": initial_statistics_share(run_dir),
        "dropped": dropped,
        **said_of(options, adapted_to, shares),
        **analyse(
            named,
            options,
            validation=validation,
            other=other,
            other_validation=None if options.compare is None else other_validation(options.compare),
        ),
        "by": _by(named, pipeline, split, predicted.index, options),
        "audit": audit_beside(manifest.directory, split, options.class_map),
        "probe": probed
        and measure_probe(
            probed,
            named.class_names,
            named.groups,
            size=manifest.size,
            resamples=options.resamples,
            seed=options.seed,
        ),
    }
    if summary["comparison"] and options.compare is not None:
        summary["comparison"]["other_seen_in_training"] = saw_in_training(options.compare, split)
    layout = RunLayout(output or run_dir)
    layout.directory.mkdir(parents=True, exist_ok=True)
    write_predictions(layout.predictions(split), named)
    storage.replace(layout.metrics(split), (json.dumps(summary, indent=2) + "\n").encode())
    return summary
