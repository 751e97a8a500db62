"""The words for what an evaluation is of, and what its reader must know: on the terminal and on pages."""

from collections.abc import Mapping, Sequence
from typing import Any

from cxr_data.core.wording import counted
from cxr_train.evaluation.decisions import FEW

# Below, intervals of a clustered bootstrap cover less than they say (Cameron, Gelbach and Miller, 2008).
_FEW_PATIENTS = 30
# Above it, the statistics of random weights have cost validation accuracy, see docs/design.md.
_MUCH_OF_THE_START = 0.01


def first_of(names: Sequence[str], most: int | None) -> str:
    """Return names in words, the first of them and how many more where they are many."""
    left = 0 if most is None or len(names) <= most + 1 else len(names) - most
    return ", ".join([*names[: len(names) - left], *([f"{left:,} more"] if left else [])])


def is_of_findings(summary: Mapping[str, Any]) -> bool:
    """Return whether an evaluation is of several findings an image, not of one class."""
    return "micro" in summary


def kind_of_label(summary: Mapping[str, Any]) -> str:
    """Return the word for what `per_class` of an evaluation has a row of."""
    return "finding" if is_of_findings(summary) else "class"


def accuracy_name(summary: Mapping[str, Any]) -> str:
    """Return what `accuracy` of an evaluation is the share of, in words."""
    return "share of known labels that is right at p >= 0.5" if is_of_findings(summary) else "accuracy"


def images_of(row: Mapping[str, Any]) -> str:
    """Return how many images a row of `per_class` has: those of a class, or those with a finding, of how many
    in which it is known.
    """
    images, negatives = row["images"], row.get("negatives")
    return f"{images:,}" if negatives is None else f"{images:,} of {images + negatives:,}"


def one_against_others(summary: Mapping[str, Any]) -> str:
    """Return which two sides the rates and curves of an evaluation tell apart, in words."""
    if is_of_findings(summary):
        return "each finding, present against absent"
    return "each class against the rest"


def too_few(summary: Mapping[str, Any], most: int | None = None) -> list[str]:
    """Return which findings have too few images for a number, in words; empty where all have enough.

    Args:
      summary: content of `metrics_{split}.json`.
      most: how many of them are named; all by default.
    """
    of_known = []
    for name in summary.get("too_few", ()):
        row = summary["per_class"][name]
        of_known.append(f"{name} ({row['images']:,} of {row['images'] + row['negatives']:,})")
    if not of_known:
        return []
    return [
        f"too few: {first_of(of_known, most)}: fewer than {FEW} images with or without it, so that no "
        "number is given, and the means are without it"
    ]


def undefined(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return by metric the classes for which it is undefined, but for those of `too_few`."""
    few = summary.get("too_few", ())
    left = {metric: [n for n in names if n not in few] for metric, names in summary["left_out"].items()}
    return {metric: names for metric, names in left.items() if names}


def left_out_by_class_map(summary: Mapping[str, Any]) -> list[str]:
    """Return what --class_map leaves out: the images of a class, or a finding of all images."""
    counts = summary.get("dropped", {}).items()
    if summary["confusion_matrix"] is None:  # of findings
        return [f"the finding {name}, present in {counted(count, 'image')}" for name, count in counts]
    return [f"{counted(count, 'image')} of {name}" for name, count in counts]


def initial_statistics(share: float | None) -> list[str]:
    """Return what it means that BatchNorm's moving statistics have not yet forgotten what they began with.

    Args:
      share: how much of them is that, in [0, 1]; None where others are evaluated.
    """
    if share is None or share <= _MUCH_OF_THE_START:
        return []
    return [
        f"{share:.0%} of BatchNorm's moving statistics is still what they began with, so that these numbers "
        "say little of the weights: train more steps, or with --batch_norm_statistics=precise"
    ]


def patients(summary: dict[str, Any]) -> list[str]:
    """Return what the number of patients, and what is known of them, means for the intervals."""
    intervals = summary.get("intervals") or {}
    alone = intervals.get("without_patient", 0)
    notes = []
    if alone:
        some = f"{counted(alone, 'image has', 'images have')} no known patient"
        whose = "no patient is known" if alone == summary["images"] else some
        notes.append(
            f"{whose}: each such image counts as a patient of its own; where a patient has several, the "
            "intervals are too narrow"
        )
    hidden = summary.get("too_few", ())  # they have no interval
    of_class = {name: n for name, n in intervals.get("patients_of", {}).items() if name not in hidden}
    few = ", ".join(f"{name} {count}" for name, count in of_class.items() if 0 < count < _FEW_PATIENTS)
    if few:
        notes.append(
            f"fewer than {_FEW_PATIENTS} patients ({few}) are few for a bootstrap: its intervals tend to be "
            "too narrow"
        )
    return notes


def no_temperature(calibration: dict[str, Any]) -> str:
    """Return why the calibration of an evaluation has no temperature."""
    if calibration.get("fitted_on") is None:
        return "no temperature, for want of predictions of a validation split that was held out"
    return (
        f"no temperature: on {calibration['fitted_on']} none is the best, since every image is right, or the "
        "probabilities say nothing"
    )


def rule_of_thresholds(found: Mapping[str, Any]) -> str:
    """Return by what rule `thresholds` of an evaluation were chosen, in words."""
    if found["at_sensitivity"] is None:
        return "of the largest sensitivity + specificity (Youden)"
    return f"for a sensitivity of {found['at_sensitivity']:g}"


def threshold(value: float | None) -> str:
    """Return a threshold in (0, 1] in six significant digits, or more where these are 1."""
    if value is None:
        return "none"
    short = f"{value:.6g}"
    return f"1 - {1 - value:.2g}" if short == "1" and value < 1 else short


def optimistic(summary: dict[str, Any], chosen_on: str) -> str:
    """Return the warning about numbers at a temperature or threshold that was chosen on the same images."""
    own = summary.get("own_data") and chosen_on == summary.get("split")
    return ", these very images: it flatters" if own else ""
