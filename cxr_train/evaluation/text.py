"""What an evaluation says, for the terminal."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from cxr_data.core.shown import one_line, visible_names
from cxr_data.core.wording import WIDEST, counted, wrapped
from cxr_train.evaluation.beside_audit import beside_result
from cxr_train.evaluation.wording import (
    accuracy_name,
    first_of,
    images_of,
    initial_statistics,
    is_of_findings,
    left_out_by_class_map,
    no_temperature,
    optimistic,
    patients,
    rule_of_thresholds,
    threshold,
    too_few,
    undefined,
)

_ROWS = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "one_vs_rest_accuracy": "1-vs-rest acc.",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}
_OF_FINDINGS = {"brier": "Brier", "ece": "ECE"}
# What the log of a training run has of them.
_BRIEF = ("sensitivity", "specificity", "auroc")
_LABEL = 15
_COLUMN = 21  # of an estimate with its interval
_MOST_NAMED = 4  # findings that are too few, of a group or of a split; the rest is counted
# Of a comparison, in the words for people.
DIFFERENCES = {
    "accuracy": "accuracy",
    "macro sensitivity": "mean sensitivity",
    "macro specificity": "mean specificity",
    "macro precision": "mean precision",
    "macro f1": "mean F1",
    "macro auroc": "mean AUROC",
    "macro auprc": "mean AUPRC",
}
# How the pictures of the probe are changed, in the words for people.
PROBE_WAYS = {
    "whole": "whole",
    "frame_alone": "frame alone",
    "lungs_alone": "lungs alone",
    "one_mean": "one mean",
}
HOW_TO_READ_THE_PROBE = (
    "an AUROC that stays high without the lungs (frame alone) comes from something else than the lungs",
    "a low AUROC proves nothing: the model was not trained on pictures with a grey part",
)


def evaluation_table(summary: dict[str, Any]) -> str:
    """Render `metrics_{split}.json`: a column a class with 95 % intervals, and what else there is to say."""
    summary = visible_names(summary)
    intervals = summary["intervals"]
    columns = _columns(summary)
    width = max(_COLUMN, *(len(name) + 1 for name in summary["per_class"]))

    def line(name: str, cells: Iterable[str]) -> str:
        return f"{name:{_LABEL}}" + "".join(f"{cell:>{width}}" for cell in cells)

    lines = []
    at_once = max((WIDEST - _LABEL) // width, 1)  # more classes go below
    cuts = [*range(0, len(columns), at_once), len(columns)]
    if at_once > 1 and len(columns) > at_once and columns[cuts[-2] :][0][0] == "micro":
        cuts[-2] -= 1  # it stands beside macro
    for some in (columns[start:stop] for start, stop in itertools.pairwise(cuts)):
        lines.append(line("", (name for name, *_ in some)))
        lines.append(line("images", (images for _, _, images, _ in some)))
        for metric, label in (_ROWS | _OF_FINDINGS if is_of_findings(summary) else _ROWS).items():
            cells = (
                _cell(values[metric], of_column[metric], digits=3) if metric in values else ""
                for _, values, _, of_column in some
            )
            lines.append(line(label, cells))
    accuracy = _cell(summary["accuracy"], intervals["accuracy"])
    lines.append(_wrapped(f"{accuracy_name(summary)} {accuracy}, loss {_number(summary['loss'])}"))
    of_intervals = (
        f"[95 % intervals: {intervals['method']}, {intervals['resamples']:,} resamples of "
        f"{counted(intervals['patients'], 'patient')}]"
    )
    more = [
        of_intervals,
        *_notes(summary),
        _calibration(summary),
        *_thresholds(summary),
        *comparison(summary),
        *subgroups(summary),
    ]
    lines += [_wrapped(line) for line in more]
    return "\n".join([*lines, *probe(summary), *_beside_audit(summary)])


def evaluation_in_brief(summary: dict[str, Any]) -> str:
    """Render what the log of a training run has of `metrics_{split}.json`: three rates, a row a class.

    Below are what a reader must know, the probe and the audit; `evaluation_table` has the rest.
    """
    summary = visible_names(summary)
    intervals = summary["intervals"]
    rows = _columns(summary)
    label = max(_LABEL, len(summary["split"]), *(len(name) for name, *_ in rows))
    titles = "".join(f"{_ROWS[metric]:>{_COLUMN}}" for metric in _BRIEF)
    width = max(8, *(len(images) + 2 for _, _, images, _ in rows))
    lines = [f"{summary['split']:{label}}{'images':>{width}}{titles}"]
    for name, values, images, of_row in rows:
        cells = (_cell(values[metric], of_row[metric], digits=3) for metric in _BRIEF)
        lines.append(f"{name:{label}}{images:>{width}}" + "".join(f"{cell:>{_COLUMN}}" for cell in cells))
    accuracy = _cell(summary["accuracy"], intervals["accuracy"])
    loss = _number(summary["loss"])
    lines.append(_wrapped(f"{accuracy_name(summary)} {accuracy}, loss {loss}; best epoch, [95 % intervals]"))
    known = [*too_few(summary, _MOST_NAMED)]
    known += ["the model was trained on these images"] if summary["seen_in_training"] else []
    known += [*initial_statistics(summary.get("initial_statistics_share")), *patients(summary)]
    return "\n".join([*lines, *map(_wrapped, known), *probe(summary), *_beside_audit(summary)])


def _columns(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any], str, dict[str, Any]]]:
    """Return name, rates, images and intervals of each class, of their mean, and of all known labels.

    Findings with `too_few` images have none.
    """
    few, intervals = summary.get("too_few", ()), summary["intervals"]
    per_class = {name: row for name, row in summary["per_class"].items() if name not in few}
    columns = [(name, row, images_of(row), intervals["per_class"][name]) for name, row in per_class.items()]
    columns.append(("macro", summary["macro"], images_of(summary), intervals["macro"]))
    if not is_of_findings(summary):
        return columns
    columns.append(("micro", summary["micro"], images_of(summary), intervals["micro"]))
    return [
        (name, values | (numbers := calibration_of(summary, name))[0], images, of_column | numbers[1])
        for name, values, images, of_column in columns
    ]


def calibration_of(summary: Mapping[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ECE and Brier score of a finding, and their intervals; of `macro` the mean ECE, of `micro` the
    Brier score of all known labels.
    """
    found = summary["calibration"]["uncalibrated"]
    reach = found.get("intervals") or {}
    if name in summary["per_class"]:
        few = name in summary.get("too_few", ())
        values = dict.fromkeys(_OF_FINDINGS) if few else found["per_class"][name]
        return values, (reach.get("per_class") or {}).get(name) or dict.fromkeys(_OF_FINDINGS)
    metric = {"macro": "ece", "micro": "brier"}[name]
    return {metric: found[metric]}, {metric: reach.get(metric)}


