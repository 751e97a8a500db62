"""Evaluates a run on a split: every image once, its probabilities to a CSV, its metrics to JSON.

    python -m cxr_train.evaluate --run_dir=RUN_DIR [--split=test] [--data=DIR] [--compare=OTHER_RUN]

What is written is described in `evaluation.evaluator`. Other data than the run's own goes to
`RUN_DIR/external/NAME`, so that nothing of the run is replaced.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

from absl import flags

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags
from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.runtime import start
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import read_manifest
from cxr_data.stats import bootstrap
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation import evaluator, stored, text
from cxr_train.evaluation.class_map import class_map_for, parse_class_map
from cxr_train.evaluation.evaluator import EvaluationOptions
from cxr_train.flags.read_flags import read_options_from_flags
from cxr_train.flags.run_directory import with_local_run
from cxr_train.reporting.page import write_report
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.mirror import published
from cxr_train.runs.run_model import load_best_model


def options_from_flags(config: TrainConfig, below: pathlib.PurePath) -> EvaluationOptions:
    """Read the parsed flags. Raises UsageError for a value that makes no sense.

    Args:
      config: of the run.
      below: where under a run directory the predictions of this data are.
    """
    values = flags.FLAGS
    if values.compare and not storage.store_of(values.compare).is_local:
        raise UsageError(f"--compare={values.compare}: name a local run; copy that one here")
    return EvaluationOptions(
        resamples=values.resamples,
        seed=values.seed,
        train_split=config.train_split,
        validation_split=config.held_out_validation,
        at_sensitivity=values.at_sensitivity,
        compare=pathlib.Path(values.compare) / below if values.compare else None,
        class_map=parse_class_map(values.class_map),
    )


def main() -> int:
    """Evaluate a run directory from flags."""
    values = flags.FLAGS
    run_dir = pathlib.Path(values.run_dir)
    config = TrainConfig.load(RunLayout(run_dir).config)
    manifest = read_manifest(values.data or config.data)
    below = stored.place_of(run_dir, manifest, named=values.data is not None)
    own = not below.parts
    output = pathlib.Path(values.output) if values.output else run_dir / below
    options = options_from_flags(config, below)
    manifest.shards_of(values.split)  # what is wrong is said before the model takes its time
    class_map_for(run_dir, manifest, options.class_map)
    stored.refuse_to_replace(output, values.split, run_dir, manifest)
    if output.resolve() == run_dir.resolve():
        stored.refuse_in_the_run(manifest, own=own, class_map=options.class_map)
    read = read_options_from_flags(data_service="")
    start()
    # One device: the model was loaded outside of any strategy's scope.
    placement = choose_placement("one", config.precision, values.xla)
    print(placement.choice("xla"))
    evaluate = functools.partial(
        evaluator.evaluate_split,
        run_dir,
        model=load_best_model(run_dir),
        placement=placement,
        batch_size=values.batch_size or config.batch_size,
    )
    if not (own and values.split == config.held_out_validation):
        _evaluate_validation(run_dir, config, read, evaluate)
    pipeline = Pipeline(manifest, read)
    summary = evaluate(pipeline=pipeline, split=values.split, options=options, output=output)
    print(f"{values.split} split of {manifest.directory}\n{text.evaluation_table(summary)}")
    place, layout = published(str(output)), RunLayout(output)
    print(f"written: {place}/{layout.metrics(values.split).name}, {layout.predictions(values.split).name}")
    if output == run_dir / below:
        print(f"report: {published(str(write_report(run_dir)))}")
    print("Research software: nothing here is a diagnosis.")
    return 0


def _evaluate_validation(
    run_dir: pathlib.Path, config: TrainConfig, read: ReadOptions, evaluate: Callable[..., dict[str, Any]]
) -> None:
    """See to it that the predictions are there on which temperature and thresholds are chosen."""
    split = config.held_out_validation
    if split is None:
        print(f"no temperature: the run was trained on {config.train_split}, its validation split included")
        return
    if stored.stored_predictions(run_dir, split) is not None:
        return
    try:
        manifest = read_manifest(config.data)
        manifest.shards_of(split)
        stored.place_of(run_dir, manifest, named=False)
    except DataError as error:
        print(f"no predictions of the {split} split, so no temperature: {error}")
        return
    print(f"evaluating the {split} split first, for the temperature")
    options = EvaluationOptions(train_split=config.train_split, validation_split=split)
    evaluate(pipeline=Pipeline(manifest, read), split=split, options=options)


def console_main() -> None:
    """Run the command."""
    flags.DEFINE_string("run_dir", None, "Directory of a training run.", required=True)
    flags.DEFINE_string("data", None, "Folder of shards; the run's own by default.")
    flags.DEFINE_string("split", "validation", "Which split to evaluate.")
    flags.DEFINE_string("output", None, "Where to write; --run_dir by default, for other data below it.")
    flags.DEFINE_list(
        "class_map", [], "Other data's classes as the model's, theirs:ours,...; theirs:- leaves one out."
    )
    flags.DEFINE_float(
        "at_sensitivity", None, "Chooses each class's threshold for it on validation, as 0.95."
    )
    flags.DEFINE_string("compare", None, "Another run, evaluated on the same images.")
    flags.DEFINE_integer("resamples", bootstrap.RESAMPLES, "Of the patient bootstrap.")
    flags.DEFINE_integer("seed", 0, "Of the patient bootstrap.", lower_bound=0)
    flags.DEFINE_integer("batch_size", None, "Images a step; the run's own by default.", lower_bound=1)
    define_flags(ReadOptions, leave_out=["data_service"])
    flags.DEFINE_enum("xla", "auto", ["auto", "on", "off"], "Whether XLA compiles the prediction.")
    command.run(with_local_run(main))


if __name__ == "__main__":
    console_main()
