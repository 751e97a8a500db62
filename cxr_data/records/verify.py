"""Checks a finished dataset: every byte, checksum, count, label and value against the manifest."""

import hashlib
import struct
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from crc32c import crc32c

from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.core.wording import counted
from cxr_data.records import example
from cxr_data.records.index import check_labels, rows_by_shard
from cxr_data.records.layout import INDEX_NAME, QUARANTINE_NAME
from cxr_data.records.manifest import Manifest, Shard, names_of, read_manifest
from cxr_data.records.quarantine_file import read_quarantine
from cxr_data.records.tfrecord import (
    FRAME_HEADER_BYTES,
    MOST_BESIDES_PIXELS,
    DamagedRecordError,
    masked_crc,
    read_frames,
)
from cxr_data.records.value_range import UNIT

# The largest bit patterns of a value in [0, 1]. As unsigned integers, negative numbers,
# infinities and NaN are all larger, so one maximum checks everything.
_LARGEST: dict[str, tuple[np.dtype[Any], int]] = {
    "float32": (np.dtype("<u4"), 0x3F800000),
    "float16": (np.dtype("<u2"), 0x3C00),
    "uint8": (np.dtype("u1"), 0xFF),
}


@dataclass(frozen=True)
class Verified:
    """The outcome: what was read, and everything that is wrong, a line each."""

    records: int
    bytes: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _ShardCheck:
    problems: tuple[str, ...]
    fields: tuple[example.Fields, ...]


def verify_dataset(directory: str, threads: int, tick: Callable[[Shard], None] = lambda _: None) -> Verified:
    """Read a whole dataset and compare it with its manifest.

    Args:
      directory: local or remote.
      threads: shards read at once; hashing leaves the interpreter lock alone.
      tick: is called after each shard.

    Raises:
      DataError: manifest or index cannot be read, or a shard is missing or of another size.
    """
    made = read_manifest(directory)

    def check(part: tuple[Shard, np.ndarray]) -> _ShardCheck:
        shard, rows = part
        result = _check_shard(made, shard, rows)
        tick(shard)
        return result

    with ThreadPoolExecutor(threads) as pool:
        checks = list(pool.map(check, rows_by_shard(made)))
    problems = [problem for result in checks for problem in result.problems]
    problems += _check_whole(made, checks)
    return Verified(made.records, sum(shard.bytes for shard in made.shards), tuple(problems))


def _check_shard(made: Manifest, shard: Shard, rows: np.ndarray) -> _ShardCheck:
    """Read a shard once. Behind a damaged record it goes on where the next one lies, as the index says.

    Each damaged record is one line. Where there is one, the SHA-256 of the shard says nothing more.
    """
    path = made.path(shard)
    problems: list[str] = []
    fields: list[example.Fields] = []
    digest = hashlib.sha256()
    largest = made.payload_bytes + MOST_BESIDES_PIXELS
    start: int | None = 0
    try:
        with storage.local(path) as file:
            while start is not None:
                try:
                    frames = read_frames(file, path, offset=start, number=len(fields), largest=largest)
                    for offset, data in frames:
                        _hash_frame(digest, data)
                        number = len(fields)
                        found = _check_record(made, rows, number, offset, data)
                        if found.problems:
                            problems.append(f"{path}: record {number} at byte {offset}: {found.problems[0]}")
                        fields += [one.named(f"{shard.split}/{shard.name}", number) for one in found.fields]
                    start = None
                except DamagedRecordError as error:
                    problems.append(str(error))
                    fields += map(_said_by_index, rows[len(fields) : len(fields) + 1])
                    start = int(rows["record"][len(fields)]) if len(fields) < len(rows) else None
    except DataError as error:
        return _ShardCheck((*problems, str(error)), tuple(fields))
    if len(fields) != shard.records:
        problems.append(f"{path}: {counted(len(fields), 'record')}, the manifest says {shard.records}")
    if not problems and digest.hexdigest() != shard.sha256:
        problems.append(f"{path}: SHA-256 differs from the manifest")
    return _ShardCheck(tuple(problems), tuple(fields))


def _said_by_index(row: np.void) -> example.Fields:
    """Return what the index says of a record that is damaged: its labels, by which it is counted."""
    labels = tuple(row["labels"].tolist()) if "labels" in (row.dtype.names or ()) else ()
    return example.Fields(int(row["label"]), "", "", "", labels=labels)


def _hash_frame(digest: "hashlib._Hash", data: memoryview) -> None:
    """Add a frame whose checksums are known to be right, so that the file is read once only."""
    length = struct.pack("<Q", len(data))
    digest.update(length + struct.pack("<I", masked_crc(crc32c(length))))
    digest.update(data)
    digest.update(struct.pack("<I", masked_crc(crc32c(data))))


