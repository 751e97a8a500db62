"""The occlusion check: does the prediction change when the hot part of a map is blanked?

A saliency map can look convincing and say nothing of the network (Adebayo et al., "Sanity
checks for saliency maps", 2018). Here the hottest tenth of each image is blanked, and as a
control a region of the same shape and size at a random place: if the map shows what the
network uses, the logit falls more for the first than for the second.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from cxr_data.core.progress_bar import progress_bar
from cxr_data.core.wording import counted
from cxr_data.stats.bootstrap import CONFIDENCE, PatientBootstrap, percentiles
from cxr_train.explanation.gradcam import GradCam, enlarge, hottest

SHARE = 0.1
_CONTROLS = 4
_RESAMPLES = 10_000
# With five patients, even five differences of one sign have a probability of 1/32 by chance.
_FEWEST_GROUPS = 6

Predict = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class OcclusionCheck:
    """How far the logit of the predicted class falls, on average over the images.

    Attributes:
      layer: whose map was checked.
      images, groups: number of images and of patients.
      hot_drop: after blanking the hottest tenth.
      random_drop: after blanking a region of the same shape at a random place.
      difference: mean of hot_drop - random_drop, paired by image.
      interval: its 95 % bootstrap interval, resampled by patient.
      p_value: one-sided, of a sign-flip test by patient.
      flat_maps: images whose map is 0 everywhere, so that its hottest tenth is arbitrary.
      without_patient: images of no known patient, each of which counts as a patient of its own.
    """

    layer: str
    images: int
    groups: int
    hot_drop: float
    random_drop: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    flat_maps: int
    without_patient: int = 0

    @property
    def verdict(self) -> str:
        """`passed`, `failed`, or `undecided` with too few patients to tell."""
        if self.groups < _FEWEST_GROUPS:
            return "undecided"
        return "passed" if self.interval[0] > 0 and self.p_value < (1 - CONFIDENCE) / 2 else "failed"

    def __str__(self) -> str:
        """Return the result in words."""
        meaning = {
            "passed": "the maps show what the model uses",
            "failed": "do NOT read the maps: they do not show what the model uses",
            "undecided": f"fewer than {_FEWEST_GROUPS} patients, no conclusion",
        }[self.verdict]
        low, high = self.interval
        flat = f"; {counted(self.flat_maps, 'map was', 'maps were')} flat" if self.flat_maps else ""
        patients = counted(self.groups, "patient")
        if self.without_patient:
            known = counted(self.groups - self.without_patient, "known patient")
            patients = f"{known}, {counted(self.without_patient, 'image')} counting as one of their own"
        return (
            f"occlusion check {self.verdict.upper()}: {meaning}. Blanking the hottest {SHARE:.0%} lowers the "
            f"logit of the predicted class by {self.hot_drop:.3g}, a random {SHARE:.0%} by "
            f"{self.random_drop:.3g}; difference {self.difference:.3g} (95 % interval {low:.3g} to "
            f"{high:.3g}, p = {self.p_value:.2g}, {counted(self.images, 'image')} of {patients}, "
            f"map of {self.layer}{flat})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything, and the verdict, as plain values."""
        values = {**dataclasses.asdict(self), "interval": list(self.interval)}
        return {**values, "verdict": self.verdict, "text": str(self)}


def check_occlusion(
    cam: GradCam,
    predict: Predict,
    read: Callable[[int], np.ndarray],
    groups: np.ndarray,
    fill: np.ndarray,
    *,
    without_patient: int = 0,
    seed: int = 0,
) -> OcclusionCheck:
    """Check the map of `cam`'s last layer.

    Args:
      cam: makes the maps.
      predict: images float32 [B, S, S, 3] in [0, 1] to logits float32 [B, C].
      read: number of an image, from 0, to its pixels float32 [S, S, 3].
      groups: one patient an image, [N]; patients are resampled as a whole.
      fill: float [3], the colour that blanks: the mean of the training pixels, since black
        would itself be a sign.
      without_patient: how many of the images are of no known patient, and have a group of their own.
      seed: of the random places and the resampling.
    """
    rng = np.random.default_rng(seed)
    drops = np.empty([len(groups), 2])
    flat_maps = 0
    for number in progress_bar("occlusion check", "images", len(groups), range(len(groups))):
        image = read(number)
        logits = predict(image[np.newaxis])[0]
        predicted = int(logits.argmax())
        maps, _ = cam(image[np.newaxis], np.array([predicted]))
        flat_maps += not maps[-1].any()
        hot = hottest(enlarge(maps[-1][0], len(image)), SHARE)
        masks = [hot, *(_shifted(hot, rng) for _ in range(_CONTROLS))]
        blanked = np.where(np.stack(masks)[..., np.newaxis], fill.astype(np.float32), image)
        lowered = logits[predicted] - predict(blanked)[:, predicted]
        drops[number] = lowered[0], lowered[1:].mean()
    difference, interval, p_value = paired_difference(drops[:, 0] - drops[:, 1], groups, rng)
    return OcclusionCheck(
        layer=cam.layers[-1],
        images=len(groups),
        groups=len(set(groups.tolist())),
        hot_drop=float(drops[:, 0].mean()),
        random_drop=float(drops[:, 1].mean()),
        difference=difference,
        interval=interval,
        p_value=p_value,
        flat_maps=flat_maps,
        without_patient=without_patient,
    )


def _shifted(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the same shape at a random place; what leaves the image on one side enters on the other."""
    return np.roll(mask, rng.integers(0, mask.shape), axis=(0, 1))


def paired_difference(
    differences: np.ndarray, groups: np.ndarray, rng: np.random.Generator
) -> tuple[float, tuple[float, float], float]:
    """Compare two measurements of the same images, whole groups at a time.

    Args:
      differences: float [N], of the two measurements of an image.
      groups: the patient of each image, [N].
      rng: draws the resamples and the flips.

    Returns:
      The mean difference, its 95 % percentile bootstrap interval, and the p-value of a one-sided
      sign-flip test of no difference.
    """
    _, member = np.unique(groups, return_inverse=True)
    sums = np.bincount(member, weights=differences)
    sizes = np.bincount(member)
    bootstrap = PatientBootstrap(member, resamples=_RESAMPLES, seed=rng)
    means = [sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1) for drawn in bootstrap.patients_drawn()]
    flipped = rng.choice([-1.0, 1.0], [_RESAMPLES, len(sums)]) @ sums
    # Rounding must not make a flip that changes nothing look smaller than the sum itself.
    as_large = flipped >= sums.sum() - 1e-9 * np.abs(sums).sum()
    p_value = (1 + int(as_large.sum())) / (1 + _RESAMPLES)
    return float(differences.mean()), percentiles(np.concatenate(means)), p_value
