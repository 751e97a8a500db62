"""A training run from its first step to its page: for programs, and what `cxr_train.main` does."""

import contextlib
import dataclasses
import json
import logging
import pathlib
import threading
from collections.abc import Callable, Sequence

from cxr_data.core import storage
from cxr_data.core.choice import Choice
from cxr_data.core.runtime import keep_large_allocations
from cxr_data.core.settings import check_local
from cxr_data.core.wording import typed, wrapped
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.folds import class_counts
from cxr_data.records.manifest import read_manifest
from cxr_train.engine.cluster import clear_cluster_errors
from cxr_train.engine.memory_errors import clear_memory_errors
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import Placement, choose_placement, make_deterministic
from cxr_train.evaluation import text
from cxr_train.evaluation.evaluator import evaluate_split
from cxr_train.evaluation.forward_pass import predict_split
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.probe import probe_split
from cxr_train.explanation.explainer import Explainer
from cxr_train.explanation.options import ExplainOptions
from cxr_train.lifecycle.trained_run import Run, load_run
from cxr_train.loop import throughput
from cxr_train.loop.advice import advice
from cxr_train.loop.stop import StopRequest
from cxr_train.loop.trainer import Trainer
from cxr_train.models.backbones import NO_BACKBONE
from cxr_train.reporting.page import write_report
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import (
    TENSORBOARD_NAME,
)
from cxr_train.runs.mirror import published
from cxr_train.runs.notice import NOTICE
from cxr_train.runs.run_dir import check_resumed, check_shared, held_run_dir, keep_run, open_run_dir
from cxr_train.runs.run_model import load_best_model
from cxr_train.runs.saved_run import epoch_rows

logger = logging.getLogger(__name__)


def train(config: TrainConfig, *, resume: bool = False, explain: bool = False) -> Run:
    """Train, evaluate the best model on every split that was held out, and make the run's page.

    `python -m cxr_train.main` does the same, and two things more: it tries the batch, and keeps compiled
    steps. In the main thread, SIGTERM and Ctrl-C save the state and raise Stopped; a second one ends the
    process. The signal handlers of the program are restored at the end.

    Args:
      config: what to train, and how. `data` must exist. `run_dir` must be a local folder, without a run
        unless `resume`.
      resume: whether to continue the run in `config.run_dir`.
      explain: whether to add heat maps of the best model to the page, which takes minutes.

    Raises:
      UsageError, DataError: the run cannot begin, or cannot be resumed with this configuration.
      OutOfMemoryError: the device has too little memory. TensorFlow may abort a process that goes on.
      CxrError: the loss is not finite. The last saved state is kept.
      Stopped: a signal asked the run to stop, and its state is saved.
    """
    check_local("run_dir", config.run_dir)
    open_run_dir(pathlib.Path(config.run_dir), resume=resume)  # what would be refused is refused at once
    keep_large_allocations()
    xla = make_deterministic(config.xla)[0] if config.deterministic else config.xla
    placement = choose_placement(config.strategy, config.precision, xla)
    run_dir = pathlib.Path(config.run_dir)
    with (
        clear_cluster_errors(placement.cluster),
        held_run_dir(run_dir, placement, resume=resume) as before,
    ):
        manifest = read_manifest(config.data, check_shards=config.read.on_bad_record == "fail")
        pipeline = Pipeline(manifest, dataclasses.replace(config.read, worker=placement.cluster.input_worker))
        if before:
            check_resumed(config, before)
        choices = (*placement.choices, *pipeline.choices)
        run_training(config, pipeline, placement, choices, resume=resume, explain=explain)
        placement.wait()
    return load_run(config.run_dir)


