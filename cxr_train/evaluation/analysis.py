"""Everything in `metrics_{split}.json` that follows from predictions alone; it needs no TensorFlow."""

from typing import Any

from cxr_data.core.errors import UsageError
from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_train.evaluation import calibration, intervals, metrics, thresholds
from cxr_train.evaluation.compare import compare_models
from cxr_train.evaluation.decisions import Floats
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.predictions import NamedPredictions


def analyse(
    predictions: NamedPredictions,
    options: EvaluationOptions,
    *,
    validation: NamedPredictions | None = None,
    other: NamedPredictions | None = None,
    other_validation: NamedPredictions | None = None,
) -> dict[str, Any]:
    """Return everything in `metrics_{split}.json` that follows from predictions alone.

    Args:
      predictions: of the images to evaluate.
      options: of them, `resamples`, `seed` and `at_sensitivity` are used.
      validation: where temperature and thresholds are chosen.
      other: another model's, to compare with.
      other_validation: of that model, where its thresholds are chosen; without it, both models' findings are
        compared at 0.5.

    Raises:
      UsageError: thresholds are asked for without `validation`.
      DataError: `other` is of other images or labels.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    names = predictions.class_names
    bootstrap = PatientBootstrap.of_names(predictions.groups, resamples=options.resamples, seed=options.seed)
    uncalibrated = _measured(predictions, probabilities, bootstrap)
    of_findings = labels.ndim == 2
    return {
        "loss": uncalibrated["negative_log_likelihood"],
        **metrics.summarize(labels, probabilities, names, hide_few=of_findings),
        "intervals": {
            **intervals.metric_intervals(labels, probabilities, names, bootstrap, hide_few=of_findings),
            "without_patient": predictions.without_patient,
        },
        "calibration": {
            "uncalibrated": uncalibrated,
            **_calibrated(predictions, options, validation, bootstrap),
        },
        "thresholds": _thresholds(predictions, options, validation, bootstrap),
        "comparison": other
        and compare_models(
            predictions, other, bootstrap, _pair_of_thresholds(options, validation, other_validation)
        ),
    }


def _pair_of_thresholds(
    options: EvaluationOptions, this: NamedPredictions | None, other: NamedPredictions | None
) -> tuple[dict[str, float], dict[str, float]] | None:
    """Return the thresholds of two models, each chosen on its own validation images by one rule; of findings,
    else None.
    """
    if this is None or other is None or this.labels.ndim == 1 or other.labels.ndim == 1:
        return None
    first, second = (
        dict(zip(one.class_names, _chosen(one, options).tolist(), strict=True)) for one in (this, other)
    )
    return first, second


def _chosen(validation: NamedPredictions, options: EvaluationOptions) -> Floats:
    return thresholds.choose_thresholds(validation.labels, validation.probabilities, options.at_sensitivity)


def _calibrated(
    predictions: NamedPredictions,
    options: EvaluationOptions,
    validation: NamedPredictions | None,
    bootstrap: PatientBootstrap,
) -> dict[str, Any]:
    if validation is None:
        return {"temperature": None, "fitted_on": None, "calibrated": None}
    found: dict[str, Any] = {"temperature": None, "fitted_on": options.validation_split, "calibrated": None}
    of_findings = predictions.labels.ndim == 2
    if of_findings:
        lines = calibration.fit_platt(validation.labels, validation.probabilities)
        moved = calibration.apply_platt(predictions.probabilities, lines)
        found["platt"] = {
            "lines": dict(zip(predictions.class_names, lines, strict=True)),
            "calibrated": _measured(predictions, moved, bootstrap),
        }
    temperature = calibration.fit_temperature(validation.labels, validation.probabilities)
    if temperature is None:
        return found
    cooled = calibration.apply_temperature(predictions.probabilities, temperature, of_findings=of_findings)
    return found | {"temperature": temperature, "calibrated": _measured(predictions, cooled, bootstrap)}


def _measured(
    predictions: NamedPredictions, probabilities: Floats, bootstrap: PatientBootstrap
) -> dict[str, Any]:
    """Return `calibration.measure_calibration` of probabilities of these images, findings by name, with
    `calibration_intervals`.
    """
    labels, names = predictions.labels, predictions.class_names
    found = calibration.measure_calibration(labels, probabilities)
    of_found = calibration.calibration_intervals(labels, probabilities, names, bootstrap)
    if "per_class" in found:
        found["per_class"] = dict(zip(names, found["per_class"], strict=True))
    return found | {"intervals": of_found}


def _thresholds(
    predictions: NamedPredictions,
    options: EvaluationOptions,
    validation: NamedPredictions | None,
    bootstrap: PatientBootstrap,
) -> dict[str, Any] | None:
    of_findings = predictions.labels.ndim == 2
    if options.at_sensitivity is None and not (of_findings and validation):
        return None
    if validation is None:
        raise UsageError(
            f"--at_sensitivity: the thresholds are chosen on the {options.validation_split} split, and "
            "this run has no predictions of it: evaluate that first"
            if options.validation_split
            else "--at_sensitivity: the thresholds are chosen on validation images, and this run knows them"
        )
    reported = thresholds.report_thresholds(
        predictions.labels,
        predictions.probabilities,
        _chosen(validation, options),
        predictions.class_names,
        bootstrap,
    )
    return {
        "at_sensitivity": options.at_sensitivity,
        "chosen_on": options.validation_split,
        **reported,
    }
