"""The indexed reader: images read by position, straight into the arrays of their batches.

A TFRecord file of uncompressed records is a random-access file once the offset of each
payload is known: one system call an image, no parsing, no second copy, and no
interpreter lock held while the kernel copies. A batch is one allocation.
"""

import concurrent.futures
import copy
import itertools
import os
from collections.abc import Iterator, Mapping

import crc32c
import numpy as np
import tensorflow as tf

from cxr_data.core import exact_read, local_store, runtime
from cxr_data.core.errors import DataError
from cxr_data.input.buffers import BatchBuffers
from cxr_data.input.options import VERIFY
from cxr_data.input.order import PADDING
from cxr_data.input.reader import PositionalReader, endless, shuffled
from cxr_data.records.index import labels_of, read_split_index
from cxr_data.records.manifest import Manifest
from cxr_data.records.value_range import UNIT, in_unit_range


class IndexedReader(PositionalReader):
    """Reads the images of one split by position. Safe to use from several threads.

    Args:
      manifest: of a local data directory.
      split: such as `train`.
      verify: one of `options.VERIFY`.
      threads: how many reads of one batch are under way at once.

    Raises:
      DataError: the split or the index is not there.
    """

    def __init__(self, manifest: Manifest, split: str, *, verify: str = "first", threads: int = 2) -> None:
        if verify not in VERIFY:
            raise ValueError(f"verify={verify!r} must be one of {VERIFY}")
        rows = read_split_index(manifest, split)
        self.labels, self.sources = labels_of(rows), rows["source"].astype(np.int32)
        self.image_shape, self.dtype = manifest.image_shape, manifest.dtype
        self._manifest = manifest
        self._shards = rows["shard"].tolist()
        self._payloads = rows["payload"].tolist()
        self._checksums = rows["crc32c"].tolist()
        self._first_of_shard = dict(zip(*np.unique(rows["shard"], return_index=True), strict=True))
        self._verify = verify
        self._verified = np.zeros(len(rows), bool)
        self._buffers = BatchBuffers()
        self._files: dict[int, int] = {}
        self._open_below = runtime.let_open(len(self._first_of_shard))
        self._threads = threads
        self._pool = concurrent.futures.ThreadPoolExecutor(threads - 1) if threads > 1 else None

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Read one batch.

        Args:
          positions: int64 [B]; `order.PADDING` gives a black image.

        Returns:
          [B, S, S, C] in the stored dtype, floats in [0, 1], 64-byte aligned.

        Raises:
          DataError: a record cannot be read or fails its checksum; names shard and record.
        """
        images = self._buffers.take((len(positions), *self.image_shape), np.dtype(self.dtype))
        if self._pool is None or len(positions) < 2 * self._threads:
            self._read_into(images, positions)
            return images
        cuts = np.linspace(0, len(positions), self._threads + 1).astype(int)
        parts = [slice(*ends) for ends in itertools.pairwise(cuts)]
        others = [self._pool.submit(self._read_into, images[part], positions[part]) for part in parts[1:]]
        try:
            self._read_into(images[parts[0]], positions[parts[0]])
        finally:
            concurrent.futures.wait(others)
        for other in others:
            other.result()
        return images

    def stages(
        self, positions: np.ndarray, batch_size: int
    ) -> Mapping[str, tf.data.Dataset | Iterator[np.ndarray]]:
        """Return the input without tf.data (`checksum`), also without that (`storage`), and then from one
        record, which is in the page cache (`copy`).
        """
        unchecked = copy.copy(self)  # on the same open files
        unchecked._verify = "never"
        batches = shuffled(positions, batch_size)
        return {
            "checksum": endless(self.read, batches),
            "storage": endless(unchecked.read, batches),
            "copy": endless(unchecked.read, np.full_like(batches, positions[0])),
        }

    def _read_into(self, images: np.ndarray, positions: np.ndarray) -> None:
        for image, position in zip(images, positions.tolist(), strict=True):
            if position == PADDING:
                image[...] = 0
                continue
            buffer = memoryview(image).cast("B")
            shard = self._shards[position]
            kept = self._files.get(shard)
            file = self._open(shard) if kept is None else kept
            try:
                exact_read.read_into(file, buffer, self._payloads[position])
            except EOFError as error:
                raise DataError(
                    f"{self._where(position)}: the shard ends inside it, it was cut short"
                ) from error
            except OSError as error:
                raise DataError(f"cannot read {self._where(position)}: {error.strerror}") from error
            finally:
                if kept is None:
                    self._keep_or_close(shard, file)
            if self._verify == "always" or (self._verify == "first" and not self._verified[position]):
                if crc32c.crc32c(buffer) != self._checksums[position]:
                    raise DataError(f"{self._where(position)} fails its checksum: the pixels are damaged")
                self._verified[position] = True
            if self._manifest.value_range != UNIT:
                image[...] = in_unit_range(image, self._manifest.value_range)

    def _open(self, shard: int) -> int:
        path = self._manifest.path(self._manifest.shards[shard])
        try:
            return local_store.open_regular(path)
        except OSError as error:
            raise DataError(f"cannot open shard {path}: {error.strerror}") from error

    def _keep_or_close(self, shard: int, file: int) -> None:
        """Keep a shard open for the next read while the process may open more files.

        In a global shuffle any shard may be the next: to close the one not read for longest saves no more.
        """
        # Another thread may have come first.
        if file >= self._open_below or self._files.setdefault(shard, file) != file:
            os.close(file)

    def _where(self, position: int) -> str:
        shard = self._shards[position]
        path = self._manifest.path(self._manifest.shards[shard])
        return f"{path}: record {position - self._first_of_shard[shard]}"

    def close(self) -> None:
        """Close the shards; reads that come later fail."""
        if self._pool is not None:
            self._pool.shutdown()
        while self._files:
            os.close(self._files.popitem()[1])
