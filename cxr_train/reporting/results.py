"""What the page of a run says of one split: its numbers, with intervals, in tables, notes and charts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr_data.core.page import Grid, Picture, Shaded
from cxr_data.core.wording import capitalized, counted
from cxr_data.records.split_names import have_common_images
from cxr_data.stats.co_occurrence import both_present
from cxr_train.evaluation import text, wording
from cxr_train.evaluation.beside_audit import known_from_training
from cxr_train.evaluation.calibration import measure_calibration
from cxr_train.evaluation.thresholds import REPORTED
from cxr_train.evaluation.wording import no_temperature, optimistic
from cxr_train.reporting import result_charts
from cxr_train.reporting.drawing import COLORS
from cxr_train.reporting.record import Document, RunRecord, SplitRecord

_METRICS = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "one_vs_rest_accuracy": "one-vs-rest\naccuracy",
}
_CALIBRATION = {"brier": "Brier", "ece": "ECE"}  # of each finding
_MOST_IN_TITLE = 6
_DARKEST = 0.45  # of a cell of the confusion matrix, so that its number stays readable
FAMILIAR = ("", "the best epoch was picked on them", "the model was trained on them")
_UNDEFINED = "undefined"
_OF_EXTERNAL = ("sensitivity", "specificity", "auroc")
_OF_CLASS = ("auroc", "sensitivity", "specificity")


def names_in_title(names: Sequence[str], kind: str) -> str:
    """Return the names of the classes for a title, or where they are many, their number and `kind`."""
    return " / ".join(names) if len(names) <= _MOST_IN_TITLE else f"{len(names)} {kind}"


def main_split(record: RunRecord) -> SplitRecord | None:
    """Return the evaluated split that the model knows the least: test, where it was held out."""
    evaluated = [split for split in record.splits if split.metrics]
    return min(evaluated, key=lambda split: (familiarity(record, split), split.name != "test"), default=None)


def key_numbers(record: RunRecord, split: SplitRecord) -> list[tuple[str, str, str]]:
    """Return the few numbers at the top: name, value, and a note such as its interval."""
    metrics = split.metrics or {}
    intervals = metrics.get("intervals") or {}
    macro, macro_intervals = metrics["macro"], intervals.get("macro") or {}
    numbers = [(wording.accuracy_name(metrics), metrics["accuracy"], intervals.get("accuracy"))]
    for name in ("sensitivity", "specificity", "auroc"):
        numbers.append((f"{_METRICS[name]}, mean", macro[name], macro_intervals.get(name)))
    shown = [(name, three_digits(value), _interval(interval)) for name, value, interval in numbers]
    told = FAMILIAR[familiarity(record, split)]
    note = counted(metrics["images"], "image") + (f"; {told}" if told else "")
    return [("split", split.name, note), *shown]


def class_tiles(metrics: Document) -> list[dict[str, Any]]:
    """Return the name, colour on the charts, number of images and main metrics of each class; findings with
    too few images have none.
    """
    intervals = (metrics.get("intervals") or {}).get("per_class") or {}
    return [
        {
            "name": name,
            "color": COLORS[number % len(COLORS)],
            "images": f"{wording.images_of(row)} {'image' if row['images'] == 1 else 'images'}",
            "metrics": [
                {
                    "name": _METRICS[metric],
                    "value": three_digits(row[metric]),
                    "interval": _range(intervals.get(name, {}).get(metric)),
                }
                for metric in _OF_CLASS
            ],
        }
        for number, (name, row) in enumerate(metrics["per_class"].items())
        if name not in metrics.get("too_few", ())
    ]


def split_results(record: RunRecord, split: SplitRecord) -> dict[str, Any]:
    """Return the name, summary, tiles, tables, notes and charts of a split that has metrics."""
    metrics = split.metrics or {}
    undefined = [
        f"{capitalized(_METRICS[metric])} is undefined for {', '.join(classes)}, which the mean leaves out."
        for metric, classes in wording.undefined(metrics).items()
        if metric in _METRICS
    ]
    statistics = [f"{note}." for note in wording.initial_statistics(metrics.get("initial_statistics_share"))]
    about = [*_interval_notes(metrics), *_calibration(metrics), *undefined, *_comparison(metrics)]
    notes = [*statistics, *about]
    if split.labels is None:
        notes.append("There are no predictions to draw curves from.")
    patients = f" of {counted(split.groups, 'patient')}" if split.groups else ""
    told = FAMILIAR[familiarity(record, split)]
    warning = f" These images flatter: {told}." if told else ""
    accuracy = with_interval(metrics["accuracy"], (metrics.get("intervals") or {}).get("accuracy"))
    share = capitalized(wording.accuracy_name(metrics))
    return {
        "name": split.name,
        "summary": f"{counted(metrics['images'], 'image')}{patients}. {share} {accuracy}, "
        f"loss {three_digits(metrics.get('loss'))}.{warning}",
        "classes": class_tiles(metrics),
        "too_few": [f"{capitalized(note)}." for note in wording.too_few(metrics)],
        "metrics": metrics_table(metrics),
        "confusion": confusion(metrics, split.labels),
        "tables": [
            *_thresholds(metrics),
            *_errors_of_findings(metrics),
            *_subgroups(metrics),
            *_differences(metrics),
        ],
        "notes": notes,
        "charts": _curves(record, split, metrics),
        "forests": [*result_charts.forests(metrics), *result_charts.probe_forest(metrics)],
    }


def _curves(record: RunRecord, split: SplitRecord, metrics: Document) -> list[tuple[Picture, str]]:
    """Return what is drawn from the predictions of single images, each chart with its caption."""
    if split.labels is None or split.probabilities is None:
        return []
    drawn = (split.labels, split.probabilities, record.class_names, metrics)
    points = result_charts.working_points(metrics)
    curves: list[tuple[Picture | None, str]] = [
        (result_charts.roc(*drawn), f"ROC: {wording.one_against_others(metrics)}. {points}"),
        (
            result_charts.precision_recall(*drawn),
            f"Precision-recall. {points} Dotted: the share of the {wording.kind_of_label(metrics)}, which "
            "chance reaches.",
        ),
    ]
    fitted = (metrics.get("calibration") or {}).get("uncalibrated")
    error = (fitted or measure_calibration(split.labels, split.probabilities))["ece"]
    about_bins = (
        "Reliability: on the dotted line, a probability means what it says. Bars: 95 % intervals, "
        "each image counted as independent."
    )
    curves.append((result_charts.reliability_chart(split.labels, split.probabilities, error), about_bins))
    return [(picture, caption) for picture, caption in curves if picture]


def external_results(record: RunRecord) -> Grid | None:
    """Return what other data than the run's own say: a row for each evaluation."""
    if not record.external:
        return None
    rows = []
    for place, split, metrics in record.external:
        intervals = metrics.get("intervals") or {}
        row = [f"{place}, {split}", f"{metrics['images']:,}"]
        row.append(with_interval(metrics["accuracy"], intervals.get("accuracy")).replace(" (", "\n("))
        for name in _OF_EXTERNAL:
            interval = (intervals.get("macro") or {}).get(name)
            row.append(with_interval(metrics["macro"][name], interval).replace(" (", "\n("))
        rows.append(row)
    share = wording.accuracy_name(record.external[0][2])
    header = ["data, split", "images", share, *(f"{_METRICS[name]}, mean" for name in _OF_EXTERNAL)]
    return Grid("Images that are not of the run's data, with 95 % intervals", header, rows)


