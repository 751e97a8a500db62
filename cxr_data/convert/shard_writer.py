"""Write one planned shard: read, decode and resize -> encode -> append, then fsync and rename.

A shard has its final name only when it is whole. Nothing here depends on how many
workers there are, and nothing here imports TensorFlow.
"""

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from cxr_data.convert.plan import ShardPlan
from cxr_data.core import storage
from cxr_data.images import measure
from cxr_data.images.guarded import Picture, SourceFile
from cxr_data.images.preprocess import PixelOptions, encode
from cxr_data.images.undecodable import Undecodable
from cxr_data.records.layout import SHARD_SUFFIX
from cxr_data.records.shard_file import ShardFile
from cxr_data.sources.quarantine import Quarantined


@dataclass(frozen=True)
class ShardResult:
    """What became of a planned shard. A shard without records has no file.

    Attributes:
      name: of the file.
      records, bytes, sha256: of the file.
      rows: (label, record, length, payload, crc32c) of each record, as in `INDEX_DTYPE`; the plan knows the
        rest of its row.
      sources: (id, bytes, sha256) of each record's source file.
      quarantined: the planned images that were not written.
      sums, squares: of the 8-bit pixels, one number per channel.
      features: of each record, as `measure.encode_rows` writes them.
    """

    name: str
    records: int
    bytes: int
    sha256: str
    rows: tuple[tuple[int, ...], ...] = ()
    sources: tuple[tuple[str, int, str], ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    sums: tuple[int, ...] = ()
    squares: tuple[int, ...] = ()
    features: str = ""


NOTHING = -1
"""The position of no image."""


class Watcher(Protocol):
    """Receives what a worker does, cheaply and often."""

    def begin(self, position: int) -> None:
        """Note that the worker begins the image at `position` of the shard, or `NOTHING`."""

    def done(self, read: int, written: int, quarantined: bool) -> None:
        """Note that it is finished, with the bytes read and written."""


def remove_attempts(directory: str) -> None:
    """Remove the unfinished files of attempts that were killed."""
    storage.store_of(directory).remove_unfinished(directory, f"*{SHARD_SUFFIX}*")


def write_shard(
    plan: ShardPlan,
    directory: str,
    options: PixelOptions,
    read: Callable[[SourceFile], Picture],
    watcher: Watcher,
    condemned: Mapping[int, Quarantined] | None = None,
    may_go_on: Callable[[], bool] = lambda: True,
) -> ShardResult:
    """Convert the images of a shard and write it.

    Args:
      plan: the shard.
      directory: where it is to appear.
      options: how images become records.
      read: reads a file, as `guarded.read_picture` does; it may raise Undecodable.
      watcher: receives every image.
      condemned: positions that are not to be tried, because they ended a worker before.
      may_go_on: asked before every image, and before the shard is given its name.

    Raises:
      OSError: the output cannot be written; nothing is left of the shard then.
      DataError: an object store does not answer; the same holds.
    """
    out = ShardFile(os.path.join(directory, plan.name))
    sources: list[tuple[str, int, str]] = []
    quarantined: list[Quarantined] = []
    rows: list[np.ndarray] = []
    sums, squares = np.zeros(options.channels, np.int64), np.zeros(options.channels, np.int64)
    try:
        for position, entry in enumerate(plan.entries):
            _require(may_go_on())
            watcher.begin(position)
            if condemned and position in condemned:
                quarantined.append(condemned[position])
                watcher.done(0, 0, True)
                continue
            try:
                picture = read(SourceFile(entry.path, entry.bytes))
            except Undecodable as error:
                quarantined.append(Quarantined(entry.id, error.reason, error.detail, error.sha256))
                watcher.done(entry.bytes if error.sha256 else 0, 0, True)
                continue
            written = out.append(entry.fields(picture.sha256), encode(picture.pixels, options))
            sources.append((entry.id, picture.bytes, picture.sha256))
            rows.append(measure.row_of(picture.pixels, picture.facts))
            _add_statistics(picture.pixels, sums, squares)
            watcher.done(picture.bytes, written, False)
        _require(may_go_on())
        watcher.begin(NOTHING)  # an upload may take longer than an image may
        out.finish()
    finally:
        out.close()
    return ShardResult(
        name=plan.name,
        records=len(out.rows),
        bytes=out.offset,
        sha256=out.hash.hexdigest(),
        rows=tuple(out.rows),
        sources=tuple(sources),
        quarantined=tuple(quarantined),
        sums=tuple(sums.tolist()),
        squares=tuple(squares.tolist()),
        features=measure.encode_rows(rows),
    )


def _require(may_go_on: bool) -> None:
    if not may_go_on:
        raise OSError(errno.ECANCELED, "the run that this worker belongs to has ended")


def _add_statistics(image: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> None:
    """Add the exact sums of an image's 8-bit pixels; a gray one counts for every channel."""
    for channel in range(len(sums)):
        if channel == 0 or image.ndim == 3:
            plane = np.ascontiguousarray(image[..., channel]) if image.ndim == 3 else image
            total, square = int(cv2.sumElems(plane)[0]), int(cv2.norm(plane, cv2.NORM_L2SQR))
        sums[channel] += total
        squares[channel] += square
