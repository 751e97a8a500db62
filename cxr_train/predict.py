"""Predicts image files with a run's best model.

    python -m cxr_train.predict --run_dir=RUN_DIR FILE_OR_DIR... [--output=predictions.csv]

With --run_dir=RUN_DIR,RUN_DIR,... the probabilities are the means of those of several runs, as of folds.
Any file that the sharder reads, decoded and resized as the training data was. A file that
cannot be read is named and counted; the others are predicted, and the exit code is 1.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core import storage
from cxr_data.core.errors import UsageError
from cxr_data.core.runtime import keep_large_allocations
from cxr_data.core.settings import required, setting
from cxr_data.core.shown import say
from cxr_data.core.wording import counted
from cxr_data.images.guarded import Limits
from cxr_train.engine.placement_names import XLA, CompilationOptions
from cxr_train.evaluation.calibration import Line, move_thresholds
from cxr_train.evaluation.stored import fitted_platt, fitted_temperature, stored_thresholds
from cxr_train.flags.compiled import kept_by_flags
from cxr_train.flags.output_place import prepare_output
from cxr_train.flags.run_directory import with_local_run
from cxr_train.inference.files import ImageFile, find_files
from cxr_train.inference.predicted import SUBMISSION_CLASSES, to_csv, to_json, to_submission
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.notice import NOTICE
from cxr_train.runs.saved_run import find_best_model, refuse_embeddings, trained_on


def parse_runs(text: str) -> tuple[pathlib.Path, ...]:
    """Parse `--run_dir`: one directory, whose name may hold commas, or several separated by commas."""
    one = pathlib.Path(text)
    if one.exists():
        return (one,)
    return tuple(pathlib.Path(part).expanduser() for part in text.split(",") if part)


@dataclasses.dataclass(frozen=True)
class PredictOptions(Limits):
    """How to predict, and what to write."""

    run_dir: tuple[pathlib.Path, ...] = required(
        "Directory of a training run; of several, separated by commas, the probabilities are averaged.",
        parse=parse_runs,
        path=True,
    )
    output: str | None = setting(None, "File for the predictions; stdout by default.", path=True)
    format: str | None = setting(
        None,
        "Format of the predictions; that of the suffix of --output by default, or csv.",
        choices=("csv", "json"),
    )
    panels: str | None = setting(
        None,
        "Folder for a picture of each image with heat map and probabilities.",
        path=True,
        local=True,
    )
    submission: str | None = setting(
        None, "File for the predictions in the format of the Chest XR COVID-19 challenge.", path=True
    )
    calibrated: str = setting(
        "none",
        "What calibrates the probabilities, as fitted on the run's validation split: temperature, which "
        "divides all logits (what --calibrated alone means); platt, a slope and an offset for each finding; "
        "or none.",
        choices=("none", "temperature", "platt"),
        bare="temperature",
    )
    overwrite: bool = setting(False, "Whether to replace files that are there.")
    batch_size: int = setting(16, "Images in a step.", at_least=1)
    xla: str = setting("auto", "Whether XLA compiles the prediction.", choices=XLA)


def main(arguments: Sequence[str]) -> int:
    """Predict what the command line names."""
    options = from_flags(PredictOptions)
    run_dir, *others = options.run_dir
    refuse_embeddings(run_dir, "predict")
    for flag in ("output", "submission", "panels"):
        given = getattr(options, flag)
        if given and storage.store_of(given).is_local:
            replaces = pathlib.Path.is_dir if flag == "panels" else pathlib.Path.is_file
            prepare_output(flag, pathlib.Path(given), overwrite=options.overwrite, replaces=replaces)
    files = find_files(arguments)
    names, of_findings = trained_on(run_dir).class_names, bool(trained_on(run_dir).findings)
    for one in options.run_dir:
        find_best_model(one)
    if others:
        _check_several(options)
    if options.submission and set(names) - set(SUBMISSION_CLASSES):
        raise UsageError(f"--submission: the challenge's classes are covid, normal, pneumonia, not {names}")
    temperature, lines = _calibration(options.calibrated, run_dir, of_findings=of_findings)
    needs_thresholds = not others and (of_findings or options.panels)
    thresholds = stored_thresholds(run_dir) if needs_thresholds else {}
    keep_large_allocations()
    with kept_by_flags():
        from cxr_train.inference.predictor import predict_files

        rows = predict_files(
            files,
            run_dir,
            limits=options.limits,
            batch_size=options.batch_size,
            xla=options.xla,
            temperature=temperature,
            lines=lines,
            # They are of the probabilities of one run before any calibration.
            thresholds=thresholds,
            others=others,
        )
    as_json = options.format == "json" or (not options.format and str(options.output).endswith(".json"))
    content = to_json(rows, names, temperature, lines) if as_json else to_csv(rows, names)
    if options.output:
        storage.replace(options.output, content)
    else:
        _to_stdout(content)
    if options.panels:
        if options.calibrated != "none":
            # Those of classes are of the probabilities before any temperature, which moves each otherwise.
            thresholds = move_thresholds(thresholds, temperature, lines) if of_findings else {}
        _write_panels(pathlib.Path(options.panels), files, rows, options, thresholds)
    if options.submission:
        storage.replace(options.submission, to_submission(rows))
    failed = sum(row["error"] is not None for row in rows)
    print(f"{len(rows) - failed:,} of {counted(len(rows), 'file')} predicted. {NOTICE}", file=sys.stderr)
    return 1 if failed else 0


def _calibration(
    method: str, run_dir: pathlib.Path, *, of_findings: bool
) -> tuple[float, dict[str, Line | None]]:
    """Return the temperature, and the line of each finding, and say which they are.

    Raises:
      UsageError: lines are for findings, and the run is of classes.
      DataError: nothing could be fitted on the run's validation split.
    """
    if method == "none":
        return 1.0, {}
    validation = TrainConfig.load(RunLayout(run_dir).config).held_out_validation
    if method == "temperature":
        temperature = fitted_temperature(run_dir, validation)
        say(f"probabilities at temperature {temperature:.3f}, fitted on {validation}", sys.stderr)
        return temperature, {}
    if not of_findings:
        raise UsageError(
            f"--calibrated={method}: is for findings, and {run_dir} tells classes; give "
            "--calibrated=temperature"
        )
    lines = fitted_platt(run_dir, validation)
    without = [name for name, line in lines.items() if line is None]
    kept = f"; as the model gives them for {', '.join(without)}, which have none" if without else ""
    say(
        f"probabilities by a slope and an offset for each finding (Platt), fitted on {validation}{kept}",
        sys.stderr,
    )
    return 1.0, lines


def _check_several(options: PredictOptions) -> None:
    """Check that the probabilities of several runs can be averaged, and say what is predicted from them.

    Raises:
      UsageError: they are not of the same classes and pixels, or another flag is for one run.
    """
    first, *others = options.run_dir
    for flag in ("calibrated", "panels"):
        if getattr(options, flag) not in (None, "none"):
            raise UsageError(f"--{flag}: is for one run; leave it out, or give one run with --run_dir")
    expected = trained_on(first)
    for other in others:
        found = trained_on(other)
        for what, one, another in (
            ("classes", expected.class_names, found.class_names),
            ("kind of labels", expected.task, found.task),
            ("pixels", expected.pixel_options, found.pixel_options),
        ):
            if one != another:
                raise UsageError(
                    f"--run_dir: {first} and {other} were trained on different {what}, {one} and {another}; "
                    "give runs of the same"
                )
    rule = "a finding from 0.5 on" if expected.findings else "the most probable class"
    said = f"probabilities are means of {counted(len(options.run_dir), 'run')}, whose thresholds are not used"
    print(f"{said}: predicted is {rule}", file=sys.stderr)


def _to_stdout(content: bytes) -> None:
    if sys.stdout.isatty():
        sys.stdout.write(content.decode("utf-8", "surrogateescape"))  # without control characters
    else:
        sys.stdout.buffer.write(content)
    sys.stdout.flush()


def _write_panels(
    directory: pathlib.Path,
    files: Sequence[ImageFile],
    rows: Sequence[dict[str, Any]],
    options: PredictOptions,
    thresholds: Mapping[str, float],
) -> None:
    from cxr_train.explanation.last_map import check_of_maps, last_map
    from cxr_train.inference.panels import PanelParts, write_panels  # matplotlib is needed for nothing else

    run_dir = options.run_dir[0]
    manifest = trained_on(run_dir)
    of_findings = bool(manifest.findings)
    parts = PanelParts(last_map(run_dir), check_of_maps(run_dir), thresholds, of_findings=of_findings)
    write_panels(directory, files, rows, manifest, parts, options.limits)


def console_main() -> None:
    """Run the command."""
    define_flags(PredictOptions, CompilationOptions)
    command.run_with_arguments(with_local_run(main), info_to="stderr")


if __name__ == "__main__":
    console_main()
