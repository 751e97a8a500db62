"""The list of what is left out of a dataset: a line of JSON for each input, `Quarantined`, by id."""

import json
from collections.abc import Iterable
from dataclasses import asdict

from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.core.schema import checked, parse_json
from cxr_data.records.layout import QUARANTINE_NAME
from cxr_data.sources.quarantine import Quarantined


def write_quarantine(directory: str, entries: Iterable[Quarantined]) -> None:
    """Write the quarantine, one line per entry, by id."""
    lines = (json.dumps(asdict(entry)) + "\n" for entry in sorted(entries))
    storage.replace(storage.join(directory, QUARANTINE_NAME), "".join(lines).encode())


def read_quarantine(directory: str) -> tuple[Quarantined, ...]:
    """Read the quarantine. Raises DataError if it is missing or damaged."""
    path = storage.join(directory, QUARANTINE_NAME)
    try:
        return tuple(checked(Quarantined, parse_json(line)) for line in storage.read_bytes(path).splitlines())
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error})") from error