def _beside_audit(summary: dict[str, Any]) -> list[str]:
    return [wrapped(line, rest="  ") for line in beside_result(summary, summary.get("data", "DIR"))]


def _wrapped(line: str) -> str:
    text = line.lstrip()
    indent = line[: len(line) - len(text)]
    return wrapped(text, indent, indent + "  ")


def confusion_matrix(summary: dict[str, Any]) -> str:
    """Render the confusion matrix of `metrics_{split}.json`: a row a true class, a column a predicted one.

    Where the names are too long for the columns of a terminal, numbers stand for them.
    """
    names, matrix = list(map(one_line, summary["per_class"])), summary["confusion_matrix"]
    titles, labels = names, names
    label = max(map(len, labels))
    digits = max(len(f"{count:,}") for row in matrix for count in row)
    width = max(digits, *map(len, titles)) + 2
    if label + len(titles) * width > WIDEST:
        titles = [str(number) for number in range(1, len(names) + 1)]
        labels = [f"{number} {name}" for number, name in zip(titles, names, strict=True)]
        label = max(map(len, labels))
        width = max(digits, *map(len, titles)) + 1
    counts = [[f"{count:,}" for count in row] for row in matrix]
    rows = [("", titles), *zip(labels, counts, strict=True)]
    lines = [f"{name:{label}}" + "".join(f"{cell:>{width}}" for cell in cells) for name, cells in rows]
    title = f"confusion matrix of {summary['split']}: a row a true class, a column what the model calls it"
    return "\n".join([title, *lines])


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _cell(value: float | None, interval: list[float] | None, digits: int = 4) -> str:
    if value is None:
        return "undefined"
    return f"{value:.{digits}f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _notes(summary: dict[str, Any]) -> list[str]:
    """Return what a reader of the table must know."""
    intervals = summary["intervals"]
    dropped = left_out_by_class_map(summary)
    notes = [f"left out: {first_of(dropped, _MOST_NAMED)}"] if dropped else []
    notes += too_few(summary, _MOST_NAMED)
    for metric, classes in undefined(summary).items():
        notes.append(f"macro {metric} is without {first_of(classes, _MOST_NAMED)}, for which it is undefined")
    if summary["seen_in_training"]:
        notes.append("the model was trained on these images: this says nothing about new ones")
    notes += initial_statistics(summary.get("initial_statistics_share"))
    notes += patients(summary)
    if intervals["exact"]:
        names = first_of(intervals["exact"], _MOST_NAMED)
        notes.append(f"exact binomial intervals over patients, or pairs of them (0 or 1): {names}")
    if intervals["undefined_resamples"]:
        most, lost = max(intervals["undefined_resamples"].items(), key=lambda entry: entry[1])
        notes.append(
            f"left out of an interval where it is undefined: up to {lost:,} of {intervals['resamples']:,} "
            f"resamples ({most})"
        )
    if intervals["no_interval"]:
        reasons = [f"{name} ({reason})" for name, reason in intervals["no_interval"].items()]
        notes.append(f"no interval: {first_of(reasons, _MOST_NAMED)}")
    return notes


