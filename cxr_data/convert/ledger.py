"""The ledger: which shards are whole, so that a run that was stopped goes on.

`ledger.jsonl` begins with what the run was asked for; each further line is a finished
shard and all that the manifest needs of it. A line is appended, and synced, after its
shard has its final name. A run that was killed leaves whole lines and perhaps one torn
one, which is dropped. When everything is finished the ledger is written again in plan
order, so that it too is the same for any number of workers.

Where nothing can be appended to one file (by Beam's workers, or on an object store), a ledger
of one shard is left beside it, `SHARD.done`, and taken over by the driver or at the end.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cxr_data.convert.shard_writer import ShardResult
from cxr_data.core import local_store, storage
from cxr_data.core.errors import DataError
from cxr_data.core.schema import FileName, checked, parse_json
from cxr_data.images import measure
from cxr_data.records.layout import DONE_SUFFIX, LEDGER_NAME, SHARD_SUFFIX

SCHEMA = "cxr.ledger/2"


@dataclass(frozen=True)
class Header:
    """The settings and the plan of a run.

    Attributes:
      config: the flags that decide the output, and the versions of what decides the pixels.
      plan: digest of the plan.
    """

    config: Mapping[str, Any]
    plan: str

    def difference(self, other: "Header") -> str:
        """Return the settings in which `other` differs; empty if both are the same."""
        names = [n for n in {**self.config, **other.config} if self.config.get(n) != other.config.get(n)]
        if names:
            return "; ".join(
                f"{n} was {self.config.get(n)!r} and is now {other.config.get(n)!r}" for n in names
            )
        if self.plan == other.plan:
            return ""
        return "the source has other files, labels or groups now, or another version of cxr cut the shards"


@dataclass(frozen=True)
class _HeaderLine:
    schema: str
    config: Mapping[str, Any]
    plan: str


def read_ledger(directory: str) -> tuple[Header, dict[str, ShardResult]] | None:
    """Return the header and {shard name: result} of a ledger, or None where there is none.

    Raises:
      DataError: the first line is damaged.
    """
    present = storage.names(directory)
    if LEDGER_NAME not in present:
        return None
    header, results = _read(storage.join(directory, LEDGER_NAME))
    # Of a driver that was killed before it took them over.
    for done in (name for name in present if name.endswith(DONE_SUFFIX)):
        with contextlib.suppress(DataError):
            other, finished = _read(storage.join(directory, done))
            if other == header:
                results |= finished
    return header, results


def _read(path: str) -> tuple[Header, dict[str, ShardResult]]:
    lines = storage.read_bytes(path).split(b"\n")
    try:
        first = checked(_HeaderLine, parse_json(lines[0]))
        if first.schema != SCHEMA:
            raise ValueError(f"schema {first.schema[:60]!r}")
        header = Header(first.config, first.plan)
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): --overwrite starts over") from error
    results: dict[str, ShardResult] = {}
    for line in lines[1:]:
        # A torn last line is a shard that is done again, and so is any other damaged line.
        with contextlib.suppress(ValueError):
            result = _from_json(parse_json(line))
            results[result.name] = result
    return header, results


def write_ledger(directory: str, header: Header, results: Iterable[ShardResult]) -> None:
    """Write a whole ledger at once."""
    lines = [_header_line(header)] + [_line(result) for result in results]
    storage.replace(storage.join(directory, LEDGER_NAME), b"".join(lines))


def append_result(directory: str, header: Header, result: ShardResult) -> None:
    """Add a finished shard, on disk when this returns; nothing can be appended to an object."""
    if storage.store_of(directory).can_append:
        local_store.append(storage.join(directory, LEDGER_NAME), _line(result))
    else:
        write_beside(directory, header, result)


def belongs_to(directory: str, header: Header) -> bool:
    """Return whether the ledger of a directory is that of the run with this header."""
    path = storage.join(directory, LEDGER_NAME)
    line = _header_line(header)
    if (storage.size(path) or 0) < len(line):
        return False
    with storage.opened_at(path) as read_at:
        return read_at(len(line), 0) == line


def write_beside(directory: str, header: Header, result: ShardResult) -> None:
    """Leave a finished shard's result beside it, for `take_beside`; any number of writers may do so."""
    path = storage.join(directory, result.name + DONE_SUFFIX)
    storage.replace(path, _header_line(header) + _line(result), unique=True)


def take_beside(directory: str, header: Header, names: Iterable[str]) -> Iterator[ShardResult]:
    """Yield the results that workers left for the shards `names`; local ones are removed after that."""
    present = set(storage.names(directory))
    for name in sorted(names):
        if name + DONE_SUFFIX in present:
            path = storage.join(directory, name + DONE_SUFFIX)
            written_for, results = _read(path)
            if written_for == header and name in results:
                yield results[name]
            # Where nothing can be appended it is the ledger's line, until `forget_beside`.
            if storage.store_of(directory).can_append:
                storage.remove(path)


def forget_beside(directory: str) -> None:
    """Remove what workers left beside their shards, once the ledger has all of it."""
    for name in storage.names(directory):
        if name.endswith(SHARD_SUFFIX + DONE_SUFFIX):
            storage.remove(storage.join(directory, name))


def _header_line(header: Header) -> bytes:
    return (json.dumps({"schema": SCHEMA, "config": header.config, "plan": header.plan}) + "\n").encode()


def _line(result: ShardResult) -> bytes:
    return (json.dumps(asdict(result), separators=(",", ":")) + "\n").encode()


def _from_json(document: Any) -> ShardResult:
    """Return a line of the ledger. Raises ValueError: it is none, or contradicts itself."""
    result = checked(ShardResult, document)
    checked(FileName, result.name)
    if not result.records == len(result.rows) == len(result.sources):
        raise ValueError(f"{result.records} records, {len(result.rows)} rows, {len(result.sources)} sources")
    if result.features and len(measure.decode_rows(result.features)) != result.records:
        raise ValueError("features of another number of records")
    return result
