"""A shard that is being written: it has its name only when it is whole and on the disk."""

import hashlib
import os
from dataclasses import dataclass, field

import numpy as np
from crc32c import crc32c

from cxr_data.core import storage
from cxr_data.records import example
from cxr_data.records.tfrecord import frame


@dataclass
class ShardFile:
    """A shard being written, which has no name yet."""

    path: str
    rows: list[tuple[int, ...]] = field(default_factory=list)
    offset: int = 0

    def __post_init__(self) -> None:
        self.hash = hashlib.sha256()
        self._file = storage.store_of(self.path).new_file(self.path)

    def append(self, fields: example.Fields, payload: np.ndarray) -> int:
        """Append one record and return its bytes."""
        header = example.example_header(fields, payload.dtype.name, payload.nbytes)
        return self.append_behind(header, fields.label, payload)

    def append_behind(self, header: bytes, label: int, payload: np.ndarray) -> int:
        """Append one record of an `example_header` and its pixels, and return its bytes."""
        pixels = memoryview(payload.reshape(-1).view(np.uint8).data)
        head, tail = frame(header, pixels)
        length = len(header) + len(pixels)
        self.rows.append((label, self.offset, length, self.offset + len(head), crc32c(pixels)))
        for part in (head, pixels, tail):
            self.hash.update(part)
        _write_all(self._file.descriptor, [memoryview(head), pixels, memoryview(tail)])
        written = len(head) + len(pixels) + len(tail)
        self.offset += written
        return written

    def finish(self) -> None:
        """Make the shard appear, whole and on disk; nothing appears if it has no records."""
        if self.rows:
            self._file.commit()

    def close(self) -> None:
        """Close the file, and remove it unless it is finished."""
        self._file.close()


def _write_all(file: int, parts: list[memoryview]) -> None:
    while parts:
        count = os.writev(file, parts)
        while parts and count >= len(parts[0]):
            count -= len(parts.pop(0))
        if parts:  # a short write: a signal, or the disk is about to be full
            parts[0] = parts[0][count:]