def _calibration(summary: dict[str, Any]) -> str:
    found = summary["calibration"]
    measured = found["uncalibrated"]
    reach = measured.get("intervals") or {}
    of = (f"{label} {_cell(measured[name], reach.get(name))}" for name, label in _OF_FINDINGS.items())
    before = f"calibration: {', '.join(of)}{by_chance(measured)}"
    after = errors_after(found)
    without = [no_temperature(found)] if found["temperature"] is None else []
    if not after:
        return "; ".join([before, *without])
    fitted_on = f"(fitted on {found['fitted_on']}{optimistic(summary, found['fitted_on'])})"
    return "; ".join([before, f"ECE {', '.join(after)} {fitted_on}", *without])


def by_chance(measured: Mapping[str, Any]) -> str:
    """Return what the ECE of perfectly calibrated probabilities would be, in words; empty where not known."""
    value = measured.get("ece_by_chance")
    return "" if value is None else f" (about {value:.3f} by chance, were they calibrated)"


def errors_after(calibration: Mapping[str, Any]) -> list[str]:
    """Return the ECE after each way of calibration that could be fitted, in words."""
    platt, after = calibration.get("platt"), []
    if calibration.get("calibrated"):
        error, temperature = calibration["calibrated"]["ece"], calibration["temperature"]
        after.append(f"{_number(error)} at temperature {temperature:.3f}")
    if platt and any(platt["lines"].values()):
        after.append(f"{_number(platt['calibrated']['ece'])} with a line a finding (Platt)")
    return after


def _thresholds(summary: dict[str, Any]) -> list[str]:
    found = summary["thresholds"]
    if found is None:
        return []
    lines = [
        f"thresholds {rule_of_thresholds(found)}, chosen on {found['chosen_on']}"
        f"{optimistic(summary, found['chosen_on'])} (of probabilities before any temperature):"
    ]
    for name, row in found["per_class"].items():
        if name in summary.get("too_few", ()):
            continue
        if row["threshold"] is None:
            lines.append(f"  {name}: none, for want of images on {found['chosen_on']}")
            continue
        rates = (
            f"{rate} {_cell(row[rate], row['intervals'][rate])}"
            for rate in ("sensitivity", "specificity", "precision")
        )
        lines.append(f"  {name}: p >= {threshold(row['threshold'])}: {', '.join(rates)}")
    return lines


