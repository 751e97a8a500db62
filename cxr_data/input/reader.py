"""What a reader is: it gives the images of one split, as batches of a `tf.data.Dataset` and as arrays.

    by position   indexed.IndexedReader  local shards
                  cache.MemoryCache      what another reader has read, kept in memory
    as streams    streamed.StreamedReader  local or remote shards
                  served.ServedReader      the same, by the processes of a tf.data service

`Pipeline` chooses; nobody else asks which reader it is. What is true of one reader and not of another, the
interface says.
"""

import abc
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from cxr_data.input.batch import as_batch, padding_label
from cxr_data.input.order import PADDING, Epochs

# The threads of a reader work on one batch; a second batch beside it was never faster.
_BATCHES_READ_AT_ONCE = 1


class Reader(abc.ABC):
    """Reads one split.

    Attributes:
      labels: int32 [N] or [N, C], by position, as in a batch.
      sources: int32 [N], by position, as in a batch.
      image_shape: [S, S, C] of a stored image.
      dtype: of the stored pixels.
      last_stage: what the whole input does last, after all that `stages` names.
      is_repeatable: whether the same `Epochs` have the same batches each time, also after a stop.
    """

    labels: np.ndarray
    sources: np.ndarray
    image_shape: tuple[int, int, int]
    dtype: str
    last_stage: str
    is_repeatable = True

    def __len__(self) -> int:
        return len(self.labels)

    @abc.abstractmethod
    def read(self, positions: np.ndarray) -> np.ndarray:
        """Return the images [B, S, S, C] at `positions`, int64 [B], each at most once, as they are stored.

        Raises:
          DataError: one cannot be read.
        """

    @abc.abstractmethod
    def training_batches(self, epochs: Epochs) -> tf.data.Dataset:
        """Return `epochs.batches` full batches, of the examples of `epochs`, each once an epoch."""

    def repeatable_batches(self, epochs: Epochs) -> tf.data.Dataset:
        """Return the same as `training_batches`, but the same batches each time."""
        return self.training_batches(epochs)

    @abc.abstractmethod
    def evaluation_batches(self, positions: np.ndarray) -> tf.data.Dataset:
        """Return a batch for each row of `positions`.

        Args:
          positions: int64 [steps, B], ascending; the last rows may hold `PADDING`, at their ends.
        """

    @abc.abstractmethod
    def stages(
        self, positions: np.ndarray, batch_size: int
    ) -> Mapping[str, tf.data.Dataset | Iterator[np.ndarray]]:
        """Return shorter and shorter inputs, to find by the differences of their rates what a stage costs.

        Args:
          positions: int64 [N], what to read; at least `batch_size`.
          batch_size: images that are read at once.

        Returns:
          By the name of a stage, the input with this stage and all that follow in the mapping: a dataset of
          one image an element, or an endless iterator over arrays [batch_size, S, S, C].
        """


class PositionalReader(Reader):
    """A reader that can read any image at once: `read` takes `PADDING` too, for a black image.

    The whole input's stages are those of `read`, at last `copy` (from the page cache into the batch),
    and `host-to-device` (tf.data and the transfer).
    """

    last_stage = "host-to-device"

    def training_batches(self, epochs: Epochs) -> tf.data.Dataset:
        """Return the batches of `order.training_batches`, exactly."""

        def batches_of(epoch: tf.Tensor) -> tf.data.Dataset:
            positions = tf.numpy_function(epochs.batches_of, [epoch], tf.int64, stateful=False)
            return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(positions, [epochs.steps, epochs.part]))

        numbers = tf.data.Dataset.range(epochs.numbers.start, epochs.numbers.stop)
        return self._batches(numbers.flat_map(batches_of).skip(epochs.first_step), epochs.part)

    def evaluation_batches(self, positions: np.ndarray) -> tf.data.Dataset:
        """Return a batch for each row of `positions`, int64 [steps, B]."""
        return self._batches(tf.data.Dataset.from_tensor_slices(positions), positions.shape[1])

    def stages(
        self, positions: np.ndarray, batch_size: int
    ) -> Mapping[str, tf.data.Dataset | Iterator[np.ndarray]]:
        """Return what is left of the input without tf.data: `copy`."""
        return {"copy": endless(self.read, shuffled(positions, batch_size))}

    def _batches(self, rows: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        """Read the batches whose positions are `rows`, int64 [batch_size], inside of tf.data.

        TensorFlow keeps each function that it calls as long as the process lives, and with it what the
        function refers to. A run makes datasets in each epoch, so the positions go through tf.data.
        """

        def read(positions: np.ndarray) -> tuple[np.ndarray, ...]:
            positions = positions.copy()  # it is TensorFlow's
            labels, sources = self.labels[positions], self.sources[positions]
            labels[positions == PADDING] = padding_label(labels.ndim)
            sources[positions == PADDING] = PADDING
            return positions, self.read(positions), labels, sources

        def batch(row: tf.Tensor) -> dict[str, tf.Tensor]:
            types = [tf.int64, self.dtype, tf.int32, tf.int32]
            index, image, label, source = tf.numpy_function(read, [row], types, stateful=False)
            return as_batch(
                tf.ensure_shape(index, [batch_size]),
                tf.ensure_shape(image, [batch_size, *self.image_shape]),
                tf.ensure_shape(label, [batch_size, *self.labels.shape[1:]]),
                tf.ensure_shape(source, [batch_size]),
            )

        return rows.map(batch, num_parallel_calls=_BATCHES_READ_AT_ONCE, deterministic=True)


def shuffled(positions: np.ndarray, batch_size: int) -> np.ndarray:
    """Return full batches of `positions`, int64 [N], in some order: int64 [N // batch_size, batch_size]."""
    order = np.random.default_rng(0).permutation(positions)
    return order[: len(order) // batch_size * batch_size].reshape(-1, batch_size)


def endless(read: Callable[[np.ndarray], np.ndarray], batches: np.ndarray) -> Iterator[np.ndarray]:
    """Read `batches`, int64 [steps, B], one after the other, again and again."""
    while True:
        for positions in batches:
            yield read(positions)
