"""Predicts image files with a run's best model.

    python -m cxr_train.predict --run_dir=RUN_DIR FILE_OR_DIR... [--output=predictions.csv]

Any file that the sharder reads, decoded and resized as the training data was. A file that
cannot be read is named and counted; the others are predicted, and the exit code is 1.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from cxr_data.commands import command
from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.runtime import start
from cxr_train.engine.step import PredictStep
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation.forward_pass import Predictions
from cxr_train.evaluation.predictions import csv_bytes
from cxr_train.evaluation.stored import fitted_temperature
from cxr_train.flags.output_place import prepare_output
from cxr_train.flags.run_directory import with_local_run
from cxr_train.inference.files import ImageFile, find_files, read_images
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.run_model import load_best_model
from cxr_train.runs.saved_run import trained_on

NOTICE = "Research software: nothing here is a diagnosis."

# The challenge's numbers, whatever the order of a model's classes.
SUBMISSION_CLASSES = {"covid": 0, "normal": 1, "pneumonia": 2}

Row = dict[str, Any]


def predict_files(
    files: Sequence[ImageFile],
    run_dir: pathlib.Path,
    *,
    batch_size: int = 16,
    xla: str = "auto",
    temperature: float = 1.0,
) -> list[Row]:
    """Predicts files with the best model of a run.

    Args:
      temperature: of the softmax; 1 for the model's own probabilities.

    Returns:
      A dictionary a file, in order: file; predicted, a class name; probabilities, by class name;
      error. Where the file cannot be read, the middle two are None; else `error` is None.

    Raises:
      DataError: the run has no best model, or no copy of its data's manifest.
    """
    config = TrainConfig.load(RunLayout(run_dir).config)
    manifest = trained_on(run_dir)
    placement = choose_placement("one", config.precision, xla)
    print(placement.choice("xla"), file=sys.stderr)
    step = PredictStep(load_best_model(run_dir), placement)
    rows: list[Row] = [
        {"file": file.name, "predicted": None, "probabilities": None, "error": None} for file in files
    ]
    names = manifest.class_names
    with tqdm(total=len(files), desc="predict", unit="image", file=sys.stderr, leave=False) as bar:
        for read, images, failed in read_images(files, manifest.pixel_options, batch_size):
            for number, error in failed.items():
                rows[number]["error"] = str(error)
                tqdm.write(f"not predicted: {files[number].path}: {error}", file=sys.stderr)
            if read:
                logits = step({"image": images})[: len(read)]
                logits = logits / np.float32(temperature)
                said = Predictions(np.array(read), np.zeros(len(read), np.int64), logits).probabilities
                for number, probabilities in zip(read, said, strict=True):
                    rows[number]["predicted"] = names[int(probabilities.argmax())]
                    rows[number]["probabilities"] = dict(zip(names, probabilities.tolist(), strict=True))
            bar.update(len(read) + len(failed))
    return rows


def to_csv(rows: Sequence[Row], class_names: Sequence[str]) -> bytes:
    """One line a file: file, predicted, a probability a class, error."""
    lines = [["file", "predicted", *(f"p_{name}" for name in class_names), "error"]]
    for row in rows:
        probabilities = row["probabilities"] or {}
        values = (repr(probabilities[name]) if probabilities else "" for name in class_names)
        lines.append([row["file"], row["predicted"] or "", *values, row["error"] or ""])
    return csv_bytes(lines)


def to_json(rows: Sequence[Row], class_names: Sequence[str], temperature: float = 1.0) -> bytes:
    """The rows, the temperature of their probabilities, and the notice that belongs to them."""
    document = {
        "notice": NOTICE,
        "class_names": list(class_names),
        "temperature": temperature,
        "predictions": list(rows),
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def to_submission(rows: Sequence[Row]) -> bytes:
    """The challenge's file: CRLF lines `case,class`, the case being the file's name, in its order.

    Raises:
      DataError: a class that the challenge does not have, a file that was not predicted, or two
        files of one name.
    """
    lines = {}
    for row in rows:
        case = pathlib.PurePath(row["file"]).name
        if row["predicted"] not in SUBMISSION_CLASSES:
            reason = row["error"] or f"{row['predicted']} is no class of the challenge"
            raise DataError(f"--submission: every case needs a class, and {row['file']} has none: {reason}")
        if case in lines:
            raise DataError(f"--submission: two files are case {case}, as {row['file']}")
        lines[case] = [case, str(SUBMISSION_CLASSES[row["predicted"]])]
    return csv_bytes([["case", "class"], *(lines[case] for case in sorted(lines))], line_end="\r\n")


def main(arguments: Sequence[str]) -> int:
    """Predicts what the command line names."""
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
    """Defines the flags and runs; the entry point of `cxr-predict`."""
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
    command.run_with_arguments(with_local_run(main))


if __name__ == "__main__":
    console_main()
