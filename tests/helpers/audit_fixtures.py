"""Pictures for the tests of the audit, without files."""

import cv2
import numpy as np

from cxr_data.audit.pictures import Pictures
from tools.bench.audit_power import clean


def chest(seed: int, side: int = 128) -> np.ndarray:
    """uint8 [side, side]: dark lungs in a bright body, as alike as X-rays are, different for each seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    width, height, apart = rng.uniform(0.22, 0.32), rng.uniform(0.5, 0.7), rng.uniform(0.38, 0.46)
    lungs = sum(
        np.exp(-((((x - s * apart) / width) ** 2 + ((y - rng.uniform(-0.1, 0.1)) / height) ** 2) ** 2))
        for s in (-1, 1)
    )
    texture = cv2.resize(rng.normal(0, 1, (12, 12)).astype(np.float32), (side, side))
    picture = 150 - 90 * lungs + 20 * texture + rng.normal(0, 3, (side, side))
    return np.clip(picture, 0, 255).astype(np.uint8)


def synthetic(seed: int, images: int = 240, per_patient: int = 2, strength: float = 0.0) -> Pictures:
    """A dataset without files and without a shortcut; or with one in a corner's text.

    Args:
      seed: of everything.
      images: number of pictures.
      per_patient: pictures of a patient, all of one class and of similar features.
      strength: share of the covid pictures that carry text where others have none.
    """
    pictures = clean(seed, images, per_patient)
    chosen = (pictures.labels == 0) & (np.random.default_rng([seed, 1]).random(images) < strength)
    pictures.rows["corners"][:, 0] += np.float32(0.1) * chosen
    return pictures
