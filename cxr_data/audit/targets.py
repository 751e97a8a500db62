"""What a feature is tried against: all classes together, or each finding alone, where it is known."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cxr_data.audit.pictures import Pictures
from cxr_data.sources.finding_values import ABSENT, PRESENT


@dataclass(frozen=True)
class Target:
    """Labels that a feature may predict.

    Attributes:
      positions: int [N], of the pictures that have a label.
      labels: int [N], from 0 without gaps.
      groups: int [N], a number for each patient; a picture of none counts as one.
      names: {label: name} of the labels that are scored.
      others: name of a label that is not scored, or "".
    """

    positions: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    names: dict[int, str]
    others: str = ""

    @property
    def all_names(self) -> tuple[str, ...]:
        """Names of all labels, in their order."""
        return tuple(self.names.get(label, self.others) for label in range(int(self.labels.max()) + 1))


def targets_of(pictures: Pictures) -> Iterator[Target]:
    """Yield what the features of a dataset are tried against: one target of classes, or one a finding."""
    groups = np.unique(np.array(pictures.groups, object), return_inverse=True)[1]
    if pictures.findings is None:
        present, labels = np.unique(pictures.labels, return_inverse=True)
        names = {number: pictures.class_names[int(k)] for number, k in enumerate(present)}
        yield Target(np.arange(len(labels)), labels, groups, names)
        return
    for name, values in zip(pictures.class_names, pictures.findings.T, strict=True):
        known = np.flatnonzero((values == PRESENT) | (values == ABSENT))
        if np.any(values == PRESENT):
            label = (values[known] == PRESENT).astype(int)
            yield Target(known, label, groups[known], {1: name}, f"no {name}")
