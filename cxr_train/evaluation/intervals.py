"""Confidence intervals by resampling patients.

An interval is the range between two percentiles of a metric that is computed again for each of many sets of
patients, see `cxr_data.stats.bootstrap`.

Where the bootstrap knows nothing, no number is made up:

- a resample without images of a class leaves that class's metrics undefined. The percentiles
  are of the other resamples, and `undefined_resamples` counts those left out; where they are
  more than half, there is no interval;
- a rate or an AUROC of exactly 0 or 1 is the same in every resample. Instead of an interval of
  no width it gets the exact binomial one (Clopper and Pearson, 1934) with patients as the
  trials, of an AUROC with pairs of them, which errs on the wide side; `exact` names these;
- any other metric that is the same in all resamples has none; `no_interval` says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_data.stats.auroc import Ranking
from cxr_data.stats.bootstrap import (
    CONFIDENCE,
    PatientBootstrap,
    disjoint_pairs,
    exact_interval,
    percentiles,
)
from cxr_data.stats.undefined import ratio
from cxr_train.evaluation import metrics
from cxr_train.evaluation.decisions import Counts, Decisions, Floats
from cxr_train.evaluation.metrics import OneVsRest
from cxr_train.runs.metric_names import RATES

METHOD = "percentile bootstrap over patients"


@dataclass(frozen=True)
class Replicates:
    """Resampled metrics.

    Attributes:
      accuracy: float64 [R].
      per_class: by metric, float64 [R, C], NaN where undefined.
      micro: of findings, by metric, float64 [R]; else empty.
    """

    accuracy: Floats
    per_class: Mapping[str, Floats]
    micro: Mapping[str, Floats]

    def macro(self, metric: str, defined: npt.NDArray[np.bool_]) -> Floats:
        """Return the macro average [R] over the classes `defined` [C] in the data as it is.

        Undefined where a resample lacks one of them: the average over the rest is another metric.
        """
        return ratio(self.per_class[metric][:, defined].sum(axis=1), defined.sum())


def resample_metrics(bootstrap: PatientBootstrap, labels: Counts, probabilities: Floats) -> Replicates:
    """Return every metric of `metrics.summarize` in every resample.

    Args:
      bootstrap: of the N images.
      labels: int64 [N] in [0, C), or [N, C] of findings.
      probabilities: float64 [N, C].
    """
    decisions = Decisions.of(labels, probabilities)
    counts = resample_one_vs_rest(bootstrap, decisions)
    auroc, auprc = resample_areas(bootstrap, decisions, probabilities)
    right = counts.true_positives
    if labels.ndim == 2:
        right = right + counts.true_negatives
    images = counts.true_positives + counts.false_positives + counts.false_negatives + counts.true_negatives
    # The share of images that is given its class; of findings, that of known labels.
    of = images.sum(axis=1) if labels.ndim == 2 else images[:, 0]
    micro: dict[str, Floats] = {}
    if decisions.of_findings:
        pooled = _resample_pooled(bootstrap, decisions, probabilities)
        micro = {name: getattr(counts.micro, name)[:, 0] for name in RATES} | pooled
    return Replicates(
        accuracy=ratio(right.sum(axis=1), of),
        per_class={name: getattr(counts, name) for name in RATES} | {"auroc": auroc, "auprc": auprc},
        micro=micro,
    )


def resample_one_vs_rest(bootstrap: PatientBootstrap, decisions: Decisions) -> OneVsRest:
    """Return the resampled counts [R, C] of what images are and were given."""
    sums = bootstrap.sums(np.concatenate(decisions.outcomes, axis=1)).astype(np.int64)
    return OneVsRest(*np.split(sums, 4, axis=1))


def resample_areas(
    bootstrap: PatientBootstrap, decisions: Decisions, probabilities: Floats
) -> tuple[Floats, Floats]:
    """Return the resampled AUROC and AUPRC of each class, [R, C] each, as `metrics.auroc` and `auprc`."""
    rankings = []
    for index, scores in enumerate(probabilities.T):
        known = np.flatnonzero(decisions.known[:, index])
        ranking = Ranking.of(decisions.is_class[known, index], scores[known])
        rankings.append((ranking, bootstrap.patient_of[known[ranking.images]]))
    blocks = []
    for times in bootstrap.times_drawn():
        areas = [ranking.areas(times[:, patients]) for ranking, patients in rankings]
        blocks.append(np.stack(areas, axis=-1))
    auroc, auprc = np.concatenate(blocks, axis=1)
    return auroc, auprc


def _resample_pooled(
    bootstrap: PatientBootstrap, decisions: Decisions, probabilities: Floats
) -> dict[str, Floats]:
    """Return the resampled AUROC and AUPRC [R] of all known labels together, as `metrics.micro_metrics`."""
    ranking = Ranking.of(decisions.is_class[decisions.known], probabilities[decisions.known])
    patients = bootstrap.patient_of[np.nonzero(decisions.known)[0][ranking.images]]
    columns = probabilities.shape[1]
    areas = [
        ranking.areas(some[:, patients])
        for times in bootstrap.times_drawn()
        for some in np.array_split(times, min(columns, len(times)))  # a block is for a value an image
    ]
    auroc, auprc = np.concatenate(areas, axis=1)
    return {"auroc": auroc, "auprc": auprc}


@dataclass
class IntervalNotes:
    """What a reader must know about intervals that are not plain percentiles, by metric.

    Attributes:
      undefined_resamples: in how many resamples the metric is undefined.
      exact: metrics with an exact binomial interval instead.
      no_interval: why there is none.
    """

    undefined_resamples: dict[str, int] = field(default_factory=dict)
    exact: list[str] = field(default_factory=list)
    no_interval: dict[str, str] = field(default_factory=dict)


def percentile_interval(
    value: float,
    replicates: Floats,
    name: str,
    notes: IntervalNotes,
    *,
    trials: int | None = None,
    confidence: float = CONFIDENCE,
) -> list[float] | None:
    """Return the interval of one metric, [low, high], or None.

    Args:
      value: the metric of the data as it is; NaN gives None.
      replicates: [R] its resampled values.
      name: of the metric in `notes`, which is added to.
      trials: of a rate, the number of patients that it was counted on; of an AUROC, of pairs of them.
    """
    if np.isnan(value):
        return None
    if trials and value in (0.0, 1.0):
        notes.exact.append(name)
        return list(exact_interval(value, trials, confidence))
    defined = replicates[~np.isnan(replicates)]
    lost = len(replicates) - len(defined)
    if lost:
        notes.undefined_resamples[name] = lost
    if len(defined) <= len(replicates) / 2:
        notes.no_interval[name] = f"undefined in {lost} of {len(replicates)} resamples"
        return None
    # The sum of a patient who is drawn three times, divided by three, may differ in the last digit.
    if np.isclose(defined, defined[0], rtol=1e-12, atol=0).all():
        notes.no_interval[name] = f"the same in all resamples ({float(defined[0]):g})"
        return None
    return list(percentiles(defined, confidence))


def metric_intervals(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    class_names: Sequence[str],
    bootstrap: PatientBootstrap,
    *,
    hide_few: bool = False,
) -> dict[str, Any]:
    """Return the 95 % intervals of everything in `metrics.summarize`; ready for JSON.

    Args:
      labels: int [N] in [0, C), or [N, C] of findings.
      probabilities: float [N, C].
      class_names: [C].
      bootstrap: of the N images.
      hide_few: as for `metrics.summarize`.

    Returns:
      method, confidence, resamples, seed, patients; patients_of: by class, the patients with an image of
      it; accuracy: [low, high] or null; macro, per_class and, of findings, micro:
      as in `metrics.summarize`, with [low, high] or null in place of each number;
      undefined_resamples, exact and no_interval: see `IntervalNotes`.
    """
    true, scores = np.asarray(labels, np.int64), np.asarray(probabilities, np.float64)
    replicates = resample_metrics(bootstrap, true, scores)
    values = metrics.all_metrics(true, scores, hide_few=hide_few)
    decisions = Decisions.of(true, scores)
    trials = patients_counted(bootstrap, decisions)
    notes = IntervalNotes()
    per_class: dict[str, dict[str, Any]] = {name: {} for name in class_names}
    macro = {}
    for metric, of_classes in values.items():
        for index, name in enumerate(class_names):
            counted = int(trials[metric][index]) if metric in trials else None
            per_class[name][metric] = percentile_interval(
                of_classes[index],
                replicates.per_class[metric][:, index],
                f"{name} {metric}",
                notes,
                trials=counted,
            )
        resampled = replicates.macro(metric, ~np.isnan(of_classes))
        macro[metric] = percentile_interval(
            float(metrics.macro(of_classes)), resampled, f"macro {metric}", notes
        )
    micro = {}
    of_any = patients_counted(bootstrap, decisions, of_any=True)
    if decisions.of_findings:
        for metric, value in metrics.micro_metrics(true, scores).items():
            counted = int(of_any[metric][0]) if metric in of_any else None
            micro[metric] = percentile_interval(
                value, replicates.micro[metric], f"micro {metric}", notes, trials=counted
            )
    right = float(metrics.accuracy_of(true, scores))
    return {
        "method": METHOD,
        "confidence": CONFIDENCE,
        "resamples": bootstrap.resamples,
        "seed": bootstrap.seed,
        "patients": bootstrap.patients,
        "patients_of": dict(zip(class_names, trials["sensitivity"].tolist(), strict=True)),
        "accuracy": percentile_interval(
            right,
            replicates.accuracy,
            "accuracy",
            notes,
            trials=int(of_any["one_vs_rest_accuracy"][0]),
        ),
        "macro": macro,
        "per_class": per_class,
        **({"micro": micro} if micro else {}),
        **vars(notes),
    }


def patients_counted(
    bootstrap: PatientBootstrap, decisions: Decisions, *, of_any: bool = False
) -> dict[str, Counts]:
    """Return by rate, how many patients [C] have an image in its denominator, and of the AUROC how many
    disjoint pairs of them it compares; [1] `of_any` class.
    """
    denominators = {
        "one_vs_rest_accuracy": decisions.known,
        "sensitivity": decisions.positives,
        "specificity": decisions.negatives,
        "precision": decisions.is_given & decisions.known,
    }
    if of_any:
        denominators = {rate: images.any(axis=1, keepdims=True) for rate, images in denominators.items()}
    counted = {rate: patients_with(bootstrap, images) for rate, images in denominators.items()}
    columns = (
        [slice(None)] if of_any else [slice(index, index + 1) for index in range(decisions.known.shape[1])]
    )
    pairs = [_pairs_of_patients(bootstrap, decisions, some) for some in columns]
    return counted | {"auroc": np.array(pairs, np.int64)}


def _pairs_of_patients(bootstrap: PatientBootstrap, decisions: Decisions, columns: slice) -> int:
    known = decisions.known[:, columns]
    patients = bootstrap.patient_of[np.nonzero(known)[0]]
    return disjoint_pairs(patients, decisions.is_class[:, columns][known])


def patients_with(bootstrap: PatientBootstrap, images: npt.NDArray[np.bool_]) -> Counts:
    """Return how many patients [C] have at least one of the images bool [N, C]."""
    counted = np.zeros((bootstrap.patients, images.shape[1]), bool)
    np.logical_or.at(counted, bootstrap.patient_of, images)
    return counted.sum(axis=0)
