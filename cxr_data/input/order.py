"""The order of the examples: permutations of positions, for any number of input workers.

A position is a record's number within its split. The global batches of an epoch depend
on the seed, the epoch and the batch size only; input worker `i` of `n` gets the i-th of
n equal parts of each, so that the example order does not depend on the number of workers.
"""

import dataclasses

import numpy as np

from cxr_data.input.mix import Mix

PADDING = -1


@dataclasses.dataclass(frozen=True)
class InputWorker:
    """One of `count` processes that feed a global batch together."""

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise ValueError(f"input worker {self.number} of {self.count}")

    def part_of(self, batch_size: int) -> int:
        """Return this worker's share of a global batch. Raises ValueError if it is not whole."""
        if batch_size % self.count:
            raise ValueError(f"a global batch of {batch_size} does not divide by {self.count} input workers")
        return batch_size // self.count


def epoch_order(positions: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Return `positions` (int64 [N]) in the order of `epoch`, which no other epoch has."""
    return np.random.default_rng([seed, epoch]).permutation(positions)


def training_batches(
    positions: np.ndarray, *, batch_size: int, seed: int, epoch: int, worker: InputWorker | None = None
) -> np.ndarray:
    """Return the full batches of one training epoch; the odd last batch is dropped.

    Args:
      positions: int64 [N], the records to train on.
      batch_size: global.
      seed, epoch: name the order.
      worker: which part of each global batch to return; the whole by default.

    Returns:
      int64 [N // batch_size, batch_size / worker.count].
    """
    worker = worker or InputWorker()
    part = worker.part_of(batch_size)
    steps = len(positions) // batch_size
    order = epoch_order(positions, seed=seed, epoch=epoch)[: steps * batch_size]
    return order.reshape(steps, worker.count, part)[:, worker.number]


@dataclasses.dataclass(frozen=True, eq=False)
class Epochs:
    """Training epochs that follow each other without a pause, each in an order of its own.

    Attributes:
      positions: int64 [N], ascending, the records to train on.
      batch_size: of the global batch.
      seed: the same seed gives the same orders.
      first: the first epoch, from 0.
      count: how many epochs.
      first_step: how many batches of the first epoch to skip, to go on after a stop.
      worker: reads its part of each global batch.
      mix: how often the images of each source come; None for each image once an epoch.
    """

    positions: np.ndarray
    batch_size: int
    seed: int
    first: int
    count: int = 1
    first_step: int = 0
    worker: InputWorker = InputWorker()
    mix: Mix | None = None

    @property
    def numbers(self) -> range:
        """Return the epochs' numbers."""
        return range(self.first, self.first + self.count)

    @property
    def steps(self) -> int:
        """Return the number of full batches of an epoch."""
        return len(self.positions) // self.batch_size

    @property
    def batches(self) -> int:
        """Return the number of batches of all epochs, without those to skip."""
        return self.count * self.steps - self.first_step

    @property
    def part(self) -> int:
        """Return the number of examples of a batch that the worker reads."""
        return self.worker.part_of(self.batch_size)

    def batches_of(self, epoch: int) -> np.ndarray:
        """Return the positions of the worker's part of each batch of an epoch: int64 [steps, part]."""
        if self.mix:
            batches = self.mix.epoch(self.steps, self.batch_size, seed=self.seed, epoch=epoch)
            return batches.reshape(self.steps, self.worker.count, self.part)[:, self.worker.number]
        return training_batches(
            self.positions, batch_size=self.batch_size, seed=self.seed, epoch=epoch, worker=self.worker
        )


def evaluation_batches(
    positions: np.ndarray, *, batch_size: int, worker: InputWorker | None = None
) -> np.ndarray:
    """Return every position once, in the order given; the last batch is filled up with `PADDING`.

    Returns:
      int64 [ceil(N / batch_size), batch_size / worker.count].
    """
    worker = worker or InputWorker()
    part = worker.part_of(batch_size)
    steps = -(-len(positions) // batch_size)
    padded = np.full(steps * batch_size, PADDING, np.int64)
    padded[: len(positions)] = positions
    return padded.reshape(steps, worker.count, part)[:, worker.number]
