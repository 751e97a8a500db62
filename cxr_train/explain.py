"""Explains a run: Grad-CAM at several depths, galleries, filters, and an occlusion check.

python -m cxr_train.explain --run_dir=RUN_DIR [--data=DIR] [--split=validation]
"""

import dataclasses
import pathlib

from absl import flags

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags
from cxr_data.core.runtime import start
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import read_manifest
from cxr_train.evaluation.class_map import refuse_other_classes
from cxr_train.explanation.explainer import Explainer, ExplainOptions
from cxr_train.flags.read_flags import read_options_from_flags
from cxr_train.flags.run_directory import with_local_run
from cxr_train.reporting.page import write_report
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import EXPLANATION_NAME, RunLayout
from cxr_train.runs.mirror import published


def main() -> int:
    """Explain a run directory from flags."""
    values = flags.FLAGS
    run_dir = pathlib.Path(values.run_dir)
    start()
    # It may have been moved, or be the mirror of a remote one.
    config = dataclasses.replace(TrainConfig.load(RunLayout(run_dir).config), run_dir=str(run_dir))
    manifest = read_manifest(values.data or config.data)
    refuse_other_classes(run_dir, manifest)
    options = ExplainOptions(
        split=values.split,
        classes=tuple(values.classes),
        images=tuple(values.images),
        layers=tuple(values.layers),
        filter_layers=tuple(values.filter_layers),
        gallery_size=values.gallery_size,
        check_images=values.check_images,
        filters=values.filters,
        filter_steps=values.filter_steps,
        overwrite=values.overwrite,
    )
    explainer = Explainer(config, Pipeline(manifest, read_options_from_flags(data_service="")), options)
    document = explainer.explain()
    print(f"layers: {', '.join(document['layers'])}")
    print(document["occlusion"]["text"])
    place = published(str(explainer.directory))
    print(f"written: {place}/{EXPLANATION_NAME}, {len(document['cases'])} cases, pictures")
    if explainer.directory.parent.parent == run_dir:
        print(f"report: {published(str(write_report(run_dir)))}")
    print("Research software: a map shows what the network used, not where a disease is.")
    return 0


def console_main() -> None:
    """Run the command."""
    defaults = ExplainOptions()
    flags.DEFINE_string("run_dir", None, "Directory of a training run.", required=True)
    flags.DEFINE_string("data", None, "Folder of shards; the run's own by default.")
    flags.DEFINE_string("split", defaults.split, "Which split to explain.")
    flags.DEFINE_list("classes", [], "Names of the classes that get galleries; all by default.")
    flags.DEFINE_list("images", [], "Ids whose depths are shown; by default a true positive a class.")
    flags.DEFINE_list("layers", [], "Layers to map; by default the end of each resolution stage.")
    flags.DEFINE_list("filter_layers", [], "Layers whose filters are shown; by default two of them.")
    flags.DEFINE_integer("gallery_size", defaults.gallery_size, "Cases of each gallery.", lower_bound=1)
    flags.DEFINE_integer(
        "check_images", defaults.check_images, "Images of the occlusion check.", lower_bound=1
    )
    flags.DEFINE_integer("filters", defaults.filters, "Channels of each layer; 0 for none.", lower_bound=0)
    flags.DEFINE_integer("filter_steps", defaults.filter_steps, "Of the gradient ascent.", lower_bound=1)
    flags.DEFINE_bool("overwrite", False, "Replace an earlier explanation of the split.")
    define_flags(ReadOptions, leave_out=["data_service"])
    command.run(with_local_run(main))


if __name__ == "__main__":
    console_main()
