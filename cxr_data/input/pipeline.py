"""The read side: index -> order -> read -> batch -> prefetch.

By position for local shards, as streams for remote storage and the tf.data service: `reader` says what all
readers do, `batch` what a batch is.
"""

import logging
import os
import pathlib

import numpy as np
import tensorflow as tf

from cxr_data.core.choice import Choice
from cxr_data.core.errors import UsageError
from cxr_data.core.machine_memory import free_memory
from cxr_data.core.wording import counted
from cxr_data.input import bad_records, order
from cxr_data.input.batch import expand_image
from cxr_data.input.cache import MemoryCache, cache_on_disk, choose_cache
from cxr_data.input.indexed import IndexedReader
from cxr_data.input.mix import Mix
from cxr_data.input.options import ReadOptions
from cxr_data.input.order import Epochs
from cxr_data.input.reader import Reader
from cxr_data.input.served import ServedReader
from cxr_data.input.streamed import StreamedReader
from cxr_data.records.folds import positions_of
from cxr_data.records.index import check_first_records
from cxr_data.records.manifest import Manifest
from cxr_data.records.split_names import joined_splits, parse_split

logger = logging.getLogger(__name__)

_PREFETCHED_BATCHES = 2
_AUTOTUNE_BYTES = 1 << 30


class Pipeline:
    """Batches of the splits of one data directory.

    Args:
      manifest: of the data directory.
      options: how to read it.

    Attributes:
      choices: what `auto` chose, and why.

    Raises:
      DataError: an index is missing, too many records are bad, or a cache does not fit.
    """

    def __init__(self, manifest: Manifest, options: ReadOptions | None = None) -> None:
        self.manifest = manifest
        self._options = options or ReadOptions()
        check_first_records(manifest)
        self._local = manifest.is_local
        kept = self._choose_cache()
        reader = self._choose_reader(kept.value)
        self.choices = (reader, kept)
        self._cache = kept.value
        self._by_position = reader.value == "indexed"
        if kept.value == "disk":
            cache_dir = pathlib.Path(self._options.cache_dir)
            self.manifest = cache_on_disk(manifest, manifest.splits, cache_dir)
        self._readers: dict[str, Reader] = {}
        self._positions: dict[str, np.ndarray] = {}

    def steps_per_epoch(self, split: str, batch_size: int) -> int:
        """Return the number of full training batches in `split`.

        Raises:
          UsageError: not even one.
        """
        count = len(self.positions(split))
        if count < batch_size:
            raise UsageError(
                f"--batch_size={batch_size}: split {split!r} has only {counted(count, 'image')}; "
                f"choose at most {count}"
            )
        return count // batch_size

    def part_of(self, batch_size: int) -> int:
        """Return how many examples of a global batch this process reads."""
        return self._options.worker.part_of(batch_size)

    def positions(self, split: str) -> np.ndarray:
        """Return the records of `split`, or of a part of it, that are read: int64, ascending; no bad ones.

        Raises:
          DataError: the split is not there, or too many records are bad.
        """
        if split not in self._positions:
            if parse_split(split).is_part and not self._by_position:
                raise UsageError(
                    f"split {split!r}: a part of a split is read by position; leave out --reader=stream"
                )
            every = positions_of(self.manifest, split)
            self._positions[split] = np.setdiff1d(every, self._bad_positions(split))
        return self._positions[split]

    def training_dataset(
        self, split: str, *, batch_size: int, seed: int, epoch: int, first_step: int = 0, epochs: int = 1
    ) -> tf.data.Dataset:
        """Return full batches of one or several epochs, in an order that depends on the arguments only.

        Args:
          split: such as `train`.
          batch_size: the global batch.
          seed: the same seed gives the same order of examples.
          epoch: the first epoch, from 0; each has its own order.
          first_step: how many batches of it to skip, to go on after a stop.
          epochs: how many epochs follow each other without a pause between them.

        Returns:
          `epochs * steps_per_epoch - first_step` batches, of this input worker's part of each.

        Raises:
          UsageError: the split has not one full batch.
        """
        self.steps_per_epoch(split, batch_size)
        chosen = self._epochs(split, batch_size, seed, epoch, epochs, first_step)
        return _finish(self.reader(split).training_batches(chosen), chosen.batches)

    def training_sample(
        self, split: str, *, batch_size: int, seed: int, epoch: int, batches: int, parts: int = 1
    ) -> tf.data.Dataset:
        """Return the first batches of an epoch, at most all of it, as `training_dataset` has them.

        They are the same each time: where a data service feeds the training, this process reads them itself.

        Args:
          split, batch_size, seed, epoch: see `training_dataset`.
          batches: how many of them.
          parts: into how many micro-batches each is split.

        Raises:
          UsageError: the split has not one full batch.
        """
        batches = min(batches, self.steps_per_epoch(split, batch_size))
        chosen = self._epochs(split, batch_size, seed, epoch)
        sample = self.reader(split).repeatable_batches(chosen).take(batches)
        if parts > 1:
            sample = sample.rebatch(chosen.part // parts, drop_remainder=True)
        return _finish(sample, batches * parts)

    def _epochs(
        self, split: str, batch_size: int, seed: int, first: int, count: int = 1, first_step: int = 0
    ) -> Epochs:
        """Return epochs of `split` as this process reads them. Raises UsageError: as `_mix`."""
        mix = self._mix(split, batch_size)
        worker = self._options.worker
        return Epochs(self.positions(split), batch_size, seed, first, count, first_step, worker, mix)

    def balanced_sources(self, split: str, batch_size: int) -> dict[int, float]:
        """Return the share of each source in every batch, by its number; empty without `--balance_batches`.

        Raises:
          UsageError: `--mix` does not fit the sources of the split, or the batch.
        """
        mix = self._mix(split, batch_size) if self._options.balance_batches else None
        return dict(zip(mix.numbers, mix.shares, strict=True)) if mix else {}

    def _mix(self, split: str, batch_size: int) -> Mix | None:
        """Return how often each source comes; None for each image once.

        Raises:
          UsageError: `--mix` does not fit the sources of the split, or the batch.
        """
        if not (self._options.mix or self._options.balance_batches):
            return None
        positions = self.positions(split)
        mix = Mix.of(
            self._options.mix,
            self.manifest.sources,
            positions,
            self.reader(split).sources[positions],
            balanced=self._options.balance_batches,
        )
        mix.check_batch(batch_size)
        return mix

    def evaluation_dataset(
        self, split: str, *, batch_size: int, positions: np.ndarray | None = None
    ) -> tf.data.Dataset:
        """Return every record of `split` once, in manifest order; the last global batch is padded.

        Args:
          batch_size: the global batch.
          positions: int64 [N], ascending, of the records to read; all of `positions(split)` by default.

        Returns:
          This input worker's part of each batch, as many batches for each worker.
        """
        chosen = self.positions(split) if positions is None else positions
        batches = order.evaluation_batches(chosen, batch_size=batch_size, worker=self._options.worker)
        return _finish(self.reader(split).evaluation_batches(batches), len(batches))

    def images(self, split: str, positions: np.ndarray) -> np.ndarray:
        """Read the images at `positions` (int64 [N], each once): float32 [N, S, S, 3] in [0, 1].

        Raises:
          DataError: one cannot be read.
        """
        reader = self.reader(split)
        stored = reader.read(positions)
        image: np.ndarray = expand_image(tf.constant(stored)).numpy()
        return image

    def reader(self, split: str) -> Reader:
        """Return the reader of `split`, opened once; it keeps its files and what it has verified.

        Parts of splits are read by the reader of the whole.
        """
        pool = "+".join(joined_splits(split))
        if pool not in self._readers:
            self._readers[pool] = self._open(pool)
        return self._readers[pool]

    def _open(self, split: str) -> Reader:
        options = self._options
        if options.data_service:
            return ServedReader(
                self.manifest, split, shuffle_mb=options.shuffle_mb, address=options.data_service
            )
        reader: Reader
        if self._by_position and self.manifest.is_local:
            reader = IndexedReader(self.manifest, split, verify=options.verify)
        else:
            reader = StreamedReader(self.manifest, split, shuffle_mb=options.shuffle_mb)
        return MemoryCache(reader) if self._cache == "memory" else reader

    def _bad_positions(self, split: str) -> list[int]:
        if self._options.on_bad_record == "fail":
            return []
        bad = bad_records.find_bad_records(self.manifest, split)
        for record in bad:
            logger.info("left out: %s", record)
        bad_records.refuse_too_many(bad, most=self._options.max_bad_records)
        return [record.position for record in bad]

    def _choose_reader(self, kept: str) -> Choice:
        requested = self._options.reader
        if self._options.mix or self._options.balance_batches:
            flag = "--mix" if self._options.mix else "--balance_batches"
            if self._options.data_service or requested == "stream":
                raise UsageError(
                    f"{flag}: images are read by position; leave out --reader=stream and --data_service"
                )
        if self._options.data_service:
            if requested == "indexed":
                raise UsageError("--data_service: its workers read streams; leave out --reader=indexed")
            if self._options.worker.count > 1:
                raise UsageError("--data_service: feeds one training process, not several")
            return Choice("reader", "stream", f"--data_service={self._options.data_service}")
        positional = self._local or kept != "none"
        if requested == "indexed" and not positional:
            raise UsageError("--reader=indexed: these shards are remote; add --cache=memory or --cache=disk")
        if self._options.on_bad_record == "skip" and (requested == "stream" or not self._local):
            raise UsageError("--on_bad_record=skip: needs local shards and --reader=indexed")
        if requested != "auto":
            return Choice("reader", requested)
        if self._local:
            return Choice("reader", "indexed", "local shards, read by position")
        if positional:
            return Choice("reader", "indexed", f"remote shards, kept by --cache={kept}")
        return Choice("reader", "stream", "remote shards")

    def _choose_cache(self) -> Choice:
        if self._options.reader == "stream" or self._options.data_service:
            streamed = "--data_service" if self._options.data_service else "--reader=stream"
            if self._options.cache not in ("auto", "none"):
                raise UsageError(f"--cache={self._options.cache}: is read by position; leave out {streamed}")
            return Choice("cache", "none", streamed if self._options.cache == "auto" else "")
        directory = pathlib.Path(self._options.cache_dir)
        existing = next(place for place in (directory, *directory.parents) if place.exists())
        status = os.statvfs(existing)
        return choose_cache(
            self._options.cache,
            stored_bytes=sum(shard.bytes for shard in self.manifest.shards),
            local=self._local,
            free=free_memory(),
            free_disk=status.f_bavail * status.f_frsize,
        )


def _finish(dataset: tf.data.Dataset, batches: int) -> tf.data.Dataset:
    """Prefetch, and settle what TensorFlow would otherwise choose for itself."""
    options = tf.data.Options()
    options.deterministic = True
    # The input workers' parts are ours to deal out, not TensorFlow's.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # By default the autotuner may fill half of the free memory with buffers.
    options.autotune.ram_budget = _AUTOTUNE_BYTES
    dataset = dataset.prefetch(_PREFETCHED_BATCHES).with_options(options)
    return dataset.apply(tf.data.experimental.assert_cardinality(batches))
