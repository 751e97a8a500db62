"""The streamed reader: shards read from front to back through an interleaved TFRecordDataset.

For remote storage and the tf.data service, which positional reads cannot serve. It gives
the same examples in the same epoch as the indexed reader, in another order: the shards are
permuted, a few are read at once, and their records go through a bounded shuffle buffer in
the stored form.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from cxr_data.core.errors import DataError
from cxr_data.input.batch import as_batch, pad_batch, padding_only
from cxr_data.input.order import PADDING, Epochs, epoch_order
from cxr_data.input.reader import Reader
from cxr_data.records.index import labels_of, read_split_index
from cxr_data.records.manifest import Manifest
from cxr_data.records.value_range import in_unit_range


@dataclasses.dataclass(frozen=True)
class _Access:
    """How a kind of storage is read.

    Attributes:
      shards: how many take turns, a record each.
      threads: how many of them are read at the same time.
      buffer_bytes: read ahead of each shard; 0 for none.
    """

    shards: int
    threads: int
    buffer_bytes: int


# Local shards: two threads take turns over a few shards, and each record is read straight into
# its string; a read buffer would be one copy more (2,300 against 2,050 records a second).
_LOCAL = _Access(shards=4, threads=2, buffer_bytes=0)
# Remote shards: every read is a request, so that few large ones, and many at once, pay.
_REMOTE = _Access(shards=8, threads=8, buffer_bytes=8 << 20)
_BATCHES_PARSED_AT_ONCE = 2


@dataclasses.dataclass(frozen=True)
class _Stretch:
    """A run of records of one shard.

    Attributes:
      path: of the shard.
      first: position (within the split) of the shard's first record.
      start, stop: numbers within the shard, `stop` excluded.
    """

    path: str
    first: int
    start: int
    stop: int


class StreamedReader(Reader):
    """Reads one split of a local or remote data directory as streams.

    The whole input's stages are `storage` with its checksum, `parse` with the copy into the batch, and
    `shuffle` (the buffer and the transfer).

    Args:
      manifest: of the data directory.
      split: such as `train`.
      shuffle_mb: size of the shuffle buffer in MB of stored records. A small one keeps a record in
        the processor's cache until it is parsed: 16 MB cost 2 % of the speed, 256 MB a third.
    """

    last_stage = "shuffle"

    def __init__(self, manifest: Manifest, split: str, *, shuffle_mb: int = 16) -> None:
        self._manifest, self._split = manifest, split
        self.image_shape, self.dtype = manifest.image_shape, manifest.dtype
        self._access = _LOCAL if manifest.is_local else _REMOTE
        self._shards = manifest.shards_of(split)
        sizes = np.array([shard.records for shard in self._shards])
        self._firsts = np.concatenate([[0], np.cumsum(sizes)])
        largest = max(shard.bytes / max(shard.records, 1) for shard in self._shards)
        self.shuffle_records = max(int(shuffle_mb * 1e6 / largest), 2)

    @functools.cached_property
    def labels(self) -> np.ndarray:  # type: ignore[override]  # read from the index when they are asked for
        """Return the labels by position, int32 [N] or [N, C]."""
        return labels_of(self._rows)

    @functools.cached_property
    def sources(self) -> np.ndarray:  # type: ignore[override]  # as `labels`
        """Return the sources by position, int32 [N]."""
        return self._rows["source"].astype(np.int32)

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        return read_split_index(self._manifest, self._split)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def training_batches(self, epochs: Epochs) -> tf.data.Dataset:
        """Return the examples of `order.training_batches` in another order: shuffled in a buffer."""
        records = [self._training_records(epochs, number) for number in epochs.numbers]
        together = functools.reduce(tf.data.Dataset.concatenate, records)
        return self._parsed(together, epochs.part, drop_remainder=True).map(as_batch)

    def evaluation_batches(self, positions: np.ndarray) -> tf.data.Dataset:
        """Return a batch for each row of `positions`, int64 [steps, B]."""
        steps, batch_size = positions.shape
        examples = self._parsed(
            self._records_at(positions[positions != PADDING]), batch_size, drop_remainder=False
        )
        padded = examples.map(lambda *columns: pad_batch(as_batch(*columns), batch_size))
        # The last batch may have nothing for this worker but padding.
        padding = padding_only(self.image_shape, self.dtype, batch_size, self._manifest.findings)
        return padded.concatenate(tf.data.Dataset.from_tensors(padding)).take(steps)

    def stages(
        self, positions: np.ndarray, batch_size: int
    ) -> Mapping[str, tf.data.Dataset | Iterator[np.ndarray]]:
        """Return the records parsed one by one, in the order of the shards, and as they are stored."""
        del batch_size
        records = self._records_at(positions)
        return {"parse": self._parsed(records, 1, drop_remainder=True), "storage": records}

    def _training_records(self, epochs: Epochs, number: int) -> tf.data.Dataset:
        """Return one epoch's records for the worker, shuffled; as many as `order.training_batches` has.

        Each epoch leaves out the same few examples as the indexed reader does (its odd last
        batch). The workers divide the records that remain, laid end to end in the epoch's
        order of shards, into equal stretches: each example is read by one worker, whatever
        the numbers of shards and workers, and no worker reads much more than its part.

        Returns:
          A dataset of (position int64 [], serialized Example string []).
        """
        order = epoch_order(epochs.positions, seed=epochs.seed, epoch=number)
        order = order[: epochs.steps * epochs.batch_size]
        kept = np.zeros(len(self), bool)
        kept[order] = True
        generator = np.random.default_rng([epochs.seed, number, 1])
        shards = generator.permutation(len(self._shards))
        count = epochs.steps * epochs.part
        stretches = self._stretches(shards, kept, epochs.worker.number * count, count)
        dropped = np.setdiff1d(np.arange(len(self)), order)
        dataset = self._records(stretches, dropped, at_once=self._access.shards)
        dataset = dataset.shuffle(
            self.shuffle_records, seed=int(generator.integers(1 << 31)), reshuffle_each_iteration=False
        )
        return dataset.skip(epochs.first_step * epochs.part if number == epochs.first else 0)

    def _records_at(self, positions: np.ndarray) -> tf.data.Dataset:
        """Return the records at `positions` (ascending), in that order, as `_training_records` does."""
        kept = np.zeros(len(self), bool)
        kept[positions] = True
        stretches = self._stretches(np.arange(len(self._shards)), kept, 0, len(positions))
        return self._records(stretches, np.flatnonzero(~kept), at_once=1)

    def _stretches(self, shards: np.ndarray, kept: np.ndarray, start: int, count: int) -> list[_Stretch]:
        """Cut `count` kept records, after `start` of them, out of `shards` laid end to end."""
        stretches = []
        for number in shards.tolist():
            first, stop = int(self._firsts[number]), int(self._firsts[number + 1])
            numbers = np.flatnonzero(kept[first:stop])
            mine = numbers[max(start, 0) : max(start + count, 0)]
            start -= len(numbers)
            if len(mine):
                path = self._manifest.path(self._shards[number])
                stretches.append(_Stretch(path, first, int(mine[0]), int(mine[-1]) + 1))
        return stretches

    def _records(self, stretches: list[_Stretch], dropped: np.ndarray, at_once: int) -> tf.data.Dataset:
        """Return (position int64 [], serialized Example string []), without the `dropped` positions."""
        columns = {
            "path": [stretch.path for stretch in stretches],
            "first": np.array([stretch.first for stretch in stretches], np.int64),
            "start": np.array([stretch.start for stretch in stretches], np.int64),
            "stop": np.array([stretch.stop for stretch in stretches], np.int64),
        }

        def read(stretch: dict[str, tf.Tensor]) -> tf.data.Dataset:
            records = tf.data.TFRecordDataset(stretch["path"], buffer_size=self._access.buffer_bytes)
            records = records.take(stretch["stop"]).skip(stretch["start"])
            return records.enumerate(start=stretch["first"] + stretch["start"])

        dataset = tf.data.Dataset.from_tensor_slices(columns).interleave(
            read,
            cycle_length=at_once,
            num_parallel_calls=min(at_once, self._access.threads),
            deterministic=True,
        )
        if not len(dropped):
            return dataset
        absent = tf.constant(dropped, tf.int64)
        return dataset.filter(lambda position, _: tf.reduce_all(position != absent))

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Return the images [N, S, S, C] as stored at `positions`, int64 [N], each once."""
        images = np.empty((len(positions), *self.image_shape), np.dtype(self.dtype))
        place = np.argsort(positions)
        examples = self._parsed(self._records_at(np.sort(positions)), 1, drop_remainder=True)
        for row, (_, image, *_) in zip(place, examples.as_numpy_iterator(), strict=True):
            images[row] = image[0]
        return images

    def _parsed(self, records: tf.data.Dataset, batch_size: int, *, drop_remainder: bool) -> tf.data.Dataset:
        """Batch and parse records.

        They are batched first, as strings that are not copied, and parsed straight into the
        batch's array: parsing one by one would copy each image once more.

        Returns:
          A dataset of the columns of `as_batch`: position, image, label and source.
        """
        batches = records.batch(batch_size, drop_remainder=drop_remainder)
        return batches.map(self._parse_batch, num_parallel_calls=_BATCHES_PARSED_AT_ONCE)

    def _parse_batch(self, positions: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, ...]:
        shape, as_floats = self.image_shape, self.dtype == "float32"
        image = (
            tf.io.FixedLenFeature(shape, tf.float32) if as_floats else tf.io.FixedLenFeature([], tf.string)
        )
        findings, names = self._manifest.findings, self._manifest.sources
        label, label_shape = ("labels", [findings]) if findings else ("label", [])
        features = {"image": image, label: tf.io.FixedLenFeature(label_shape, tf.int64)}
        if len(names) > 1:
            features["source"] = tf.io.FixedLenFeature([], tf.string, default_value=b"")
        examples = tf.io.parse_example(serialized, features)
        images = examples["image"]
        if not as_floats:
            pixels = tf.io.decode_raw(images, tf.dtypes.as_dtype(self.dtype))
            images = tf.reshape(pixels, [-1, *shape])
        images = in_unit_range(images, self._manifest.value_range)
        sources = tf.zeros_like(positions, tf.int32)
        if len(names) > 1:
            encoded = tf.constant([os.fsencode(name) for name in names])
            is_source = examples["source"][:, None] == encoded[None]
            sources = tf.argmax(is_source, axis=1, output_type=tf.int32)
        return positions, images, self._checked(examples[label]), sources

    def _checked(self, labels: tf.Tensor) -> tf.Tensor:
        """Return the labels of records as int32. One of no class gives a loss that is no number on a GPU."""
        least, most = (-2, 1) if self._manifest.findings else (0, len(self._manifest.class_names) - 1)
        known = tf.reduce_all((labels >= least) & (labels <= most))
        said = f"{DataError.__name__}: a label outside of [{least}, {most}], one of:"
        with tf.control_dependencies([tf.debugging.Assert(known, [said, labels], summarize=8)]):
            return tf.cast(labels, tf.int32)
