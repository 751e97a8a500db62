"""Values that each replica has of its own: BatchNorm's moving statistics, their averages, and seeds.

A replica normalises with its own part of the batch, so that the statistics it keeps differ from the
others'. They are averaged at the end of every epoch and at no other time, since the result of a run
must not depend on when it was saved: a checkpoint holds those of every replica.

Keras' dropout (that of the head, and EfficientNet's between its blocks) draws from a seed and a counter,
which a strategy copies to all replicas: they would drop the same places of their different images.
So each replica's seed is that of replica 0 plus its number.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from cxr_train.engine.strategy import Placement


class ReplicaValues:
    """Variables whose copies differ between replicas, as one array.

    Every worker of a cluster must call each method at the same point.

    Args:
      variables: float32, made under the placement's strategy.
      placement: whose replicas they belong to.
      seeds: int64 [2] each, a seed and a counter, made there too; they are set apart.

    Attributes:
      size: how many numbers a replica has.
    """

    def __init__(
        self, variables: Sequence[tf.Variable], placement: Placement, seeds: Sequence[tf.Variable] = ()
    ) -> None:
        self._placement = placement
        self._copies = [placement.strategy.experimental_local_results(variable) for variable in variables]
        self._seeds = [placement.strategy.experimental_local_results(seed) for seed in seeds]
        self._ends = np.cumsum([int(np.prod(variable.shape)) for variable in variables], dtype=int)
        self.size = int(self._ends[-1]) if variables else 0
        self.set_seeds_apart()

    def read(self) -> np.ndarray:
        """Return float32 [replicas, size], the replicas of all workers in their order."""
        if not self.size:
            return np.zeros([self._placement.replicas, 0], np.float32)
        here = [np.stack([copy.numpy().ravel() for copy in copies]) for copies in self._copies]
        return np.concatenate(self._placement.gather(np.concatenate(here, axis=1)))

    def write(self, rows: np.ndarray) -> None:
        """Give each replica its row; all of them the mean if there are more or fewer rows than replicas.

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

    def set_seeds_apart(self) -> None:
        """Give each replica a seed of its own, once all have that of replica 0: made or restored."""
        local = self._placement.replicas // self._placement.cluster.size
        first = local * self._placement.cluster.number
        for copies in self._seeds:
            seed, counter = copies[0].numpy()
            for replica, copy in enumerate(copies, start=first):
                copy.assign([seed + replica, counter])

    def average(self) -> None:
        """Give all replicas the mean."""
        if self.size and self._placement.replicas > 1:
            self.write(_mean(self.read()))


def _mean(rows: np.ndarray) -> np.ndarray:
    """Return float32 [1, size]. In float64, so that the mean of equal numbers is that number."""
    return rows.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
