"""Embeddings of a data set: the features of every picture, as a data set with the same records otherwise.

Shards, records and their order are those of the pictures, and so are ids, patients, sources, labels and
splits; `image` is float32 or float16 [1, 1, F].

The shards are written in a folder beside the output, which gets the output's name when all of it is on the
disk. After a stop, the same command continues with the shards that are missing.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import logging
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.local_store import TEMPORARY_SUFFIX, publish, sha256_of
from cxr_data.core.progress_bar import progress_bar
from cxr_data.core.wording import counted
from cxr_data.input.data_errors import clear_data_errors
from cxr_data.input.options import ReadOptions
from cxr_data.input.order import PADDING
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.index import (
    read_features,
    read_other_headers,
    read_split_fields,
    rows_by_shard,
    scan_shard,
    write_features,
    write_index,
)
from cxr_data.records.layout import AUDIT_FOLDER, AUDIT_NAME, QUARANTINE_NAME, SHARD_SUFFIX
from cxr_data.records.manifest import SCHEMA, Manifest, Shard, write_manifest
from cxr_data.records.shard_file import ShardFile
from cxr_train.engine.memory_errors import FEWER_IMAGES, clear_memory_errors
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import Placement
from cxr_train.inference.encoder import Encoder

logger = logging.getLogger(__name__)

_KEY_DIGITS = 12
# So much is computed while a shard is brought to the disk.
_BATCHES_AHEAD = 8
_PLACES = ("label", "record", "length", "payload", "crc32c")
_Rows = list[tuple[int, ...]]
"""Of a shard, the `_PLACES` of each record, as in the index."""


def embed_dataset(
    manifest: Manifest, encoder: Encoder, placement: Placement, output: str, *, dtype: str, batch_size: int
) -> Manifest:
    """Write the features of every record of a data set as a data set.

    Args:
      manifest: of the pictures.
      encoder: makes features of them.
      placement: where it computes; it was made in the scope of its strategy.
      output: folder that is made; an embedding that is there is replaced.
      dtype: of the stored features, float32 or float16.
      batch_size: images in a step, over all replicas.

    Returns:
      The manifest of the embeddings.

    Raises:
      DataError: the pictures cannot be read, a feature is not finite, or the output cannot be written.
      UsageError: a feature is too large for `dtype`.
      OutOfMemoryError: the device has too little memory for the batch.
    """
    try:
        with _unfinished_folder(pathlib.Path(output), manifest, encoder, dtype) as folder:
            with clear_memory_errors(FEWER_IMAGES):
                made = _Embedder(manifest, encoder, placement, folder, dtype, batch_size).write()
            _publish(folder, pathlib.Path(output))
    except OSError as error:
        raise DataError(
            f"--output={output}: cannot be written: {error.strerror or error}; make room, and run the same "
            "command again to finish the rest"
        ) from error
    return dataclasses.replace(made, directory=output)


@contextlib.contextmanager
def _unfinished_folder(
    output: pathlib.Path, manifest: Manifest, encoder: Encoder, dtype: str
) -> Iterator[pathlib.Path]:
    """Hold the folder beside the output in which it is made; that of another embedding is removed.

    Its name says what is made in it, so that the same command finds it again.

    Raises:
      DataError: another process is at work in it.
    """
    output = output.absolute()
    key = hashlib.sha256(repr((manifest.index_sha256, encoder.description, dtype)).encode()).hexdigest()
    folder = output.with_name(f"{output.name}.{key[:_KEY_DIGITS]}{TEMPORARY_SUFFIX}")
    own = re.compile(re.escape(output.name) + rf"\.[0-9a-f]{{{_KEY_DIGITS}}}{re.escape(TEMPORARY_SUFFIX)}")
    folder.mkdir(exist_ok=True)
    for other in folder.parent.iterdir():
        if own.fullmatch(other.name) and other != folder:
            with _locked(other):
                shutil.rmtree(other)
    with _locked(folder):
        storage.store_of(str(folder)).remove_unfinished(str(folder), f"*{SHARD_SUFFIX}*")
        yield folder


def _locked(folder: pathlib.Path) -> contextlib.AbstractContextManager[object]:
    try:
        return storage.store_of(str(folder)).lock(str(folder))
    except BlockingIOError as error:
        raise DataError(f"another process is writing in {folder}: wait until it has ended") from error


def _publish(folder: pathlib.Path, output: pathlib.Path) -> None:
    """Give the finished folder its name; what has the name is set aside first, and then removed."""
    aside = output.with_name(f"{output.name}.replaced{TEMPORARY_SUFFIX}")
    if output.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(output, aside)
    publish(folder, output)
    shutil.rmtree(aside, ignore_errors=True)  # also that of a process that was killed before this line


class _Embedder:
    """Writes embeddings into a folder; see `embed_dataset`."""

    def __init__(
        self,
        manifest: Manifest,
        encoder: Encoder,
        placement: Placement,
        folder: pathlib.Path,
        dtype: str,
        batch_size: int,
    ) -> None:
        # Each picture is read once.
        self._pipeline = Pipeline(manifest, ReadOptions(cache="none"))
        self._manifest, self._encoder, self._placement = manifest, encoder, placement
        self._folder, self._dtype, self._batch_size = folder, np.dtype(dtype), batch_size
        self._predict = PredictStep(encoder.model, placement)

    def write(self) -> Manifest:
        """Write what is missing of the data set, at last its manifest."""
        manifest, started = self._manifest, time.monotonic()
        shards: list[Shard] = []
        index: list[np.ndarray] = []
        known = {shard.name: rows for shard in manifest.shards if (rows := self._whole(shard)) is not None}
        before = sum(map(len, known.values()))
        if known:
            logger.info("%s of %d written before", counted(len(known), "shard"), len(manifest.shards))
        with (
            progress_bar("embed", "images", manifest.records, initial=before) as bar,
            contextlib.closing(self._features(self._missing(known), bar.update)) as features,
        ):
            for split in manifest.splits:
                for shard, own in rows_by_shard(manifest, split):
                    path = self._folder / shard.name
                    if shard.name in known:
                        places, sha256 = known[shard.name], sha256_of(path)
                    else:
                        places, sha256 = self._write_shard(shard, own, features)
                    index.append(_index_of(len(shards), own, places))
                    shards.append(dataclasses.replace(shard, bytes=path.stat().st_size, sha256=sha256))
        made = self._finish(shards, np.concatenate(index))
        if images := manifest.records - before:
            seconds = time.monotonic() - started
            logger.info("%s in %.1f s: %.1f images/s", counted(images, "image"), seconds, images / seconds)
        return made

    def _whole(self, shard: Shard) -> _Rows | None:
        """Return the rows of a shard that an earlier process has written; None where there is none."""
        path = self._folder / shard.name
        if not path.exists():
            return None
        try:
            rows = scan_shard(path, findings=self._manifest.findings)
        except DataError:
            return None
        if len(rows) != shard.records:
            return None
        return [tuple(int(row[name]) for name in _PLACES) for row in rows]

    def _missing(self, known: Collection[str]) -> dict[str, np.ndarray]:
        """Return by split the positions, int64 [N], ascending, of records in shards that are not known."""
        missing: dict[str, np.ndarray] = {}
        for split in self._manifest.splits:
            shards = self._manifest.shards_of(split)
            is_missing = np.repeat(
                [shard.name not in known for shard in shards], [shard.records for shard in shards]
            )
            if is_missing.any():
                missing[split] = np.flatnonzero(is_missing)
        return missing

    def _write_shard(
        self, shard: Shard, own: np.ndarray, features: Iterator[np.ndarray]
    ) -> tuple[_Rows, str]:
        """Write a shard with the next `features`; return its rows and its SHA-256.

        Args:
          shard: of the pictures.
          own: its rows of the index.
          features: [F] as they are stored.
        """
        file = ShardFile(str(self._folder / shard.name))
        stored_bytes = self._encoder.features * self._dtype.itemsize
        headers = read_other_headers(self._manifest, shard, own, self._dtype.name, stored_bytes)
        try:
            for header, label in zip(headers, own["label"].tolist(), strict=True):
                file.append_behind(header, label, next(features))
            file.finish()
        finally:
            file.close()
        return file.rows, file.hash.hexdigest()

    def _features(
        self, wanted: Mapping[str, np.ndarray], tick: Callable[[int], object]
    ) -> Generator[np.ndarray, None, None]:
        """Yield the features [F], as they are stored, of the pictures at the positions of each split.
        Batches are computed in a thread while the records of earlier ones are written.
        """
        computed = self._computed(wanted)
        ahead: collections.deque[concurrent.futures.Future[np.ndarray | None]] = collections.deque()
        errors = clear_data_errors(self._manifest, can_skip=False)
        with errors, concurrent.futures.ThreadPoolExecutor(1) as pool:
            try:
                ahead.extend(pool.submit(next, computed, None) for _ in range(_BATCHES_AHEAD))
                while (features := ahead.popleft().result()) is not None:
                    ahead.append(pool.submit(next, computed, None))
                    yield from features
                    tick(len(features))
            finally:
                for future in ahead:
                    future.cancel()

    def _computed(self, wanted: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the features [N, F] of each batch; see `_features`."""
        replicas = self._placement.replicas
        for split, positions in wanted.items():
            batch_size = -(-min(self._batch_size, len(positions)) // replicas) * replicas
            dataset = self._pipeline.evaluation_dataset(split, batch_size=batch_size, positions=positions)
            for batch in self._placement.distribute(dataset):
                index, found = self._predict.gather(batch["index"]), self._predict(batch)
                in_order = np.argsort(index, kind="stable")[np.count_nonzero(index == PADDING) :]
                yield self._stored(found[in_order], split, index[in_order])

    def _stored(self, features: np.ndarray, split: str, positions: np.ndarray) -> np.ndarray:
        """Return the features float32 [N, F] of the pictures at `positions` of a split as they are stored."""
        with np.errstate(over="ignore"):
            stored = features.astype(self._dtype)
        is_finite = np.isfinite(stored).all(axis=1)
        if is_finite.all():
            return stored
        wrong = int(np.argmin(is_finite))
        name = read_split_fields(self._manifest, split)[positions[wrong]].id
        if not np.isfinite(features[wrong]).all():
            raise DataError(
                f"{name}: a feature is not a finite number; choose --precision=float32, or another encoder"
            )
        raise UsageError(
            f"--dtype={self._dtype}: {name} has a feature of {np.abs(features[wrong]).max():g}, and the "
            f"largest is {np.finfo(self._dtype).max:g}; choose --dtype=float32"
        )

    def _finish(self, shards: Sequence[Shard], index: np.ndarray) -> Manifest:
        """Write what stands beside the shards, and at last the manifest."""
        manifest, folder = self._manifest, str(self._folder)
        measured = read_features(manifest)
        names = [QUARANTINE_NAME, AUDIT_NAME]
        drawn = storage.join(manifest.directory, AUDIT_FOLDER)
        names += [f"{AUDIT_FOLDER}/{name}" for name in storage.store_of(drawn).names(drawn)]
        for name in names:
            self._copy(name)
        made = dataclasses.replace(
            manifest,
            directory=folder,
            schema=SCHEMA,
            size=1,
            channels=self._encoder.features,
            dtype=self._dtype.name,
            shards=tuple(shards),
            mean=(),
            std=(),
            versions={**manifest.versions, "tensorflow": tf.__version__, "keras": keras.__version__},
            index_sha256=write_index(folder, index),
            features_sha256="" if measured is None else write_features(folder, measured),
            notes=(),
            value_range=(0.0, 1.0),
            embedding=self._encoder.description,
        )
        write_manifest(made)
        return made

    def _copy(self, name: str) -> None:
        """Copy a file that says of the pictures what holds for their features too."""
        path = storage.join(self._manifest.directory, name)
        if storage.size(path) is None:
            return
        copy = self._folder / name
        copy.parent.mkdir(exist_ok=True)
        storage.replace(copy, storage.read_bytes(path))


def _index_of(number: int, own: np.ndarray, places: _Rows) -> np.ndarray:
    """Return the index of a shard of embeddings.

    Args:
      number: of the shard.
      own: the index of its pictures, whose labels and sources it has.
      places: where its records lie.
    """
    index = own.copy()
    index["shard"] = number
    for name, column in zip(_PLACES, np.array(places, np.int64).T, strict=True):
        index[name] = column
    return index
