"""Pictures for the tests of the audit, without files."""

import cv2
import numpy as np

from cxr_data import features
from cxr_data.pictures import Pictures

CLASS_NAMES = ("covid", "normal", "pneumonia")


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
    rng = np.random.default_rng(seed)
    patient = np.arange(images) // per_patient
    labels = rng.integers(len(CLASS_NAMES), size=patient.max() + 1)[patient]

    def clustered(scale: float) -> np.ndarray:
        return rng.normal(0, scale, patient.max() + 1)[patient] + rng.normal(0, scale / 3, images)

    rows = np.zeros(images, features.FEATURES_DTYPE)
    rows["width"] = rng.choice([512, 1024, 1024], patient.max() + 1)[patient]
    rows["height"] = rows["width"]
    rows["format"] = rng.choice([b"PNG", b"JPEG"], images)
    rows["mode"] = rng.choice([b"L", b"RGB", b"RGBA"], images, p=[0.8, 0.15, 0.05])
    rows["bits"] = 8
    rows["quality"] = np.where(rows["format"] == b"JPEG", rng.choice([75, 90, 92], images), 0)
    rows["border_rows"] = np.maximum(clustered(0.05), 0)
    rows["border_columns"] = np.maximum(clustered(0.05), 0)
    rows["sharpness"] = 0.3 + clustered(0.02)
    rows["corners"] = np.maximum(rng.normal(0, 0.01, (images, 4)), 0)
    rows["corners"][:, 0] += 0.1 * ((labels == 0) & (rng.random(images) < strength))
    anatomy = rng.normal(0, 40, (patient.max() + 1, 8, 8)).astype(np.float32)[patient]
    anatomy += rng.normal(0, 10, anatomy.shape).astype(np.float32)
    for row, picture in zip(rows, anatomy, strict=True):
        row["thumbnail"] = np.clip(128 + cv2.resize(picture, (32, 32)), 0, 255).astype(np.uint8)
    return Pictures(
        where="synthetic",
        ids=[f"{CLASS_NAMES[k]}/{i}.png" for i, k in enumerate(labels)],
        groups=[f"patient{p}" for p in patient],
        splits=["train"] * images,
        labels=labels,
        class_names=CLASS_NAMES,
        rows=rows,
        has_files=True,
    )
