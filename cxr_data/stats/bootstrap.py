"""The bootstrap over patients: whole patients are drawn with replacement, with all their images.

Images of one patient resemble each other: three right answers about one patient are less evidence than three
about three. A bootstrap over images takes them for independent, and its intervals are too narrow (Field and
Welsh, "Bootstrapping clustered data", 2007).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from cxr_data.stats.undefined import Floats

RESAMPLES = 2000
CONFIDENCE = 0.95

# A block of resamples is handled at once; its arrays stay in the cache of the processor.
BLOCK_VALUES = 1 << 19


class PatientBootstrap:
    """Resamples of the patients of a set of images, the same ones in every call.

    Args:
      patient_of: int [N], each image's patient in [0, G); every number occurs.
      resamples: R.
      seed: of the draws, what `np.random.default_rng` takes. A generator is drawn from as it stands, so that
        with one, and only then, the next call gives other resamples.

    Attributes:
      patients: G.
      patient_of: int64 [N].
    """

    def __init__(
        self,
        patient_of: npt.ArrayLike,
        *,
        resamples: int = RESAMPLES,
        seed: int | Sequence[int] | np.random.Generator = 0,
    ) -> None:
        self.patient_of = np.asarray(patient_of, np.int64)
        self.patients = int(self.patient_of.max(initial=-1)) + 1
        self.resamples = resamples
        self.seed = seed

    @classmethod
    def of_names(
        cls, groups: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
    ) -> "PatientBootstrap":
        """Return the bootstrap of images of the patients named [N], numbered as they first occur.

        Raises:
          ValueError: a name is empty; images of unknown patients are not of one patient.
        """
        if "" in groups:
            raise ValueError(
                f"groups[{list(groups).index('')}] is empty: an image of no known patient needs its own name"
            )
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        return cls([numbers[group] for group in groups], resamples=resamples, seed=seed)

    def patients_drawn(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield int64 [k, G] for blocks of k resamples: the G patients of each, in the order of the draws."""
        random = np.random.default_rng(self.seed)
        block = max(1, BLOCK_VALUES // max(len(self.patient_of), 1))
        for start in range(0, self.resamples, block):
            rows = min(block, self.resamples - start)
            yield random.integers(self.patients, size=(rows, self.patients))

    def times_drawn(self) -> Iterator[Floats]:
        """Yield float64 [k, G] for blocks of k resamples: how often each patient is drawn, G in all."""
        for drawn in self.patients_drawn():
            cells = drawn + np.arange(len(drawn))[:, np.newaxis] * self.patients
            yield np.bincount(cells.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)

    def sums(self, values: npt.ArrayLike) -> Floats:
        """Return the resampled sums [R, K] of values [N, K]; exact for whole numbers."""
        return self.sums_of_patients(self.of_patients(values))

    def of_patients(self, values: npt.ArrayLike) -> Floats:
        """Return the sum of values [N, K] over the images of each patient, float64 [G, K]."""
        values = np.asarray(values, np.float64)
        of_patient = np.zeros((self.patients, values.shape[1]))
        np.add.at(of_patient, self.patient_of, values)
        return of_patient

    def sums_of_patients(self, of_patient: Floats) -> Floats:
        """Return the resampled sums [R, K] of what `of_patients` returns."""
        return np.concatenate([times @ of_patient for times in self.times_drawn()])


def exact_interval(value: float, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the exact binomial interval of a rate of 0 or 1 (Clopper and Pearson, 1934).

    Every resample of such a rate is the same, and the bootstrap would give an interval of no width.

    Args:
      value: 0 or 1.
      trials: independent ones that all were wrong or all right; one at least.
    """
    reach = float(((1 - confidence) / 2) ** (1 / trials))
    return (reach, 1.0) if value else (0.0, 1 - reach)


def disjoint_pairs(patients: npt.NDArray[np.int64], positive: npt.NDArray[np.bool_]) -> int:
    """Return how many pairs of a patient with a positive and one with a negative have no patient in common.

    They are independent, and each is concordant with the probability that the AUROC is of: an AUROC of 0 or 1
    is that many trials.

    Args:
      patients: [N], of each image.
      positive: [N].
    """
    of_positives, of_negatives = np.unique(patients[positive]), np.unique(patients[~positive])
    together = len(np.union1d(of_positives, of_negatives))
    return min(len(of_positives), len(of_negatives), together // 2)


def percentiles(replicates: Floats, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the low and the high end of the interval of resampled values [R], none of them NaN."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return float(low), float(high)
