"""Records that a run leaves out: found before the first epoch, by reading everything once.

A record with a broken length also hides where the next one starts, and TensorFlow's reader
gives up the rest of a shard at the first broken record. The index knows where every record
lies, so each is judged by itself. What is found is left out of the order of the examples:
batches stay full, and nothing can loop over a record that never comes.
"""

import concurrent.futures
import dataclasses
import os

import numpy as np
from crc32c import crc32c

from cxr_data.core import exact_read, local_store
from cxr_data.core.errors import DataError
from cxr_data.core.wording import counted
from cxr_data.records.index import rows_by_shard
from cxr_data.records.manifest import Manifest


@dataclasses.dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used.

    Attributes:
      position: its number within the split.
      shard: path of its shard.
      number: its number within the shard.
      reason: what is wrong.
    """

    position: int
    shard: str
    number: int
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}: record {self.number}: {self.reason}"


def find_bad_records(manifest: Manifest, split: str, *, threads: int = 2) -> list[BadRecord]:
    """Read the pixels of every record of a local split and check them against the index.

    Raises:
      DataError: the split or the index is not there.
    """
    tasks = []
    position = 0
    for shard, rows in rows_by_shard(manifest, split):
        tasks.append((manifest.path(shard), rows, manifest.payload_bytes, position))
        position += len(rows)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda task: _check_shard(*task), tasks)
        return [bad for shard in found for bad in shard]


def refuse_too_many(bad: list[BadRecord], *, most: int) -> None:
    """Stop a run whose data has too many damaged records.

    Raises:
      DataError: more than `most` records are bad; names the first.
    """
    if len(bad) > most:
        raise DataError(
            f"{counted(len(bad), 'damaged record')}, more than --max_bad_records={most}; "
            f"the first is {bad[0]}"
        )


def _check_shard(path: str, rows: np.ndarray, payload_bytes: int, first_position: int) -> list[BadRecord]:
    def bad(number: int, reason: str) -> BadRecord:
        return BadRecord(first_position + number, path, number, reason)

    try:
        file = local_store.open_regular(path)
    except OSError as error:
        return [bad(number, error.strerror or "cannot be opened") for number in range(len(rows))]
    try:
        found = []
        for number, row in enumerate(rows):
            reason = _check_payload(file, int(row["payload"]), payload_bytes, int(row["crc32c"]))
            if reason:
                found.append(bad(number, reason))
        return found
    finally:
        os.close(file)


def _check_payload(file: int, offset: int, size: int, checksum: int) -> str:
    try:
        content = exact_read.read_at(file, size, offset)
    except EOFError:
        return "the shard ends inside it"
    except OSError as error:
        return error.strerror or "cannot be read"
    return "" if crc32c(content) == checksum else "fails its checksum"