def run_training(
    config: TrainConfig,
    pipeline: Pipeline,
    placement: Placement,
    choices: Sequence[Choice],
    *,
    flags: str | None = None,
    resume: bool = False,
    explain: bool = False,
    last_words: Callable[[], str] = lambda: "ended at once",
) -> None:
    """Do this worker's part of a run, or all of it, in a run directory that was opened.

    Args:
      config, pipeline, placement: of the run.
      choices: the settings in force, which are kept.
      flags: lines for `--flagfile` that repeat it; None where no flags have started it.
      resume, explain: see `train`.
      last_words: what is said when a second signal ends the process without saving.

    Raises:
      OutOfMemoryError, CxrError, Stopped: see `train`.
    """
    advice = (
        f"--batch_size={config.batch_size}: the device has too little memory; --batch_size=auto chooses one "
        "that fits, a higher --gradient_accumulation computes fewer images at once"
    )
    with clear_memory_errors(advice):
        stop = StopRequest(last_words, placement.any)
        in_main_thread = threading.current_thread() is threading.main_thread()
        with stop.listening() if in_main_thread else contextlib.nullcontext():
            trainer = Trainer(config, pipeline, placement)
            with placement.chief_first():
                if placement.cluster.is_chief:
                    # It says that a run has ended, and this one goes on.
                    config.layout.throughput.unlink(missing_ok=True)
                    keep_run(config, flags, choices)
                else:
                    check_shared(config)
            for line in [*trainer.describe().splitlines(), *(trainer.resume() if resume else [])]:
                logger.info(wrapped(line, rest="  "))
            trainer.run(stop)
            evaluate_best(config, pipeline, trainer.placement, stop)
        if placement.cluster.is_chief:
            conclude(config, trainer, explain=explain)


def evaluate_best(config: TrainConfig, pipeline: Pipeline, placement: Placement, stop: StopRequest) -> None:
    """Evaluate the best model on every split that was held out. Raises Stopped."""
    run_dir = pathlib.Path(config.run_dir)
    placement.wait()  # until the chief has written it
    with placement.strategy.scope():
        step = PredictStep(load_best_model(run_dir), placement)
    options = EvaluationOptions(train_split=config.train_split, validation_split=config.held_out_validation)
    # Validation first: the temperature of the others is fitted on it.
    held_out = config.evaluated_splits(pipeline.manifest.splits)
    if not held_out:
        logger.info("nothing is evaluated: --train_on=%s holds no split out", config.train_split)
    for split in held_out:
        if not placement.cluster.is_chief:
            predicted = predict_split(
                pipeline, split, step, placement, batch_size=config.images_at_once, check_stop=stop.check
            )
            probe_split(
                pipeline,
                split,
                step,
                placement,
                predicted,
                images=options.probe_images,
                seed=options.seed,
                batch_size=config.images_at_once,
                check_stop=stop.check,
            )
            continue
        summary = evaluate_split(
            run_dir,
            pipeline,
            split,
            step,
            batch_size=config.images_at_once,
            options=options,
            check_stop=stop.check,
        )
        # Where there is a test split it is what counts; the table of the epochs has the validation split.
        is_enough = split == config.validation_split and len(held_out) > 1
        said = [] if is_enough else [text.evaluation_in_brief(summary)]
        if split == config.validation_split and summary["confusion_matrix"]:
            said.append(text.confusion_matrix(summary))
        logger.info("\n".join(["", *said]))


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
    curves = f"curves: tensorboard {typed(logdir=f'{run_dir}/{TENSORBOARD_NAME}')}"  # one line, to be pasted
    logger.info("\n".join(["", throughput.lines(summary), f"run directory: {run_dir}", curves]))
    manifest = read_manifest(config.data, check_shards=False)
    # Findings do not compete: how often one is seen says nothing of another.
    images = {} if manifest.findings else class_counts(manifest, config.train_split)
    for line in advice(config, images, epoch_rows(layout.history)[0]):
        # A command stays on one line, to be pasted.
        logger.info(line if line.startswith("  ") else wrapped(line, rest="  "))
    if explain:
        _explain(config)
    logger.info("report: %s", published(str(write_report(config.layout.directory))))
    trainer.checkpoints.drop_older()  # last: whatever fails before leaves all of them
    logger.info(NOTICE)


def _explain(config: TrainConfig) -> None:
    if config.backbone == NO_BACKBONE:
        logger.info("--explain: a head on embeddings sees no picture to explain")
        return
    if config.held_out_validation is None:
        logger.info("--explain: the run was trained on its validation split; see python -m cxr_train.explain")
        return
    options = ExplainOptions(split=config.held_out_validation, overwrite=True)
    manifest = read_manifest(config.data, check_shards=config.read.on_bad_record == "fail")
    whole = Pipeline(manifest, config.read)  # not this worker's part of it
    text_of_check = Explainer(config, whole, options).explain()["occlusion"]["text"]
    logger.info(wrapped(text_of_check, rest="  "))
