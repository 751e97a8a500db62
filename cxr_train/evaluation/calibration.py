"""Whether a probability of 0.9 is right nine times in ten, and a temperature that helps.

Sources: Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
binning", 2015 (ECE); Guo et al., "On calibration of modern neural networks", 2017 (temperature).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_train.evaluation.metrics import Counts, Floats

BINS = 15
# Searched for the temperature.
_TEMPERATURES = (1e-2, 1e2)

_SMALLEST = 1e-300  # what a probability of 0 is taken for: its logarithm must be finite


def reliability(right: npt.ArrayLike, confidences: npt.ArrayLike, bins: int = BINS) -> list[dict[str, Any]]:
    """Return the reliability diagram: how often predictions of like confidence are right.

    Args:
      right: bool [N].
      confidences: float [N] in [0, 1].
      bins: of equal width, (low, high] each, the first with 0.

    Returns:
      A dictionary a bin: low, high, images, confidence (their mean) and accuracy (the share that
      is right), both null in an empty bin.
    """
    is_right, confidence = np.asarray(right, bool), np.asarray(confidences, np.float64)
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    rows = []
    for number in range(bins):
        inside = bin_of == number
        images = int(inside.sum())
        rows.append(
            {
                "low": float(edges[number]),
                "high": float(edges[number + 1]),
                "images": images,
                "confidence": float(confidence[inside].mean()) if images else None,
                "accuracy": float(is_right[inside].mean()) if images else None,
            }
        )
    return rows


def expected_calibration_error(rows: list[dict[str, Any]]) -> float:
    """Return the ECE: the mean over images of |accuracy - confidence| of their bin, from `reliability`."""
    images = sum(row["images"] for row in rows)
    gaps = (row["images"] * abs(row["accuracy"] - row["confidence"]) for row in rows if row["images"])
    return sum(gaps) / images


def measure_calibration(labels: Counts, probabilities: Floats, bins: int = BINS) -> dict[str, Any]:
    """Return how well probabilities [N, C] fit the labels [N]; ready for JSON.

    Returns:
      ece: of the predicted class's probability; negative_log_likelihood: mean, in nats; brier: the
      mean of the squared distance to the one-hot label, in [0, 2]; bins: see `reliability`.
    """
    every = np.arange(len(labels))
    predicted = probabilities.argmax(axis=1)
    rows = reliability(predicted == labels, probabilities[every, predicted], bins)
    one_hot = np.eye(probabilities.shape[1])[labels]
    return {
        "ece": expected_calibration_error(rows),
        "negative_log_likelihood": float(-_log(probabilities)[every, labels].mean()),
        "brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        "bins": rows,
    }


def fit_temperature(labels: Counts, probabilities: Floats) -> float | None:
    """Return the temperature T that makes softmax(logits / T) the most likely.

    The mean negative log-likelihood is convex in 1/T, and its derivative there is the mean of
    (expected logit - logit of the true class): Brent's method finds its zero. Minimising the likelihood
    itself would give half of the digits.

    Args:
      labels: int64 [N]; probabilities: float64 [N, C] at T = 1.

    Returns:
      T, above 1 for a model that is too sure of itself. None where the best lies at an end of
      what is searched: every image is right, or the probabilities say nothing.
    """
    import scipy.optimize

    logits = _log(probabilities)
    of_label = logits[np.arange(len(labels)), labels]

    def slope(temperature: float) -> float:
        expected = (apply_temperature(probabilities, temperature) * logits).sum(axis=1)
        return float((expected - of_label).mean())

    coldest, hottest = _TEMPERATURES
    # It falls with T. Without a change of sign, the likelihood grows up to an end, or nowhere.
    if not slope(coldest) > 0 > slope(hottest):
        return None
    digits = 4 * np.finfo(np.float64).eps  # the least that SciPy takes
    temperature = float(scipy.optimize.brentq(slope, coldest, hottest, xtol=digits * coldest, rtol=digits))
    return temperature if 1.001 * coldest < temperature < hottest / 1.001 else None


def apply_temperature(probabilities: Floats, temperature: float) -> Floats:
    """Return softmax(logits / temperature) from the probabilities [N, C] at temperature 1."""
    logits = _log(probabilities) / temperature
    likelihoods = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(likelihoods / likelihoods.sum(axis=1, keepdims=True))


def _log(probabilities: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(probabilities, _SMALLEST)))