def comparison(summary: dict[str, Any]) -> list[str]:
    """Return what an evaluation says of another run on the same images; empty without one."""
    found = summary.get("comparison")
    if not found:
        return []
    if "per_finding" in found:
        lines = [f"against {found['other']}, {how_compared(found)}:"]
        for name, row in found["per_finding"].items():
            auroc = _difference(found["differences"][f"{name} auroc"])
            lines.append(
                f"  {name}: {counted(row['only_this'], 'label')} only this run has right, "
                f"{row['only_other']} only the other, p = {row['holm_p']:.2g}; AUROC {auroc}, "
                f"p = {row['auroc_holm_p']:.2g}"
            )
        known = {*found["per_finding"], *summary.get("too_few", ())}
        if left_out := [name for name in summary["per_class"] if name not in known]:
            lines.append(f"  not compared, since a run has no threshold for it: {', '.join(left_out)}")
    else:
        lines = [
            f"against {found['other']}: {counted(found['only_this'], 'image')} only this run has right, "
            f"{found['only_other']} only the other: exact McNemar p = {found['mcnemar_exact_p']:.2g} (takes "
            "images for independent; the intervals of the differences do not)"
        ]
    lines += [f"  {note}" for note in other_flatters(found)]
    for metric in ("accuracy", "macro sensitivity", "macro auroc"):
        difference = found["differences"][metric]
        if difference["value"] is not None:
            at_half = " at p >= 0.5" if "per_finding" in found and metric != "macro auroc" else ""
            lines.append(f"  {DIFFERENCES[metric]}{at_half} {_difference(difference)}")
    return lines


def other_flatters(found: Mapping[str, Any]) -> list[str]:
    """Return that a comparison is with a model that knows the images, in words; empty where it does not."""
    if not found.get("other_seen_in_training"):
        return []
    return ["the other run was trained on images of this split: this comparison flatters it"]


def how_compared(found: Mapping[str, Any]) -> str:
    """Return how the findings of two runs are compared, in words."""
    limits = "its thresholds, chosen on validation" if found.get("at_thresholds") else "p >= 0.5"
    return (
        f"each run at {limits}; p adjusted by Holm for all findings: exact McNemar (takes images for "
        "independent), and of the AUROC by resampled patients"
    )


def _difference(found: Mapping[str, Any]) -> str:
    interval = found["interval"]
    return f"{found['value']:+.4f}" + (f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else "")


def subgroups(summary: dict[str, Any]) -> list[str]:
    """Return the mean AUROC by group, a line each, and the gap; empty where it was not asked."""
    lines = []
    for column, found in summary.get("by", {}).items():
        lines.append(f"mean AUROC by {column} (95 % interval):")
        for value, row in found["groups"].items():
            cell = _cell(row["macro"]["auroc"], row["intervals"]["macro"]["auroc"], digits=3)
            few = f"; too few: {first_of(row['too_few'], _MOST_NAMED)}" if row["too_few"] else ""
            of = f"{counted(row['images'], 'image')} of {counted(row['patients'], 'patient')}"
            lines.append(f"  {value}: {cell}, {of}{few}")
        gap = found["gap"].get("auroc")
        if gap:
            names = first_of(gap["classes"], _MOST_NAMED)
            lines.append(f"  gap {gap['value']:.3f} over {names}: best {gap['best']}, worst {gap['worst']}")
        left = [len(row["too_few"]) for row in found["groups"].values()] + [len(gap["classes"]) if gap else 0]
        if max(left) > _MOST_NAMED + 1:
            lines.append(f"  all names are in `by` of metrics_{summary['split']}.json")
    return lines


def probe(summary: dict[str, Any]) -> list[str]:
    """Return what the model makes of pictures without the lungs, as a table; empty where it was not asked."""
    found = summary.get("probe")
    if not found:
        return []
    columns = "".join(f"{name:>{_COLUMN}}" for name in PROBE_WAYS.values())
    lines = [f"{probe_title(found)}:", f"{'':15}{columns}"]
    for name, row in found["per_class"].items():
        if row["undefined"]:
            continue
        cells = (_cell(row[way]["auroc"], row[way]["interval"], digits=3) for way in PROBE_WAYS)
        # A long name has a line of its own, so that no line is wider than a terminal.
        lines += [name] if len(name) > 14 else []
        lines.append(f"{name if len(name) <= 14 else '':15}" + "".join(f"{c:>{_COLUMN}}" for c in cells))
    reasons: dict[str, list[str]] = {}
    for name, row in found["per_class"].items():
        if row["undefined"]:
            reasons.setdefault(row["undefined"], []).append(name)
    lines += [_wrapped(f"undefined: {', '.join(names)}: {reason}") for reason, names in reasons.items()]
    return [*lines, *HOW_TO_READ_THE_PROBE]


def probe_title(found: dict[str, Any]) -> str:
    """Return what the numbers of a probe are of."""
    return (
        f"AUROC (95 % interval) without the lungs, and at one brightness: {found['images']:,} of "
        f"{counted(found['of'], 'image')}"
    )
