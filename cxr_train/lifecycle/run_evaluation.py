"""A run's best model evaluated as planned, its validation split first: what `Run.evaluate` loads."""

import functools
import logging
import pathlib
from collections.abc import Callable
from typing import Any

from cxr_data.core.errors import DataError
from cxr_data.core.runtime import keep_large_allocations
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import read_manifest
from cxr_train.engine.memory_errors import FEWER_IMAGES, clear_memory_errors
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation import evaluator, stored, text
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.plan import EvaluationPlan
from cxr_train.reporting.page import write_report
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.mirror import published
from cxr_train.runs.run_model import load_best_model

logger = logging.getLogger(__name__)


@clear_memory_errors(FEWER_IMAGES)
def evaluate_run(
    run_dir: pathlib.Path,
    config: TrainConfig,
    plan: EvaluationPlan,
    *,
    batch_size: int | None = None,
    xla: str = "auto",
    read: ReadOptions | None = None,
) -> dict[str, Any]:
    """Evaluate the best model of a run as planned, write what came out and the run's page.

    Args:
      run_dir, config: of the run.
      plan: what to evaluate.
      batch_size, xla, read: see `Run.evaluate`.

    Returns:
      What `metrics_{split}.json` holds.

    Raises:
      DataError: the data or the run is not whole.
      OutOfMemoryError: the device has too little memory for the batch.
    """
    read = read or ReadOptions()
    keep_large_allocations()
    # One device: the model was loaded outside of any strategy's scope.
    placement = choose_placement("one", config.precision, xla)
    logger.info("%s", placement.choice("xla"))
    evaluate = functools.partial(
        evaluator.evaluate_split,
        run_dir,
        predict=PredictStep(load_best_model(run_dir), placement),
        batch_size=batch_size or config.images_at_once,
    )
    if plan.options.test_time or not (plan.own and plan.split == config.held_out_validation):
        _evaluate_validation(run_dir, config, read, evaluate, plan.options.probe_images)
    summary: dict[str, Any] = evaluate(
        pipeline=Pipeline(plan.manifest, read), split=plan.split, options=plan.options, output=plan.output
    )
    logger.info("%s split of %s", plan.split, plan.manifest.directory)
    logger.info(text.evaluation_table(summary))
    layout = RunLayout(plan.output)
    names = f"{layout.metrics(plan.split).name}, {layout.predictions(plan.split).name}"
    logger.info("written: %s/%s", published(str(plan.output)), names)
    if plan.on_page:
        logger.info("report: %s", published(str(write_report(run_dir))))
    return summary


def _evaluate_validation(
    run_dir: pathlib.Path,
    config: TrainConfig,
    read: ReadOptions,
    evaluate: Callable[..., dict[str, Any]],
    probe_images: int,
) -> None:
    """See to it that the predictions are there on which temperature and thresholds are chosen."""
    split = config.held_out_validation
    if split is None:
        logger.info(
            "no temperature: the run was trained on %s, its validation split included", config.train_split
        )
        return
    if stored.stored_predictions(run_dir, split) is not None:
        return
    try:
        manifest = read_manifest(config.data)
        manifest.shards_of(split)
        stored.place_of(run_dir, manifest, named=False)
    except DataError as error:
        logger.info("no predictions of the %s split, so no temperature: %s", split, error)
        return
    logger.info("evaluating the %s split first, for the temperature", split)
    options = EvaluationOptions(
        train_split=config.train_split, validation_split=split, probe_images=probe_images
    )
    evaluate(pipeline=Pipeline(manifest, read), split=split, options=options)