def _check_record(
    made: Manifest, rows: np.ndarray, number: int, offset: int, data: memoryview
) -> _ShardCheck:
    try:
        parsed = example.parse_example(data)
    except ValueError as error:
        return _ShardCheck((str(error),), tuple(map(_said_by_index, rows[number : number + 1])))
    start, size = parsed.payload_start, parsed.payload_bytes
    problems: list[str] = []
    expected = made.size**2 * made.channels * np.dtype(made.dtype).itemsize
    if size != expected or start + size > len(data):
        problems.append(f"{size} bytes of pixels, {expected} expected")
    else:
        problems += _check_values(made, data[start : start + size])
    problems += _check_labels(made, parsed.fields)
    if number < len(rows):
        payload = offset + FRAME_HEADER_BYTES + start
        row: tuple[Any, ...] = (parsed.fields.label, offset, len(data), payload)
        row += (crc32c(data[start : start + size]), _source_of(made, parsed.fields))
        if made.findings:
            row += (parsed.fields.labels,)
        said = _plain(rows[number])[1:]
        if row != said:
            problems.append(f"{INDEX_NAME} says {said}, found {row}")
    if not problems:
        return _ShardCheck((), (parsed.fields,))
    # As the index counts it, so that the record is not counted a second time as one too few of its class.
    counted_as = next(map(_said_by_index, rows[number : number + 1]), parsed.fields)
    fields = parsed.fields._replace(label=counted_as.label, labels=counted_as.labels)
    return _ShardCheck(("; ".join(problems),), (fields,))


def _check_labels(made: Manifest, fields: example.Fields) -> list[str]:
    if not made.findings:
        is_class = 0 <= fields.label < len(made.class_names)
        return [] if is_class else [f"label {fields.label} is none of {len(made.class_names)} classes"]
    try:
        check_labels(fields.labels, made.findings)
    except ValueError as error:
        return [str(error)]
    return []


def _source_of(made: Manifest, fields: example.Fields) -> int:
    """Return the number of a record's source; -1, which no index holds, for one that the manifest lacks."""
    if not made.says_sources:
        return 0
    return made.sources.index(fields.source) if fields.source in made.sources else -1


def _plain(row: np.void) -> tuple[Any, ...]:
    """Return a row of the index as Python's own numbers and tuples."""
    return tuple(tuple(v.tolist()) if isinstance(v, np.ndarray) else v for v in row.item())


def _check_values(made: Manifest, payload: memoryview) -> list[str]:
    values = np.frombuffer(payload, made.dtype)
    if made.embedding:
        if np.isfinite(values).all():
            return []
        first = int(np.argmin(np.isfinite(values)))
        return [f"feature {first} is {values[first]}, not a finite number"]
    if made.value_range == UNIT:
        integer, largest = _LARGEST[made.dtype]
        bits = np.frombuffer(payload, integer)
        if int(bits.max()) <= largest:
            return []
        wrong = bits > largest
    else:
        wrong = ~((values >= made.value_range[0]) & (values <= made.value_range[1]))
        if not wrong.any():
            return []
    first = int(np.argmax(wrong))
    low, high = made.value_range
    return [f"value {first} is {values[first]}, outside of [{low:g}, {high:g}]"]


def _check_whole(made: Manifest, checks: list[_ShardCheck]) -> list[str]:
    """Return what only all shards together can show: counts, ids, groups, and the quarantine's lines."""
    problems = []
    counts: dict[str, Counter[str]] = {split: Counter() for split in made.splits}
    ids: Counter[str] = Counter()
    split_of: dict[str, str] = {}
    for shard, result in zip(made.shards, checks, strict=True):
        counts[shard.split].update(name for one in result.fields for name in names_of(one, made.class_names))
        for fields in (one for one in result.fields if one.id):
            ids[fields.id] += 1
            first = split_of.setdefault(fields.group, shard.split)
            if first != shard.split:
                problems.append(f"group {fields.group!r} is in splits {first} and {shard.split}")
    problems += [f"id {name!r} occurs {count} times" for name, count in ids.items() if count > 1]
    for split, by_label in counts.items():
        found = {name: by_label[name] for name in made.class_names}
        if found != dict(made.counts.get(split, {})):
            problems.append(
                f"split {split} holds {found}, the manifest says {dict(made.counts.get(split, {}))}"
            )
    return sorted(set(problems)) + _check_quarantine(made)


def _check_quarantine(made: Manifest) -> list[str]:
    if storage.size(storage.join(made.directory, QUARANTINE_NAME)) is None:
        return [f"{made.directory} has no {QUARANTINE_NAME}"]
    try:
        left_out = len(read_quarantine(made.directory))
    except DataError as error:
        return [str(error)]
    discovered = made.source_counts.get("discovered")
    if discovered != made.records + left_out:
        return [f"{discovered} files were discovered, but {made.records} + {left_out} are accounted for"]
    return []
