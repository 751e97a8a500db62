"""What a run's evaluation does, checked before TensorFlow and the model are loaded."""

import dataclasses
import os
import pathlib

from cxr_data.core.errors import UsageError
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_train.evaluation import stored
from cxr_train.evaluation.class_map import class_map_for
from cxr_train.evaluation.options import SOURCE, EvaluationOptions
from cxr_train.evaluation.table_columns import open_table
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import TEST_TIME_NAME
from cxr_train.runs.saved_run import find_best_model, usual_split


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """An evaluation that can be begun.

    Attributes:
      manifest: of the data.
      split: of it.
      options: what is computed, with the splits of the run.
      output: folder that is written to.
      own: whether it is the run's own data.
      on_page: whether `output` is where the run's page looks for it.
    """

    manifest: Manifest
    split: str
    options: EvaluationOptions
    output: pathlib.Path
    own: bool
    on_page: bool


def plan_evaluation(
    run_dir: pathlib.Path,
    config: TrainConfig,
    split: str | None,
    *,
    data: str | None = None,
    options: EvaluationOptions | None = None,
    output: str | os.PathLike[str] | None = None,
    compare: str | os.PathLike[str] | None = None,
) -> EvaluationPlan:
    """Check what is asked for; the arguments as for `Run.evaluate`, but None for the usual split.

    Raises:
      UsageError: it does not fit the run, or would replace something else.
      DataError: the data, the run, or the other run is not whole.
    """
    if options is not None and options.compare is not None:
        raise UsageError("options.compare: give the other run's directory as `compare`")
    manifest = read_manifest(data or config.data)
    below = stored.place_of(run_dir, manifest, named=data is not None)
    own = not below.parts
    usual = run_dir / below
    if options and options.test_time:
        usual = usual / TEST_TIME_NAME / options.test_time
    place = pathlib.Path(output) if output else usual
    options = dataclasses.replace(
        options or EvaluationOptions(),
        train_split=config.train_split,
        validation_split=config.held_out_validation,
        compare=pathlib.Path(compare) / below if compare else None,
    )
    split = split or usual_split(run_dir, config, manifest)
    manifest.shards_of(split)
    if columns := [name for name in options.by if name != SOURCE]:
        open_table(pathlib.Path(options.by_table), columns)  # refused before the model is loaded
    class_map_for(run_dir, manifest, options.class_map)
    stored.refuse_to_replace(place, split, run_dir, manifest)
    if place.resolve() == run_dir.resolve():
        stored.refuse_in_the_run(manifest, own=own, class_map=options.class_map)
        if options.test_time:
            raise UsageError(
                f"--output={place}: the run directory is for results without test-time methods; leave out "
                "--output, or choose another folder"
            )
    if options.compare is not None:
        stored.other_predictions(options.compare, split)
    find_best_model(run_dir)
    return EvaluationPlan(manifest, split, options, place, own, on_page=place == run_dir / below)
