"""Predictions that no model made, for the tests of what is computed from them."""

import numpy as np

from cxr_train.evaluation.predictions import NamedPredictions


def predictions(images: int = 60, seed: int = 0, sure: float = 1.0) -> NamedPredictions:
    random = np.random.default_rng(seed)
    labels = np.arange(images) % 3
    scores = random.random((images, 3)) + sure * np.eye(3)[labels]
    return NamedPredictions(
        source=f"run{seed}",
        class_names=("covid", "normal", "pneumonia"),
        ids=tuple(f"a/{n}.png" for n in range(images)),
        groups=tuple(f"p{n // 3}" for n in range(images)),
        labels=labels,
        probabilities=scores / scores.sum(axis=1, keepdims=True),
    )
