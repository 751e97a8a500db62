"""The table of an ablation: what each run reaches, and whether it differs from the baseline beyond chance.

`ablation.json`:

    schema        "cxr.ablation/1"
    split         the images of all numbers, "own-fold" for the fold of each run; `picked_on` says whether
                  best epochs were picked on some of them too
    baseline      a configuration; each run is compared with its run of the same seed and fold
    comparisons   how many tests `holm_p` is adjusted for
    without_patient  images of no known patient, each of which counts as a patient of its own
    audit         what shortcuts alone reach beside these runs, and leakage: sentences of `beside_audit`
    rows          a run each: name, seed, fold (as 2of5, only where there are folds), directory, flags
                  (those that differ), status, epochs;
                  accuracy, sensitivity, specificity, auroc: value and 95 % interval (the latter
                  three are means over the classes), null where it is not finished;
                  against_baseline: null, or the keys of `significance.agreement` (with findings no p-values,
                  since labels of one image depend on each other), holm_p, and
                  differences: of the same four, this minus the baseline, value and interval
    seeds         with several seeds, without folds: by configuration and metric, mean and standard deviation
    folds         only with folds: by configuration, `runs` and by metric mean, lowest and highest of its runs
                  Both are of the means over the classes that have a number in each of these runs (a finding
                  with too few images in a fold has none there); `left_out` of a metric names the others
    more_epochs   only in a search: epochs that these runs were trained for beyond its trials

Intervals are patient-clustered bootstraps, see `intervals`; those of differences are not adjusted for the
number of comparisons, the p-values of McNemar's test are (`significance.holm`).
"""

import math
import pathlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cxr_data.core.csv_table import csv_bytes
from cxr_data.core.wording import counted, wrapped
from cxr_data.records.split_names import have_common_images
from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_train.ablation.runner import GridRun
from cxr_train.evaluation.beside_audit import beside_runs
from cxr_train.evaluation.compare import compare_models
from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.evaluation.significance import holm
from cxr_train.evaluation.stored import stored_predictions
from cxr_train.evaluation.wording import first_of
from cxr_train.runs.documents import read_document
from cxr_train.runs.layout import GridLayout, RunLayout
from cxr_train.runs.metrics_document import Metrics
from cxr_train.runs.tables import write_tables

SCHEMA = "cxr.ablation/1"
OWN_FOLD = "own-fold"
"""In place of a split: each run's numbers are of the fold that it is validated on."""
# By the name in the table, the metric's name in `compare.compare_models`.
METRICS = {
    "accuracy": "accuracy",
    "sensitivity": "macro sensitivity",
    "specificity": "macro specificity",
    "auroc": "macro auroc",
}
Row = dict[str, Any]


