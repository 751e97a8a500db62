"""Join the rows of a table with lists that say the split of each picture."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from cxr_data.sources.tables.row import Row


@dataclass(frozen=True)
class SplitEntry:
    """A picture in a list of a split.

    Attributes:
      path: of the picture, as the rows have it.
      split: that the list says.
      where: file and line, for messages.
      patient: that the list says; empty where it says none.
    """

    path: str
    split: str
    where: str
    patient: str = ""


def with_splits(rows: Iterable[Row], listed: Iterable[SplitEntry]) -> tuple[list[Row], dict[str, str]]:
    """Return the rows with their splits, and where a list names a picture that has no row.

    A picture that is listed again, or with another patient than that of its row, gets a further row for each
    such line: it is a row listed twice, or one that contradicts the first.
    """
    by_path: dict[str, list[SplitEntry]] = defaultdict(list)
    for line in listed:
        by_path[line.path].append(line)
    joined: list[Row] = []
    named: set[str] = set()
    for row in rows:
        lines = by_path.get(row.path, [])
        first = replace(row, split=lines[0].split) if lines else row
        joined.append(first)
        if row.path not in named:
            joined += [
                replace(row, split=line.split, patient=line.patient or row.patient, where=line.where)
                for number, line in enumerate(lines)
                if number or line.patient not in ("", row.patient)
            ]
        named.add(row.path)
    return joined, {path: lines[0].where for path, lines in by_path.items() if path not in named}
