"""What `metrics_{split}.json` holds, as far as other commands read it: its types, for `schema.checked`."""

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict

from cxr_data.core.schema import Count, Items, Range, Share

Measured = Annotated[float, Range(-1e30, 1e30)]
"""A number that a chart can show."""
Rate = Share | None
Interval = tuple[Measured, Measured] | None


class OfModel(TypedDict):
    """A document about a model."""

    model_sha256: NotRequired[str | None]


class OfData(TypedDict):
    """Metrics, as far as they say what they are of."""

    data: str
    own_data: bool


class Rates(TypedDict):
    """Metrics of a class, or their means."""

    sensitivity: Rate
    specificity: Rate
    auroc: Rate
    precision: NotRequired[Rate]
    f1: NotRequired[Rate]
    auprc: NotRequired[Rate]
    one_vs_rest_accuracy: NotRequired[Rate]


class ClassRates(Rates):
    """Metrics of a class."""

    images: Count
    negatives: NotRequired[Count]


class IntervalsPart(TypedDict):
    """The intervals of metrics."""

    accuracy: NotRequired[Interval]
    macro: NotRequired[Mapping[str, Interval] | None]
    micro: NotRequired[Mapping[str, Interval] | None]
    per_class: NotRequired[Mapping[str, Mapping[str, Interval]] | None]
    without_patient: NotRequired[Count]
    patients_of: NotRequired[Mapping[str, Count]]
    exact: NotRequired[tuple[str, ...]]
    no_interval: NotRequired[Mapping[str, str]]


class Errors(TypedDict):
    """How well probabilities fit."""

    ece: Rate


class FindingErrors(Errors):
    """How well the probabilities of a finding fit."""

    brier: Measured | None


class ErrorIntervals(TypedDict):
    """The intervals of errors."""

    ece: NotRequired[Interval]
    brier: NotRequired[Interval]
    per_class: NotRequired[Mapping[str, Mapping[str, Interval]] | None]


class AllErrors(FindingErrors):
    """How well probabilities fit before any temperature."""

    ece_by_chance: NotRequired[Rate]
    intervals: NotRequired[ErrorIntervals | None]
    per_class: NotRequired[Mapping[str, FindingErrors]]


class CalibratedErrors(Errors):
    """How well probabilities fit after a calibration."""

    per_class: NotRequired[Mapping[str, Errors]]


class PlattPart(TypedDict):
    """How well the probabilities of findings fit, each after a slope and an offset of its own."""

    lines: Mapping[str, tuple[Measured, Measured] | None]
    calibrated: CalibratedErrors


class Fitted(TypedDict):
    """How well probabilities fit before and after a temperature."""

    uncalibrated: AllErrors
    platt: NotRequired[PlattPart]
    calibrated: CalibratedErrors
    temperature: Measured
    fitted_on: str


class _SaysWhereFitted:
    """A rule of a calibration."""

    def allows(self, value: Mapping[str, Any]) -> bool:
        return "platt" not in value or isinstance(value.get("fitted_on"), str)

    def __str__(self) -> str:
        return "a calibration that says on which split its lines were fitted"


class NotFitted(TypedDict):
    """How well probabilities fit, where there is no temperature."""

    uncalibrated: NotRequired[AllErrors]
    platt: NotRequired[PlattPart]
    calibrated: NotRequired[None]
    temperature: NotRequired[None]
    fitted_on: NotRequired[str | None]


class ReportedIntervals(TypedDict):
    """The intervals of the rates at a threshold."""

    sensitivity: Interval
    specificity: Interval
    precision: Interval


class AtThreshold(TypedDict):
    """A threshold of a class, and the rates there."""

    threshold: Rate
    sensitivity: Rate
    specificity: Rate
    precision: Rate
    intervals: ReportedIntervals


class ThresholdsPart(TypedDict):
    """The threshold of each class."""

    at_sensitivity: Rate
    chosen_on: str
    per_class: Mapping[str, AtThreshold]


class Difference(TypedDict):
    """By how much a metric of one model is above another's."""

    value: Measured | None
    interval: Interval


class _Has:
    """A rule of a mapping."""

    def __init__(self, *keys: str) -> None:
        self._keys = {*keys}

    def allows(self, value: Mapping[str, Any]) -> bool:
        return self._keys <= value.keys()

    def __str__(self) -> str:
        return f"an object with {', '.join(sorted(self._keys))}"


Differences = Annotated[Mapping[str, Difference], _Has("accuracy", "macro sensitivity", "macro auroc")]


class Contradicting(TypedDict):
    """How many labels of a finding only one of two models has right, and the tests of it."""

    only_this: Count
    only_other: Count
    holm_p: Share
    auroc_holm_p: Share


class ComparisonOfClasses(TypedDict):
    """A comparison with another model, where an image has one class."""

    other: str
    differences: Differences
    only_this: Count
    only_other: Count
    mcnemar_exact_p: Share
    other_seen_in_training: NotRequired[bool]