def make_table(
    runs: Sequence[GridRun],
    statuses: Sequence[str],
    *,
    varied: Sequence[str],
    baseline: str,
    split: str,
    resamples: int,
) -> dict[str, Any]:
    """Put the table together from what the run directories hold; ready for JSON.

    Args:
      runs, statuses: rows; a run without predictions of `split` has no numbers.
      varied: flags shown.
      baseline: name of a configuration.
      split: see the head of this file; `OWN_FOLD` needs runs with folds.
      resamples: of the bootstrap.

    Raises:
      DataError: two runs were evaluated on different images.
    """
    splits = [run.config.validation_split if split == OWN_FOLD else split for run in runs]
    predictions = [
        stored_predictions(run.directory, own) if run.is_begun else None
        for run, own in zip(runs, splits, strict=True)
    ]
    references = {
        (run.seed, run.fold): said
        for run, said in zip(runs, predictions, strict=True)
        if run.name == baseline and said is not None
    }
    summaries = [
        _summary(run, own) if said else None for run, own, said in zip(runs, splits, predictions, strict=True)
    ]
    rows = []
    for run, status, said, summary in zip(runs, statuses, predictions, summaries, strict=True):
        reference = references.get((run.seed, run.fold)) if run.name != baseline else None
        rows.append(
            {
                "name": run.name,
                "seed": run.seed,
                **({"fold": run.fold} if run.fold else {}),
                "directory": str(run.directory),
                "flags": {name: run.flags.get(name) for name in varied},
                "status": status,
                "epochs": run.epochs_done,
                **(_numbers(summary) if summary else dict.fromkeys(METRICS)),
                "against_baseline": _against(said, reference, resamples) if said and reference else None,
            }
        )
    evaluated = [summary for summary in summaries if summary]
    compared = [row["against_baseline"] for row in rows if row["against_baseline"]]
    tests = [test for test in compared if test["mcnemar_exact_p"] is not None]  # null for findings
    for test in compared:
        test["holm_p"] = None
    for test, adjusted in zip(tests, holm([test["mcnemar_exact_p"] for test in tests]), strict=True):
        test["holm_p"] = adjusted
    return {
        "schema": SCHEMA,
        "split": split,
        "picked_on": any(_picked_on(run, own) for run, own in zip(runs, splits, strict=True)),
        "baseline": baseline,
        "comparisons": len(tests),
        "without_patient": max((said.without_patient for said in predictions if said), default=0),
        "audit": beside_runs(evaluated),
        "rows": rows,
        "seeds": {} if _has_folds(rows) else _over_seeds(rows, summaries),
        **({"folds": _over_folds(rows, summaries)} if _has_folds(rows) else {}),
    }


def _picked_on(run: GridRun, split: str) -> bool:
    picking = run.config.held_out_validation
    return picking is not None and have_common_images(split, picking)


