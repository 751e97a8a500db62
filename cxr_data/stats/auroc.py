"""Areas under the curves of a ranking in which each image counts as often as a resample has drawn it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr_data.stats.undefined import Floats, ratio


@dataclass(frozen=True)
class Ranking:
    """The images from the highest score of a class to the lowest.

    `weights` below are [B, N], how often each image counts in each of B resamples: whole numbers of any
    dtype, in the order of `images`. With them, counts and pairs are exact.

    Attributes:
      images: int64 [N], their numbers.
      positive: bool [N], whether each is of the class.
      starts: int64 [U], the first place of each run of equal scores.
    """

    images: npt.NDArray[np.int64]
    positive: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]) -> "Ranking":
        """Rank images by their scores [N], those of the class being `positive`, bool [N]."""
        images = np.argsort(-scores, kind="stable")
        return cls(images, positive[images], np.flatnonzero(np.diff(scores[images], prepend=np.inf)))

    def pairs(self, weights: npt.NDArray[np.number]) -> tuple[Floats, Floats]:
        """Return the concordant pairs of a positive and a negative, a tie counting half, and all: [B] each.

        Their ratio is the AUROC. As two numbers they can be summed over folds.
        """
        return _pairs(*self._counted(weights))

    def areas(self, weights: npt.NDArray[np.number]) -> tuple[Floats, Floats]:
        """Return AUROC and average precision, [B] each, NaN without positives or without negatives."""
        hits, misses = self._counted(weights)
        concordant, both = _pairs(hits, misses)
        found = np.cumsum(hits, axis=1)
        precision = found / np.maximum(found + np.cumsum(misses, axis=1), 1)
        # Summed from threshold to threshold: the last digit of a sum depends on its order.
        average_precision = np.einsum("bu,bu->b", np.asfortranarray(precision), np.asfortranarray(hits))
        return ratio(concordant, both), ratio(average_precision, hits.sum(axis=1) * (both > 0))

    def curve(self) -> tuple[Floats, Floats]:
        """Return the ROC curve's corners: 1 - specificity and sensitivity [K] each, from 0 to 1.

        Points on a straight line between two others are left out. There must be positives and negatives.
        """
        counts = self._counted(np.ones((1, len(self.images)), np.int64))
        right, wrong = (np.concatenate([[0.0], np.cumsum(count)]) for count in counts)
        before, after = np.diff(np.stack([right, wrong])[:, :-1]), np.diff(np.stack([right, wrong])[:, 1:])
        turns = before[0] * after[1] != before[1] * after[0]
        corners = np.concatenate([[True], turns, [True]])
        return wrong[corners] / wrong[-1], right[corners] / right[-1]

    def _counted(self, weights: npt.NDArray[np.number]) -> tuple[Floats, Floats]:
        """Return how many positives and how many negatives have each distinct score: [B, U] each."""
        of_positives = np.add.reduceat(weights * self.positive, self.starts, axis=1, dtype=np.float64)
        of_negatives = np.add.reduceat(weights * ~self.positive, self.starts, axis=1, dtype=np.float64)
        return of_positives, of_negatives


def _pairs(hits: Floats, misses: Floats) -> tuple[Floats, Floats]:
    above = np.cumsum(hits, axis=1) - hits / 2
    return np.einsum("bu,bu->b", above, misses), hits.sum(axis=1) * misses.sum(axis=1)