def external_notes(record: RunRecord) -> list[str]:
    """Return what a reader of `external_results` must know: what its means are not of, and who was left
    out.
    """
    notes = []
    for place, split, metrics in record.external:
        absent = wording.undefined(metrics).get("sensitivity", [])
        if absent:
            notes.append(f"{place}, {split}: no image of {', '.join(absent)}; the means are without it.")
        if dropped := wording.left_out_by_class_map(metrics):
            notes.append(f"{place}, {split}: left out by --class_map: {', '.join(dropped)}.")
        known = [*wording.too_few(metrics), *wording.patients(metrics), *known_from_training(metrics)]
        notes += [f"{place}, {split}: {note}." for note in known]
    return notes


def _calibration(metrics: Document) -> list[str]:
    """Return how well probabilities fit, before and after each calibration, in words."""
    fitted = metrics.get("calibration") or {}
    if "uncalibrated" not in fitted:
        return []
    before = fitted["uncalibrated"]
    reach = before.get("intervals") or {}
    told = f"Brier score {with_interval(before['brier'], reach.get('brier'))}, expected calibration error "
    told += with_interval(before["ece"], reach.get("ece")) + text.by_chance(before)
    if after := text.errors_after(fitted):
        split = fitted["fitted_on"]
        told += f"; {', '.join(after)}, fitted on the {split} split{optimistic(metrics, split)}"
    if not fitted.get("calibrated"):
        told += f"; {no_temperature(fitted)}"
    return [f"{told}."]


