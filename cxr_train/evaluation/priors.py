"""Prior correction: probabilities for data in which the classes have other shares than in training.

Where a class looks the same in both and only its share differs, p'(y|x) is proportional to
p(y|x) pi'(y) / pi(y). The new shares pi' are those that make the data most likely, found by the EM of
Saerens, Latinne and Decaestecker (2002): pi' is the mean of p', again and again. It needs no label of the new
data, but probabilities that are calibrated on the old.
"""

import numpy as np

from cxr_train.evaluation import calibration
from cxr_train.evaluation.decisions import Floats
from cxr_train.evaluation.predictions import NamedPredictions

_STEPS, _CLOSE = 10_000, 1e-10


def calibrated(validation: NamedPredictions) -> tuple[float | None, Floats]:
    """Return the best temperature of predictions, None where there is none, and their probabilities at it."""
    temperature = calibration.fit_temperature(validation.labels, validation.probabilities)
    return temperature, at_temperature(validation.probabilities, temperature, validation.labels.ndim == 2)


def at_temperature(probabilities: Floats, temperature: float | None, of_findings: bool) -> Floats:
    """Return probabilities at a temperature; as they are where it is None."""
    if temperature is None:
        return probabilities
    return calibration.apply_temperature(probabilities, temperature, of_findings=of_findings)


def expected_shares(validation: NamedPredictions) -> Floats:
    """Return the shares of the classes that a model expects, pi of the correction: float64 [C].

    They are its mean probabilities of pictures like those of the training, at the temperature that fits
    these best (the correction needs calibrated probabilities, Alexandari et al., 2020). They hold whatever
    weights classes or sources had in its loss, which the counts of the training pictures do not.

    Args:
      validation: its predictions of such pictures.
    """
    shares: Floats = calibrated(validation)[1].mean(axis=0)
    return shares


def correct(probabilities: Floats, prior: Floats, *, of_findings: bool) -> tuple[Floats, Floats]:
    """Return the corrected probabilities, and the new prior that they follow from.

    Args:
      probabilities: float64 [N, C] in [0, 1].
      prior: float64 [C] in [0, 1], the shares of the classes where the model was trained.
      of_findings: whether each column is a finding of its own, which is there or not.

    Returns:
      float64 [N, C] and [C]. A finding whose share was 0 or 1 is unchanged. A class whose share was 0 keeps
      its weight beside the others.
    """
    if not of_findings:
        return _correct(probabilities, prior)
    columns = []
    for column, share in zip(probabilities.T, prior, strict=True):
        if not 0 < share < 1:
            columns.append((column, share))
            continue
        both, new = _correct(np.stack([column, 1 - column], axis=1), np.array([share, 1 - share]))
        columns.append((both[:, 0], new[0]))
    corrected = np.stack([column for column, _ in columns], axis=1)
    return corrected, np.array([share for _, share in columns])


def _correct(probabilities: Floats, prior: Floats) -> tuple[Floats, Floats]:
    new, corrected = prior, probabilities
    for _ in range(_STEPS):
        ratio = np.divide(new, prior, out=np.ones_like(prior), where=prior > 0)
        corrected = probabilities * ratio
        corrected /= corrected.sum(axis=1, keepdims=True)
        before, new = new, corrected.mean(axis=0)
        if np.abs(new - before).max() < _CLOSE:
            break
    return corrected, new
