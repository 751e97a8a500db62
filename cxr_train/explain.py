"""Explains a run: Grad-CAM at several depths, galleries, filters, and an occlusion check.

python -m cxr_train.explain --run_dir=RUN_DIR [--data=DIR] [--split=test]
"""

import dataclasses

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core.runtime import keep_large_allocations
from cxr_data.core.shown import say
from cxr_data.core.wording import counted, wrapped
from cxr_data.input.options import ReadOptions
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_train.evaluation.class_map import refuse_other_classes
from cxr_train.explanation.options import ExplainOptions, new_place
from cxr_train.flags.read_flags import read_options_from_flags
from cxr_train.flags.run_directory import RunDataOptions, with_local_run
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import EXPLANATION_NAME, RunLayout
from cxr_train.runs.mirror import published
from cxr_train.runs.saved_run import find_best_model, refuse_embeddings

_TOO_LARGE = "the device has too little memory for the run's batch; free it of other processes"


def main() -> int:
    """Explain a run directory from flags."""
    options = from_flags(RunDataOptions)
    run_dir = options.run_dir
    # It may have been moved, or be the mirror of a remote one.
    config = dataclasses.replace(TrainConfig.load(RunLayout(run_dir).config), run_dir=str(run_dir))
    refuse_embeddings(run_dir, "explain")
    manifest = read_manifest(options.data or config.data)
    refuse_other_classes(run_dir, manifest)
    read = read_options_from_flags(data_service="")
    explained = from_flags(ExplainOptions).of_run(config, manifest)
    manifest.shards_of(explained.split)
    new_place(run_dir, manifest, explained)
    find_best_model(run_dir)
    _explain(config, manifest, read, explained)
    return 0


def _explain(config: TrainConfig, manifest: Manifest, read: ReadOptions, options: ExplainOptions) -> None:
    """Explain what was found to be there; TensorFlow is loaded."""
    from cxr_data.input.pipeline import Pipeline
    from cxr_train.engine.memory_errors import clear_memory_errors
    from cxr_train.explanation.explainer import Explainer
    from cxr_train.reporting.page import write_report

    keep_large_allocations()
    with clear_memory_errors(_TOO_LARGE):
        explainer = Explainer(config, Pipeline(manifest, read), options)
        document = explainer.explain()
    print(wrapped(f"layers: {', '.join(document['layers'])}", rest="  "))
    print(wrapped(document["occlusion"]["text"], rest="  "))
    place = published(str(explainer.directory))
    say(f"written: {place}/{EXPLANATION_NAME}, {counted(len(document['cases']), 'case')}, pictures")
    run_dir = config.layout.directory
    if explainer.directory.parent.parent == run_dir:
        say(f"report: {published(str(write_report(run_dir)))}")
    print("Research software: a map shows what the network used, not where a disease is.")


def console_main() -> None:
    """Run the command."""
    define_flags(RunDataOptions, ExplainOptions)
    define_flags(ReadOptions, leave_out=["data_service"])
    command.run(with_local_run(main))


if __name__ == "__main__":
    console_main()
