"""What a table of findings says of one picture, and what a format has to declare."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cxr_data.core.errors import DataError
from cxr_data.sources.finding_values import ABSENT, PRESENT, UNCERTAIN, UNKNOWN
from cxr_data.sources.tables.table_file import Line, Table


@dataclass(frozen=True)
class Row:
    """One picture, as a table has it.

    Attributes:
      path: of the picture, or the end of it; with or without the ending of an image.
      labels: {finding: one of `FINDING_VALUES`}, of the findings that the row speaks of.
      rest: what the row says of all other findings.
      where: file and line, for messages.
      patient, view, split, source: as the table has them; empty where it does not say.
      against: file and line of what contradicts the row, where its values do not show that; else empty.
    """

    path: str
    labels: Mapping[str, int]
    rest: int
    where: str
    patient: str = ""
    view: str = ""
    split: str = ""
    source: str = ""
    against: str = ""


@dataclass(frozen=True)
class Contents:
    """All that the tables say.

    Attributes:
      findings: in the order of the tables.
      rows: at most one a picture, where the table is as it should be.
      notes: what a user should know, a line each.
      without_row: {picture that a list names, and no row: file and line of the list}.
    """

    findings: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())
    without_row: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TableFormat:
    """A format of tables.

    Attributes:
      source: name of the data set, for `Fields.source`; empty for one's own.
      files: the files that --table takes, in words.
      blank: what a blank says, and who says so.
      read: reads the tables.
      least_parts: number of the last parts of a path that tell a picture from all others; 0 for all.
    """

    source: str
    files: str
    blank: str
    read: Callable[[Sequence[Table], "Reading"], Contents]
    least_parts: int = 1


READERS = ("majority", "any")
"""What several readers of a picture say together."""


@dataclass(frozen=True)
class Reading:
    """How tables are read, as flags say.

    Attributes:
      findings: those to keep, in their order; empty for all.
      readers: one of `READERS`.
    """

    findings: tuple[str, ...] = ()
    readers: str = "majority"


_VALUES = {"1": PRESENT, "0": ABSENT, "-1": UNCERTAIN}


def value_of(line: Line, column: str, blank: int) -> int:
    """Return what a cell says: 1, 0, -1 (also as 1.0 or 1,0), or nothing.

    Args:
      line: of the table.
      column: that names the finding.
      blank: what nothing says.

    Raises:
      DataError: the cell holds something else.
    """
    text = line[column]
    if not text or text.lower() == "nan":
        return blank
    value = _VALUES.get(_number(text))
    if value is None:
        raise DataError(
            f"{line.where}: {column!r} is {text!r}: a finding is 1 (present), 0 (absent), -1 (uncertain) or "
            "blank"
        )
    return value


def is_value(text: str) -> bool:
    """Whether a cell may be what a table says of a finding."""
    return not text or text.lower() == "nan" or _number(text) in _VALUES


def _number(text: str) -> str:
    whole, point, decimals = text.replace(",", ".").partition(".")
    return whole if not point or not decimals.strip("0") else text


def values_of(line: Line, findings: Sequence[str], blank: int = UNKNOWN) -> dict[str, int]:
    """Return {finding: value} of a line with a column for each finding. Raises DataError: as `value_of`."""
    return {finding: value_of(line, finding, blank) for finding in findings}
