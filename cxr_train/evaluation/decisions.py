"""What images are, and what a model says of them, class by class.

Labels are integers [N], one class an image; or integers [N, C], a value for each of C findings: 1 present,
0 absent, -1 uncertain, -2 unknown. Uncertain and unknown labels are masked: no metric counts them.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from cxr_data.sources.finding_values import ABSENT, PRESENT

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

FEW = 10
"""Of a finding with fewer positives or fewer negatives no metric is reported: an interval of a sensitivity
would be wider than 0.5."""


def rounded(probability: float) -> float:
    """Return a probability in six significant digits, as `predict` writes and thresholds compare it."""
    return float(f"{probability:.6g}")


def is_given(probabilities: Floats, thresholds: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return where a class is given: the probability is at least the threshold, in six significant digits.

    Whoever compares what `predict` writes with a threshold decides the same.

    Args:
      probabilities: float64 [..., C] in [0, 1].
      thresholds: float [C], or one number; nothing reaches NaN.

    Returns:
      bool [..., C].
    """
    limits = np.broadcast_to(np.asarray(thresholds, np.float64), probabilities.shape)
    given: npt.NDArray[np.bool_] = probabilities >= limits
    # Rounding moves a number by at most 5e-6 of it. Only what is close can be decided otherwise.
    for place in np.argwhere(np.isclose(probabilities, limits, rtol=2e-5, atol=0)):
        at = tuple(place)
        given[at] = rounded(probabilities[at]) >= rounded(limits[at])
    return given


@dataclasses.dataclass(frozen=True)
class Decisions:
    """What images are and what they were given, as C binary problems.

    Attributes:
      is_class: bool [N, C], whether an image is of a class or has a finding.
      is_given: bool [N, C], whether the model says so.
      known: bool [N, C], whether `is_class` is known.
      of_findings: whether an image has a label for each of the C, and not one of them.
    """

    is_class: npt.NDArray[np.bool_]
    is_given: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    of_findings: bool

    @classmethod
    def of(cls, labels: Counts, probabilities: Floats, thresholds: Floats | None = None) -> "Decisions":
        """Return the decisions of a model.

        Args:
          labels: see the head of this file.
          probabilities: float64 [N, C].
          thresholds: float [C], above or at which a class is given, NaN for never; by default the most
            probable class of one class an image, and 0.5 for findings.
        """
        identity = np.eye(probabilities.shape[1], dtype=bool)
        if labels.ndim == 2:
            is_class, known = labels == PRESENT, labels >= ABSENT
            given = is_given(probabilities, 0.5 if thresholds is None else thresholds)
            return cls(is_class, given, known, of_findings=True)
        is_class = identity[labels]
        given = (
            identity[probabilities.argmax(axis=1)]
            if thresholds is None
            else is_given(probabilities, thresholds)
        )
        return cls(is_class, given, np.ones_like(is_class), of_findings=False)

    @property
    def positives(self) -> npt.NDArray[np.bool_]:
        """Bool [N, C], images that are known to be of a class."""
        return self.is_class & self.known

    @property
    def negatives(self) -> npt.NDArray[np.bool_]:
        """Bool [N, C], images that are known not to be of a class."""
        return ~self.is_class & self.known

    @property
    def outcomes(self) -> tuple[npt.NDArray[np.bool_], ...]:
        """True and false positives, false and true negatives, bool [N, C] each."""
        positives, negatives, is_given = self.positives, self.negatives, self.is_given
        return positives & is_given, negatives & is_given, positives & ~is_given, negatives & ~is_given

    def too_few(self) -> npt.NDArray[np.bool_]:
        """Return bool [C]: fewer than `FEW` images of a class, or fewer that are not of it."""
        return np.minimum(self.positives.sum(axis=0), self.negatives.sum(axis=0)) < FEW

    def few_findings(self) -> npt.NDArray[np.bool_]:
        """Return bool [C]: of findings `too_few`; a class is never hidden for want of images."""
        return self.too_few() & self.of_findings
