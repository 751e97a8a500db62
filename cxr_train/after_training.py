"""What follows the training of a run: its best model is evaluated, what limited it is said, its page made."""

import json
import pathlib

from cxr_data.core import storage
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import joined_splits, read_manifest
from cxr_train.engine.step import PredictStep
from cxr_train.engine.strategy import Placement
from cxr_train.evaluation import text
from cxr_train.evaluation.evaluator import EvaluationOptions, evaluate_split
from cxr_train.evaluation.forward_pass import predict_split
from cxr_train.explanation.explainer import Explainer, ExplainOptions
from cxr_train.loop import throughput
from cxr_train.loop.stop import StopRequest
from cxr_train.loop.trainer import Trainer
from cxr_train.reporting.page import write_report
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import (
    BEST_NAME,
    CHECKPOINTS_NAME,
    HISTORY_NAME,
    LAST_NAME,
    TENSORBOARD_NAME,
)
from cxr_train.runs.mirror import published
from cxr_train.runs.run_model import load_best_model


def evaluate_best(config: TrainConfig, pipeline: Pipeline, placement: Placement, stop: StopRequest) -> None:
    """Evaluate the best model on every split that was held out. Raises Stopped."""
    run_dir = pathlib.Path(config.run_dir)
    placement.wait()  # until the chief has written it
    with placement.strategy.scope():
        best = load_best_model(run_dir)
    options = EvaluationOptions(train_split=config.train_split, validation_split=config.held_out_validation)
    trained_on = joined_splits(config.train_split)
    held_out = [split for split in pipeline.manifest.splits if split not in trained_on]
    if not held_out:
        print(f"nothing is evaluated: --train_on={config.train_split} holds no split out")
    # Validation first: the temperature of the others is fitted on it.
    for split in sorted(held_out, key=lambda split: split != config.validation_split):
        if not placement.cluster.is_chief:
            step = PredictStep(best, placement)
            predict_split(
                pipeline, split, step, placement, batch_size=config.batch_size, check_stop=stop.check
            )
            continue
        summary = evaluate_split(
            run_dir,
            pipeline,
            split,
            best,
            placement,
            batch_size=config.batch_size,
            options=options,
            check_stop=stop.check,
        )
        print(f"\n{split} split, best epoch\n{text.evaluation_table(summary)}")


def conclude(config: TrainConfig, trainer: Trainer, *, explain: bool) -> None:
    """Say what limited the run and where everything is, and make its page.

    Args:
      config: of the run.
      trainer: that has trained it; the chief's.
      explain: whether the page gets explanations, which take minutes.
    """
    summary = trainer.throughput()
    layout = config.layout
    storage.replace(layout.throughput, (json.dumps(summary, indent=2) + "\n").encode())
    run_dir = published(config.run_dir)
    print(
        f"\n{throughput.lines(summary)}\n"
        f"\nrun directory {run_dir}: {BEST_NAME}, {LAST_NAME}, {HISTORY_NAME}, "
        f"{layout.predictions('*').name}, {layout.metrics('*').name}, {CHECKPOINTS_NAME}/, "
        f"{TENSORBOARD_NAME}/ (tensorboard --logdir={run_dir}/{TENSORBOARD_NAME})"
    )
    if explain:
        _explain(config)
    print(f"report: {published(str(write_report(pathlib.Path(config.run_dir))))}")
    print("Research software: nothing here is a diagnosis.")


def _explain(config: TrainConfig) -> None:
    if config.held_out_validation is None:
        print("--explain: the run was trained on its validation split; see python -m cxr_train.explain")
        return
    options = ExplainOptions(split=config.held_out_validation, overwrite=True)
    manifest = read_manifest(config.data, check_shards=config.read.on_bad_record == "fail")
    whole = Pipeline(manifest, config.read)  # not this worker's part of it
    print(Explainer(config, whole, options).explain()["occlusion"]["text"])
