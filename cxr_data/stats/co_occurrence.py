"""How often findings are present, and how often two of them together."""

import numpy as np


def both_present(labels: np.ndarray) -> np.ndarray:
    """Return in how many pictures two findings are both present: int [C, C], its own count on the diagonal.

    Args:
      labels: int [N, C], 1 where a finding is present.
    """
    present = (labels == 1).astype(np.float64)  # a product of integers would not go through BLAS
    return np.rint(present.T @ present).astype(np.int64)


def value_counts(labels: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    """Return how often each finding has each value: int [C, len(values)], of labels int [N, C]."""
    return np.stack([(labels == value).sum(axis=0) for value in values], axis=1)
