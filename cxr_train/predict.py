"""Predicts image files with a run's best model.

    python -m cxr_train.predict --run_dir=RUN_DIR FILE_OR_DIR... [--output=predictions.csv]

Any file that the sharder reads, decoded and resized as the training data was. A file that
cannot be read is named and counted; the others are predicted, and the exit code is 1.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from cxr_data.commands import command
from cxr_data.core import storage
from cxr_data.core.errors import UsageError
from cxr_data.core.runtime import start
from cxr_train.evaluation.stored import fitted_temperature
from cxr_train.flags.output_place import prepare_output
from cxr_train.flags.run_directory import with_local_run
from cxr_train.inference.files import find_files
from cxr_train.inference.predictor import (
    NOTICE,
    SUBMISSION_CLASSES,
    predict_files,
    to_csv,
    to_json,
    to_submission,
)
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.saved_run import trained_on


def main(arguments: Sequence[str]) -> int:
    """Predict what the command line names."""
    values = flags.FLAGS
    run_dir = pathlib.Path(values.run_dir)
    if not storage.store_of(values.panels or "").is_local:
        raise UsageError(
            f"--panels={values.panels}: panels are written to a local folder; copy them from there"
        )
    for flag in ("output", "submission", "panels"):
        given = getattr(values, flag)
        if given and storage.store_of(given).is_local:
            replaces = pathlib.Path.is_dir if flag == "panels" else pathlib.Path.is_file
            prepare_output(flag, pathlib.Path(given), overwrite=values.overwrite, replaces=replaces)
    files = find_files(arguments)
    names = trained_on(run_dir).class_names
    if values.submission and set(names) - set(SUBMISSION_CLASSES):
        raise UsageError(f"--submission: the challenge's classes are covid, normal, pneumonia, not {names}")
    temperature = 1.0
    if values.calibrated:
        validation = TrainConfig.load(RunLayout(run_dir).config).held_out_validation
        temperature = fitted_temperature(run_dir, validation)
        print(f"probabilities at temperature {temperature:.3f}, fitted on {validation}", file=sys.stderr)
    start()
    rows = predict_files(
        files, run_dir, batch_size=values.batch_size, xla=values.xla, temperature=temperature
    )
    as_json = values.format == "json" or (not values.format and str(values.output).endswith(".json"))
    content = to_json(rows, names, temperature) if as_json else to_csv(rows, names)
    if values.output:
        storage.replace(values.output, content)
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    if values.panels:
        from cxr_train.inference.panels import write_panels  # matplotlib is needed for nothing else

        write_panels(pathlib.Path(values.panels), files, rows, trained_on(run_dir))
    if values.submission:
        storage.replace(values.submission, to_submission(rows))
    failed = sum(row["error"] is not None for row in rows)
    print(f"{len(rows) - failed:,} of {len(rows):,} files predicted. {NOTICE}", file=sys.stderr)
    return 1 if failed else 0


def console_main() -> None:
    """Run the command."""
    flags.DEFINE_string("run_dir", None, "Directory of a training run.", required=True)
    flags.DEFINE_string("output", None, "File for the predictions; stdout by default.")
    flags.DEFINE_enum("format", None, ["csv", "json"], "By default as the suffix of --output says, or csv.")
    flags.DEFINE_string("panels", None, "Folder for a picture of each image with its probabilities.")
    flags.DEFINE_string("submission", None, "Also writes the Chest XR COVID-19 challenge's file.")
    flags.DEFINE_bool(
        "calibrated", False, "Probabilities at the temperature fitted on the run's validation split."
    )
    flags.DEFINE_bool("overwrite", False, "Replace files that are there.")
    flags.DEFINE_integer("batch_size", 16, "Images a step.", lower_bound=1)
    flags.DEFINE_enum("xla", "auto", ["auto", "on", "off"], "Whether XLA compiles the prediction.")
    command.run_with_arguments(with_local_run(main), info_to="stderr")


if __name__ == "__main__":
    console_main()
