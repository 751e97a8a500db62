"""Caches of the stored form, before the shuffle: in memory, or as shards on a local disk."""

import contextlib
import dataclasses
import hashlib
import logging
import pathlib
import shutil
import threading
from collections.abc import Callable, Sequence

import numpy as np

from cxr_data.core import local_store, storage
from cxr_data.core.choice import Choice
from cxr_data.core.errors import DataError
from cxr_data.core.machine_memory import free_memory
from cxr_data.core.progress_bar import progress_bar
from cxr_data.core.wording import byte_size
from cxr_data.input.buffers import BatchBuffers, aligned_empty
from cxr_data.input.order import PADDING
from cxr_data.input.reader import PositionalReader, Reader
from cxr_data.records.layout import INDEX_NAME
from cxr_data.records.manifest import Manifest, Shard

logger = logging.getLogger(__name__)

# What `auto` leaves to the model, the batches under way and the rest of the machine.
_SHARE_OF_FREE_MEMORY = 0.5
_COPY_BYTES = 8 << 20


def choose_cache(requested: str, *, stored_bytes: int, local: bool, free: int, free_disk: int) -> Choice:
    """Decide where the stored images are kept after they were first read.

    Args:
      requested: one of `options.CACHES`.
      stored_bytes: of the splits that will be read.
      local: whether the shards lie on a mounted file system; the kernel's page cache then
        does what `memory` would do, and gives the memory back when it is needed.
      free: bytes of memory that may be taken.
      free_disk: bytes free where the disk cache would lie.
    """
    if requested != "auto":
        return Choice("cache", requested)
    sizes = f"{byte_size(stored_bytes)} stored, {byte_size(free)} of memory free"
    if local:
        fits = "fit into" if stored_bytes <= free else "exceed"
        return Choice("cache", "none", f"local shards, {sizes}: they {fits} the page cache")
    if stored_bytes <= _SHARE_OF_FREE_MEMORY * free:
        return Choice("cache", "memory", sizes)
    if stored_bytes <= free_disk:
        return Choice("cache", "disk", f"{sizes}, {byte_size(free_disk)} of disk free")
    return Choice("cache", "none", f"{sizes}, {byte_size(free_disk)} of disk free: neither holds them")


class MemoryCache(PositionalReader):
    """Keeps the stored form of every image that was read once.

    Args:
      reader: what to read from the first time.

    Raises:
      DataError: the memory is not there.
    """

    def __init__(self, reader: Reader) -> None:
        self.labels, self.sources = reader.labels, reader.sources
        self.image_shape, self.dtype = reader.image_shape, reader.dtype
        self._reader = reader
        self._filled = np.zeros(len(self), bool)
        self._lock = threading.Lock()
        shape, dtype = (len(self), *self.image_shape), np.dtype(self.dtype)
        needed = int(np.prod(shape)) * dtype.itemsize
        if needed > free_memory():
            raise DataError(
                f"--cache=memory needs {byte_size(needed)}, {byte_size(free_memory())} are free; "
                "use --cache=disk or --cache=none, or store uint8 or one channel"
            )
        self._buffers = BatchBuffers()
        self._images = aligned_empty(shape, dtype)

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Return [B, S, S, C]; read from below only what was not read before."""
        real = positions[positions != PADDING]
        missing = real[~self._filled[real]]
        if len(missing):
            images = self._reader.read(missing)
            # The rows first, the flag after: another thread sees a row when it is whole.
            self._images[missing] = images
            with self._lock:
                self._filled[missing] = True
        batch = self._buffers.take((len(positions), *self._images.shape[1:]), self._images.dtype)
        if len(real) < len(positions):
            batch[...] = 0
            batch[positions != PADDING] = self._images[real]
        else:
            np.take(self._images, positions, axis=0, out=batch, mode="clip")
        return batch


def cache_on_disk(manifest: Manifest, splits: Sequence[str], directory: pathlib.Path) -> Manifest:
    """Copy the shards of `splits` below `directory`, unless whole copies are there.

    A copy gets its name when its size and SHA-256 are the manifest's: one that was cut
    short, by a stop or a full disk, is made again.

    Returns:
      The manifest of the copies.

    Raises:
      DataError: the disk is full, or a shard is not what the manifest says.
    """
    place = directory / manifest.index_sha256[:16]
    place.mkdir(parents=True, exist_ok=True)
    wanted = [shard for split in splits for shard in manifest.shards_of(split)]
    missing = [shard for shard in wanted if storage.size(str(place / shard.name)) != shard.bytes]
    total = sum(shard.bytes for shard in missing)
    if total > shutil.disk_usage(place).free:
        raise DataError(
            f"--cache=disk needs {byte_size(total)} in {directory}: make room or choose another --cache_dir"
        )
    if missing:
        logger.info("cache: copying %d of %d shards to %s", len(missing), len(wanted), place)
    shown = bool(missing) and logger.isEnabledFor(logging.INFO)
    with progress_bar("cache", "B", total, shown=shown) as bar:
        for shard in missing:
            _copy(manifest, shard, place, bar.update)
    storage.replace(place / INDEX_NAME, storage.read_bytes(storage.join(manifest.directory, INDEX_NAME)))
    return dataclasses.replace(manifest, directory=str(place))


def _copy(manifest: Manifest, shard: Shard, place: pathlib.Path, tick: Callable[[int], object]) -> None:
    source, target = manifest.path(shard), place / shard.name
    digest = hashlib.sha256()
    try:
        with (
            storage.local(source) as copy,
            open(copy, "rb", opener=local_store.open_regular) as reader,
            contextlib.closing(local_store.NewLocalFile(target)) as new,
            open(new.descriptor, "wb", closefd=False) as writer,
        ):
            while piece := reader.read(_COPY_BYTES):
                digest.update(piece)
                writer.write(piece)
                tick(len(piece))
            if digest.hexdigest() != shard.sha256:
                raise DataError(f"{source} is damaged: its SHA-256 is not the manifest's; convert it again")
            writer.flush()
            new.commit()
    except OSError as error:
        raise DataError(f"cannot cache {source} as {target}: {error.strerror}") from error