def _has_folds(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any("fold" in row for row in rows)


def _summary(run: GridRun, split: str) -> Row:
    return read_document(RunLayout(run.directory).metrics(split), Metrics)


def _numbers(summary: Row) -> Row:
    intervals = summary.get("intervals") or {}

    def entry(name: str) -> Row:
        if name == "accuracy":
            return {"value": summary[name], "interval": intervals.get(name)}
        return {"value": summary["macro"].get(name), "interval": (intervals.get("macro") or {}).get(name)}

    return {name: entry(name) for name in METRICS}


def _against(said: NamedPredictions, reference: NamedPredictions, resamples: int) -> Row:
    found = compare_models(said, reference, PatientBootstrap.of_names(said.groups, resamples=resamples))
    kept = ("both_right", "only_this", "only_other", "both_wrong", "mcnemar_exact_p")
    differences = {name: found["differences"][metric] for name, metric in METRICS.items()}
    return {**{key: found[key] for key in kept}, "differences": differences}


def _over_seeds(rows: Sequence[Row], summaries: Sequence[Row | None]) -> dict[str, Row]:
    """Return the mean and standard deviation over the seeds of each configuration that has several."""
    return _over_runs(
        rows, summaries, "seeds", {"mean": statistics.fmean, "standard_deviation": statistics.stdev}
    )


def _over_folds(rows: Sequence[Row], summaries: Sequence[Row | None]) -> dict[str, Row]:
    """Return the mean and the range over the folds, and seeds, of each configuration that has several."""
    return _over_runs(rows, summaries, "runs", {"mean": statistics.fmean, "lowest": min, "highest": max})


def _over_runs(
    rows: Sequence[Row],
    summaries: Sequence[Row | None],
    counted_as: str,
    statistic: Mapping[str, Callable[[Sequence[float]], float]],
) -> dict[str, Row]:
    """Return statistics by name over the finished runs of each configuration that has several.

    They are None where a run has no value: those of the others are of other runs.

    Args:
      summaries: of the rows, content of `metrics_{split}.json`.
    """
    summary: dict[str, Row] = {}
    for name in dict.fromkeys(row["name"] for row in rows):
        finished = [one for row, one in zip(rows, summaries, strict=True) if row["name"] == name and one]
        if len(finished) < 2:
            continue
        summary[name] = {counted_as: len(finished)}
        for metric in METRICS:
            values, left_out = _of_all_runs(finished, metric)
            defined = all(value is not None for value in values)
            summary[name][metric] = {key: of(values) if defined else None for key, of in statistic.items()}
            if left_out:
                summary[name][metric]["left_out"] = left_out
    return summary


def _of_all_runs(summaries: Sequence[Row], metric: str) -> tuple[list[Any], list[str]]:
    """Return a metric of each run, and the classes that some but not all of them have.

    A mean over other classes is another metric.
    """
    if metric == "accuracy":
        return [summary[metric] for summary in summaries], []
    of_classes = [
        {name: row[metric] for name, row in summary["per_class"].items() if row[metric] is not None}
        for summary in summaries
    ]
    anywhere = [name for name in summaries[0]["per_class"] if any(name in known for known in of_classes)]
    shared = [name for name in anywhere if all(name in known for known in of_classes)]
    values = [statistics.fmean(known[name] for name in shared) if shared else None for known in of_classes]
    return values, [name for name in anywhere if name not in shared]


def table_to_csv(table: Mapping[str, Any]) -> bytes:
    """Return one line a run, with the numbers of `ablation.json` in columns."""
    rows = table["rows"]
    flags = list(rows[0]["flags"])
    fold = ["fold"] if _has_folds(rows) else []
    columns = ["name", "seed", *fold, *flags, "status", "epochs"]
    for metric in METRICS:
        columns += [metric, f"{metric}_low", f"{metric}_high"]
    for metric in METRICS:
        columns += [f"{metric}_difference", f"{metric}_difference_low", f"{metric}_difference_high"]
    columns += ["only_this", "only_baseline", "mcnemar_p", "holm_p"]
    lines: list[list[object]] = [list(columns)]
    for row in rows:
        cells = [
            row["name"],
            row["seed"],
            *(row[name] for name in fold),
            *(row["flags"][flag] for flag in flags),
        ]
        cells += [row["status"], row["epochs"]]
        test = row["against_baseline"] or {}
        for source in (row, test.get("differences", {})):
            for metric in METRICS:
                entry = source.get(metric) or {"value": None, "interval": None}
                cells += [entry["value"], *(entry["interval"] or (None, None))]
        keys = ("only_this", "only_other", "mcnemar_exact_p", "holm_p")
        lines.append([*cells, *(test.get(key) for key in keys)])
    return csv_bytes(lines)


def to_text(table: Mapping[str, Any]) -> str:
    """Return the table for the terminal."""
    rows = table["rows"]
    labels = [
        f"{row['name']} seed {row['seed']}" + (f" fold {row['fold']}" if "fold" in row else "")
        for row in rows
    ]
    width = max(map(len, labels)) + 2
    header = f"{'':{width}}" + "".join(f"{metric:>22}" for metric in METRICS)
    lines = [f"{header}{'difference of accuracy':>28}{'right alone':>13}{'McNemar p':>11}{'Holm p':>9}"]
    for label, row in zip(labels, rows, strict=True):
        if not row["accuracy"]:
            lines.append(f"{label:{width}}  {row['status']}")
            continue
        line = f"{label:{width}}" + "".join(f"{_cell(row[metric]):>22}" for metric in METRICS)
        lines.append(line + _test_cells(row, table["baseline"]))
    for name, found in table["seeds"].items():
        means = (
            f"{metric} {found[metric]['mean']:.4f} +- {found[metric]['standard_deviation']:.4f}"
            for metric in METRICS
            if found[metric]["mean"] is not None
        )
        lines.append(f"{name}, mean and standard deviation over {found['seeds']} seeds: {', '.join(means)}")
    lines += _fold_lines(table)
    audit = (wrapped(line, rest="  ") for line in table["audit"])
    return "\n".join([*lines, *notes_of(table), *audit])


def _fold_lines(table: Mapping[str, Any]) -> Iterator[str]:
    for name, found in table.get("folds", {}).items():
        means = (
            f"{metric} {found[metric]['mean']:.4f} ({found[metric]['lowest']:.4f} to "
            f"{found[metric]['highest']:.4f})"
            for metric in METRICS
            if found[metric]["mean"] is not None
        )
        yield f"{name}, mean and range over {found['runs']} runs, one a fold and seed: {', '.join(means)}"
        if left_out := found["auroc"].get("left_out"):
            yield f"  of the classes that have a number in each of them, so without {first_of(left_out, 4)}"


def _test_cells(row: Row, baseline: str) -> str:
    test = row["against_baseline"]
    if test is None:
        return f"{'baseline' if row['name'] == baseline else 'the baseline is not finished':>28}"
    alone = f"{test['only_this']}/{test['only_other']}"
    difference = _cell(test["differences"]["accuracy"], "+.4f")
    p, adjusted = ("" if test[key] is None else f"{test[key]:.2g}" for key in ("mcnemar_exact_p", "holm_p"))
    return f"{difference:>28}{alone:>13}{p:>11}{adjusted:>9}"


def notes_of(table: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the table's numbers must know."""
    compared = [row["against_baseline"] for row in table["rows"] if row["against_baseline"]]
    notes = [
        f"{table['split']} split; [95 % intervals: bootstrap over patients]; sensitivity, specificity and "
        "auroc are means over the classes"
    ]
    if compared:
        notes[0] += (
            "; right alone: what this run has right and the baseline wrong / the reverse, in images, of "
            "findings in labels"
        )
    if table["comparisons"]:
        notes[0] += (
            "; Holm p: McNemar's exact test, which takes images for independent, adjusted for "
            f"{counted(table['comparisons'], 'comparison')}"
        )
    if any(test["holm_p"] is None for test in compared):
        notes.append("findings: no test takes labels of one image together, so there is no p")
        notes.append("accuracy is the share of known labels that is right at p >= 0.5")
    if table["comparisons"] > 1:
        notes.append(
            "the 95 % of each difference's interval are not adjusted for the number of comparisons: where "
            "nothing differs, one interval in twenty still leaves out 0"
        )
    if table["without_patient"]:
        notes.append(
            f"{counted(table['without_patient'], 'image has', 'images have')} no known patient, and each "
            "counts as a patient of its own: where a patient has several, the intervals are too narrow"
        )
    if table["picked_on"]:
        notes.append("best epochs were picked on these very images: the numbers flatter")
    if table["split"] == OWN_FOLD:
        notes.append(
            "own-fold: each run is evaluated on the fold that it was not trained on, so the runs of two "
            "folds are of different images, and their range says how much the numbers depend on them"
        )
    if "folds" in table:
        notes.append("the range over folds is no interval: the runs of two folds have most images in common")
    elif not table["seeds"] and len(table["rows"]) > 1:
        notes.append("one seed each: a difference may be the seed's and not the configuration's (--seeds)")
    if "more_epochs" in table:
        notes.append(
            f"these runs took {counted(table['more_epochs'], 'epoch')} beyond those of the trials, which no "
            "budget counts"
        )
    return notes


def _cell(entry: Row, form: str = ".4f") -> str:
    if entry["value"] is None or not math.isfinite(entry["value"]):
        return "undefined"
    interval = entry["interval"]
    short = form.replace("4", "3")
    reach = f" [{interval[0]:{short}}, {interval[1]:{short}}]" if interval else ""
    return f"{entry['value']:{form}}{reach}"


def write_table(directory: pathlib.Path, table: Mapping[str, Any]) -> None:
    """Write `ablation.json`, `ablation.csv` and `ablation.txt`."""
    write_tables(GridLayout(directory), table, csv=table_to_csv(table), text=to_text(table))