def _errors_of_findings(metrics: Document) -> list[Grid]:
    """Return the ECE of each finding before and after a temperature and a line of its own."""
    fitted = metrics.get("calibration") or {}
    ways = {
        "as the model says": fitted.get("uncalibrated"),
        "at the temperature": fitted.get("calibrated"),
        "with its line (Platt)": (fitted.get("platt") or {}).get("calibrated"),
    }
    found = {name: errors for name, errors in ways.items() if errors and "per_class" in errors}
    if len(found) < 2:
        return []
    rows = [
        [name, *(three_digits(errors["per_class"][name]["ece"]) for errors in found.values())]
        for name in metrics["per_class"]
        if name not in metrics.get("too_few", ()) and all(name in of["per_class"] for of in found.values())
    ]
    rows.append(["mean", *(three_digits(errors["ece"]) for errors in found.values())])
    caption = f"Expected calibration error of each finding, before and after a fit on {fitted['fitted_on']}"
    return [Grid(caption, ["finding", *found], rows)]


def _interval_notes(metrics: Document) -> list[str]:
    """Return what a reader must know about intervals that are not percentiles of the resamples, or not
    there.
    """
    intervals = metrics.get("intervals") or {}
    notes = [f"{capitalized(note)}." for note in wording.patients(metrics)]
    if intervals.get("exact"):
        notes.append(
            "Rates of exactly 0 or 1 have the exact binomial interval, with patients as trials; AUROCs with "
            "pairs of patients."
        )
    if intervals.get("no_interval"):
        notes.append("Where no interval stands, all resamples are the same, or too few of them defined.")
    return notes


def metrics_table(metrics: Mapping[str, Any]) -> Grid:
    """Return every metric of every class and their means, with intervals, of `metrics_{split}.json`."""
    intervals = metrics.get("intervals") or {}
    rows = []
    parts = [
        (name, row, (intervals.get("per_class") or {}).get(name, {}))
        for name, row in metrics["per_class"].items()
    ]
    parts.append(("mean", {"images": metrics["images"], **metrics["macro"]}, intervals.get("macro") or {}))
    shown = dict(_METRICS)
    if wording.is_of_findings(metrics):
        shown |= _CALIBRATION
        micro = {"images": metrics["images"], **metrics["micro"]}
        parts.append(("all labels together", micro, intervals.get("micro") or {}))
        columns = (*metrics["per_class"], "macro", "micro")
        added = [text.calibration_of(metrics, name) for name in columns]
        parts = [
            (name, row | values, ranges | reach)
            for (name, row, ranges), (values, reach) in zip(parts, added, strict=True)
        ]
    for name, row, ranges in parts:
        cells = [
            with_interval(row[metric], ranges.get(metric)).replace(" (", "\n(") if metric in row else ""
            for metric in shown
        ]
        rows.append([name, wording.images_of(row), *cells])
    caption = f"Metrics of {wording.one_against_others(metrics)}"
    if intervals:
        known = intervals.get("without_patient") != metrics["images"]
        caption += f", with 95 % intervals ({'patients' if known else 'images'} resampled)"
    return Grid(caption, [wording.kind_of_label(metrics), "images", *shown.values()], rows)


def confusion(metrics: Document, labels: np.ndarray | None) -> Grid | None:
    """Return the confusion matrix, each cell tinted by its share of the row; of findings their co-occurrence.

    Args:
      metrics: content of `metrics_{split}.json`.
      labels: of the images, as its predictions have them; None where there are none.
    """
    names, matrix = metrics["class_names"], metrics["confusion_matrix"]
    if matrix:
        return _shaded_by_row("Confusion matrix: rows are true, columns predicted", names, matrix)
    if labels is None:
        return None
    caption = "Co-occurrence: images with both findings, and their share of those with the row's finding"
    return _shaded_by_row(caption, names, both_present(labels).tolist(), of_diagonal=True)


def _shaded_by_row(
    caption: str, names: Sequence[str], matrix: Sequence[Sequence[int]], *, of_diagonal: bool = False
) -> Grid:
    rows: list[list[str | Shaded]] = []
    for name, counts in zip(names, matrix, strict=True):
        row: list[str | Shaded] = [name]
        whole = counts[len(rows)] if of_diagonal else sum(counts)
        for count in counts:
            share = count / (whole or 1)
            row.append(Shaded(f"{count:,} ({share:.0%})", _DARKEST * share))
        rows.append(row)
    return Grid(caption, ["", *names], rows)