class ComparisonOfFindings(TypedDict):
    """A comparison with another model, where an image has several findings."""

    other: str
    differences: Differences
    per_finding: Mapping[str, Contradicting]
    at_thresholds: NotRequired[bool]
    other_seen_in_training: NotRequired[bool]


class _DifferenceOfEach:
    """A rule of a comparison of findings."""

    def allows(self, value: ComparisonOfFindings) -> bool:
        found = value["differences"]
        areas = [found.get(f"{name} auroc") for name in value["per_finding"]]
        return all(area is not None and area["value"] is not None for area in areas)

    def __str__(self) -> str:
        return "a comparison with a difference of the AUROC for each finding of per_finding"


class MeanIntervals(TypedDict):
    """The intervals of the means of a group."""

    sensitivity: Interval
    specificity: Interval
    auroc: Interval


class GroupIntervals(TypedDict):
    """The intervals of a group."""

    macro: MeanIntervals


class Group(TypedDict):
    """The metrics of the images of one hospital, view, sex or age."""

    images: Count
    patients: Count
    macro: Rates
    intervals: GroupIntervals
    too_few: tuple[str, ...]


class Gap(TypedDict):
    """The difference between the best and the worst group."""

    value: Measured
    best: str
    worst: str
    classes: tuple[str, ...]


class GroupsPart(TypedDict):
    """The metrics by group."""

    groups: Mapping[str, Group]
    gap: Mapping[str, Gap]


class BestShortcut(TypedDict):
    """The feature that predicts a class best."""

    feature: str
    auroc: Share
    low: Share
    high: Share
    above_chance: bool


class AuditPart(TypedDict):
    """The part of the data's audit that bears on the metrics."""

    patients: Count
    pictures: Count
    shortcuts: Mapping[str, BestShortcut]


class ProbedRate(TypedDict):
    """An AUROC on changed pictures."""

    auroc: Rate
    interval: Interval


class ProbedClass(TypedDict):
    """The AUROC of a class on pictures that are changed in each way."""

    undefined: NotRequired[str | None]
    whole: ProbedRate
    frame_alone: ProbedRate
    lungs_alone: ProbedRate
    one_mean: ProbedRate


class ProbePart(TypedDict):
    """What remains without the lungs."""

    images: Count
    of: Count
    per_class: Mapping[str, ProbedClass]


class MetricsContent(OfModel):
    """What readers need of a `metrics_{split}.json`."""

    class_names: Annotated[tuple[str, ...], Items(1)]
    images: Count
    accuracy: Rate
    macro: Rates
    per_class: Mapping[str, ClassRates]
    confusion_matrix: tuple[tuple[Count, ...], ...] | None
    left_out: Mapping[str, tuple[str, ...]]
    split: NotRequired[str]
    data: NotRequired[str]
    own_data: NotRequired[bool]
    seen_in_training: NotRequired[bool]
    images_trained_on: NotRequired[Count | None]
    loss: NotRequired[Measured | None]
    initial_statistics_share: NotRequired[Rate]
    dropped: NotRequired[Mapping[str, Count]]
    micro: NotRequired[Mapping[str, Rate]]
    too_few: NotRequired[tuple[str, ...]]
    intervals: NotRequired[IntervalsPart | None]
    calibration: NotRequired[Fitted | Annotated[NotFitted, _SaysWhereFitted()] | None]
    thresholds: NotRequired[ThresholdsPart | None]
    comparison: NotRequired[ComparisonOfClasses | Annotated[ComparisonOfFindings, _DifferenceOfEach()] | None]
    by: NotRequired[Mapping[str, GroupsPart] | None]
    audit: NotRequired[AuditPart | None]
    probe: NotRequired[ProbePart | None]


class _SquareMatrix:
    """A rule of metrics."""

    def allows(self, value: MetricsContent) -> bool:
        matrix, classes = value["confusion_matrix"], len(value["class_names"])
        return matrix is None or {len(matrix), *map(len, matrix)} == {classes}

    def __str__(self) -> str:
        return "metrics whose confusion_matrix has a row and a column for each of class_names"


class _PartsOfFindings:
    """A rule of metrics of several findings an image, which have `micro`."""

    def allows(self, value: MetricsContent) -> bool:
        few, rows = {*value.get("too_few", ())}, value["per_class"]
        if not all(name in rows and "negatives" in rows[name] for name in few):
            return False
        if "micro" not in value:
            return True
        errors: Any = (value.get("calibration") or {}).get("uncalibrated") or {}
        return rows.keys() - few <= (errors.get("per_class") or {}).keys()

    def __str__(self) -> str:
        return "metrics with negatives of each of too_few, and with calibration of each other finding"


Metrics = Annotated[MetricsContent, _SquareMatrix(), _PartsOfFindings()]
