"""Values that each replica has of its own: BatchNorm's moving statistics, and their averages.

A replica normalises with its own part of the batch, so that the statistics it keeps differ from the
others'. They are averaged at the end of every epoch and at no other time, since the result of a run
must not depend on when it was saved: a checkpoint holds those of every replica.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from cxr_train.strategy import Placement


class ReplicaValues:
    """Variables whose copies differ between replicas, as one array.

    Every worker of a cluster must call each method at the same point.

    Args:
      variables: float32, made under the placement's strategy.
      placement: whose replicas they belong to.

    Attributes:
      size: how many numbers a replica has.
    """

    def __init__(self, variables: Sequence[tf.Variable], placement: Placement) -> None:
        self._placement = placement
        self._copies = [placement.strategy.experimental_local_results(variable) for variable in variables]
        self._ends = np.cumsum([int(np.prod(variable.shape)) for variable in variables], dtype=int)
        self.size = int(self._ends[-1]) if variables else 0

    def read(self) -> np.ndarray:
        """Returns float32 [replicas, size], the replicas of all workers in their order."""
        if not self.size:
            return np.zeros([self._placement.replicas, 0], np.float32)
        here = [np.stack([copy.numpy().ravel() for copy in copies]) for copies in self._copies]
        return np.concatenate(self._placement.gather(np.concatenate(here, axis=1)))

    def write(self, rows: np.ndarray) -> None:
        """Gives each replica its row; all of them the mean if there are more or fewer rows than replicas.

        Args:
          rows: float32 [N, size].
        """
        if not self.size:
            return
        replicas, cluster = self._placement.replicas, self._placement.cluster
        if len(rows) != replicas:
            rows = np.repeat(_mean(rows), replicas, axis=0)
        here = np.split(rows, cluster.size)[cluster.number]
        for copies, values in zip(self._copies, np.split(here, self._ends[:-1], axis=1), strict=True):
            for copy, value in zip(copies, values, strict=True):
                copy.assign(value.reshape(copy.shape))

    def average(self) -> None:
        """Gives all replicas the mean."""
        if self.size and self._placement.replicas > 1:
            self.write(_mean(self.read()))


def _mean(rows: np.ndarray) -> np.ndarray:
    """float32 [1, size]. In float64, so that the mean of equal numbers is that number."""
    return rows.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