def _subgroups(metrics: Document) -> list[Grid]:
    """Return the mean of each metric by hospital, view, sex or age, as `subgroups` measured it."""
    grids, kinds = [], "findings" if wording.is_of_findings(metrics) else "classes"
    for column, found in (metrics.get("by") or {}).items():
        rows = []
        for value, row in found["groups"].items():
            means, reach = row["macro"], row["intervals"]["macro"]
            cells = [with_interval(means[name], reach[name]).replace(" (", "\n(") for name in _OF_CLASS]
            few = "\n".join(row["too_few"]) if len(row["too_few"]) <= 2 else f"{len(row['too_few'])} {kinds}"
            rows.append([value, f"{row['images']:,}", f"{row['patients']:,}", *cells, few])
        gap = found["gap"].get("auroc")
        of = ", ".join(gap["classes"]) if gap else ""
        told = f"; gap of the AUROC {gap['value']:.3f} over {of}, worst {gap['worst']}" if gap else ""
        means = [f"{_METRICS[name]}, mean" for name in _OF_CLASS]
        header = [column, "images", "patients", *means, "too few images of"]
        grids.append(Grid(f"By {column}, with 95 % intervals{told}", header, rows))
    return grids


def _thresholds(metrics: Document) -> list[Grid]:
    found = metrics.get("thresholds")
    if not found:
        return []
    rows = [
        [
            name,
            wording.threshold(row["threshold"]),
            *(with_interval(row[rate], row["intervals"][rate]).replace(" (", "\n(") for rate in REPORTED),
        ]
        for name, row in found["per_class"].items()
        if name not in metrics.get("too_few", ())
    ]
    split = found["chosen_on"]
    caption = f"Thresholds {wording.rule_of_thresholds(found)}, chosen on the {split} split"
    caption += f"{optimistic(metrics, split)} (of probabilities before any temperature)"
    return [Grid(caption, [wording.kind_of_label(metrics), "probability from", *REPORTED], rows)]


def _comparison(metrics: Document) -> list[str]:
    """Return McNemar's test against another run, in words; of findings, a table has it."""
    lines = [] if wording.is_of_findings(metrics) else text.comparison(metrics)[:1]
    lines += text.other_flatters(metrics.get("comparison") or {})
    return [f"{capitalized(line)}." for line in lines]


def _differences(metrics: Document) -> list[Grid]:
    """Return by how much this run is above another."""
    found = metrics.get("comparison")
    if not found:
        return []
    rows = []
    for metric, name in text.DIFFERENCES.items():
        difference = found["differences"].get(metric) or {}
        value, interval = difference.get("value"), difference.get("interval")
        told = _UNDEFINED if value is None else f"{value:+.3f}"
        rows.append([name, told, f"{interval[0]:+.3f} to {interval[1]:+.3f}" if interval else ""])
    at_half = ", rates at p >= 0.5" if "per_finding" in found else ""
    caption = (
        f"This run minus {found['other']}{at_half}: intervals are not adjusted for the number of metrics"
    )
    grids = [Grid(caption, ["metric", "difference", "95 % interval"], rows)]
    return [*grids, *_differences_of_findings(found)] if "per_finding" in found else grids


def _differences_of_findings(found: Document) -> list[Grid]:
    """Return by how much this run is above another for each finding, with the tests of both ways to ask."""
    rows = []
    for name, row in found["per_finding"].items():
        auroc = found["differences"][f"{name} auroc"]
        reach = auroc["interval"]
        told = f"{auroc['value']:+.3f}" + (f"\n({reach[0]:+.3f} to {reach[1]:+.3f})" if reach else "")
        tests = [f"{row[p]:.2g}" for p in ("auroc_holm_p", "holm_p")]
        rows.append([name, told, tests[0], f"{row['only_this']:,}", f"{row['only_other']:,}", tests[1]])
    header = ["finding", "AUROC", "p of it", "right here only", "right there only", "p of McNemar"]
    return [Grid(f"This run minus {found['other']}: {text.how_compared(found)}", header, rows)]


def familiarity(record: RunRecord, split: SplitRecord) -> int:
    """Return how well the model knows a split's images, as an index of `FAMILIAR`: 0 is not at all."""
    if have_common_images(split.name, record.config.train_split):
        return 2
    return int(split.name == record.config.held_out_validation)


def three_digits(value: float | None) -> str:
    """Return a metric in three decimals."""
    return _UNDEFINED if value is None else f"{value:.3f}"


def _interval(interval: Sequence[float] | None) -> str:
    return f"95 %: {_range(interval)}" if interval else ""


def _range(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""


def with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """Return a metric and its interval, if it has one."""
    if value is None or not interval:
        return three_digits(value)
    return f"{value:.3f} ({interval[0]:.3f}-{interval[1]:.3f})"
