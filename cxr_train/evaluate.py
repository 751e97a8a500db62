"""Evaluates a run on a split: every image once, its probabilities to a CSV, its metrics to JSON.

    python -m cxr_train.evaluate --run_dir=RUN_DIR [--split=test] [--data=DIR] [--compare=OTHER_RUN]

What is written is described in `evaluation.evaluator`. Other data than the run's own goes to
`RUN_DIR/external/NAME`, so that nothing of the run is replaced.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core.errors import DataError
from cxr_data.core.runtime import keep_large_allocations
from cxr_data.core.settings import setting
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import read_manifest
from cxr_train.engine.compilation_cache import CompilationOptions
from cxr_train.engine.placement_names import XLA
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation import evaluator, stored, text
from cxr_train.evaluation.class_map import class_map_for
from cxr_train.evaluation.evaluator import EvaluationOptions
from cxr_train.flags.compiled import computing_batches
from cxr_train.flags.read_flags import read_options_from_flags
from cxr_train.flags.run_directory import RunDataOptions, with_local_run
from cxr_train.reporting.page import write_report
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.mirror import published
from cxr_train.runs.run_model import load_best_model


@dataclasses.dataclass(frozen=True)
class TargetOptions(RunDataOptions):
    """What to evaluate, how, and where to write."""

    split: str = setting("validation", "Split to evaluate.")
    output: str | None = setting(
        None,
        "Folder to write to; --run_dir by default, and one below it for other data.",
        path=True,
        local=True,
    )
    compare: str | None = setting(
        None, "Directory of another run, evaluated on the same images.", path=True, local=True
    )
    batch_size: int | None = setting(None, "Images in a step; the run's own by default.", at_least=1)
    xla: str = setting("auto", "Whether XLA compiles the prediction.", choices=XLA)


def main() -> int:
    """Evaluate a run directory from flags."""
    target = from_flags(TargetOptions)
    run_dir = target.run_dir
    config = TrainConfig.load(RunLayout(run_dir).config)
    manifest = read_manifest(target.data or config.data)
    below = stored.place_of(run_dir, manifest, named=target.data is not None)
    own = not below.parts
    output = pathlib.Path(target.output) if target.output else run_dir / below
    options = from_flags(
        EvaluationOptions,
        train_split=config.train_split,
        validation_split=config.held_out_validation,
        compare=pathlib.Path(target.compare) / below if target.compare else None,
    )
    manifest.shards_of(target.split)  # what is wrong is said before the model takes its time
    class_map_for(run_dir, manifest, options.class_map)
    stored.refuse_to_replace(output, target.split, run_dir, manifest)
    if output.resolve() == run_dir.resolve():
        stored.refuse_in_the_run(manifest, own=own, class_map=options.class_map)
    read = read_options_from_flags(data_service="")
    keep_large_allocations()
    # One device: the model was loaded outside of any strategy's scope.
    placement = choose_placement("one", config.precision, target.xla)
    print(placement.choice("xla"))
    evaluate = functools.partial(
        evaluator.evaluate_split,
        run_dir,
        model=load_best_model(run_dir),
        placement=placement,
        batch_size=target.batch_size or config.batch_size,
    )
    if not (own and target.split == config.held_out_validation):
        _evaluate_validation(run_dir, config, read, evaluate)
    pipeline = Pipeline(manifest, read)
    summary = evaluate(pipeline=pipeline, split=target.split, options=options, output=output)
    print(f"{target.split} split of {manifest.directory}\n{text.evaluation_table(summary)}")
    place, layout = published(str(output)), RunLayout(output)
    print(f"written: {place}/{layout.metrics(target.split).name}, {layout.predictions(target.split).name}")
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
    define_flags(TargetOptions, EvaluationOptions, CompilationOptions)
    define_flags(ReadOptions, leave_out=["data_service"])
    command.run(with_local_run(computing_batches(main)))


if __name__ == "__main__":
    console_main()
