"""A table as a file: CSV with commas, semicolons or tabs, with or without a byte order mark, also as gzip."""

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cxr_data.core import storage
from cxr_data.core.csv_table import csv_rows
from cxr_data.core.errors import DataError, UsageError

LARGEST_TABLE = 1 << 30
"""Most bytes of the text of a table that a gzip file holds, which may be a thousand times its size."""

PATIENT_COLUMNS = ("patient", "group", "patient_id", "patientid", "patient id")
"""Names of the column that says whose picture it is, the most telling first."""

_PART = 1 << 20
_GZIP = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Line:
    """One line of a table; a cell is found by its column, whatever the case of its name.

    Attributes:
      cells: by the name of their column in small letters.
      file: name of the table's file.
      number: of the line in it, from 1 on.
    """

    cells: Mapping[str, str]
    file: str
    number: int

    @property
    def where(self) -> str:
        """Its file and number, for messages."""
        return f"{self.file} line {self.number}"

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column.lower(), "")


@dataclass(frozen=True)
class Table:
    """A table that was read.

    Attributes:
      path: as the flag has it.
      columns: of the first line, stripped.
      text: all of it.
      delimiter: between cells.
    """

    path: str
    columns: tuple[str, ...]
    text: str
    delimiter: str

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    def has(self, *columns: str) -> bool:
        """Whether it has all these columns."""
        return {column.lower() for column in columns} <= {column.lower() for column in self.columns}

    def require(self, *columns: str) -> None:
        """Raise DataError for a column that is not there."""
        missing = [column for column in columns if not self.has(column)]
        if missing:
            raise DataError(
                f"{self.path} has no column {missing[0]!r}, only {', '.join(self.columns[:20])}: "
                "give --labels the format of this table"
            )

    def lines(self) -> Iterator[Line]:
        """Yield the lines below the first, but for empty ones. Raises DataError: the CSV is malformed."""
        number, rows = 1, _rows(self.text, self.delimiter)
        names = [column.lower() for column in self.columns]
        try:
            next(rows)
            for number, cells in rows:
                stripped = (cell.strip() for cell in cells)
                yield Line(dict(zip(names, stripped, strict=False)), self.name, number)
        except csv.Error as error:
            raise DataError(f"{self.path} line {number + 1}: {error}") from error

    def names_in_lines(self) -> Iterator[tuple[str, str]]:
        """Yield the names of a list, which has no columns, a name a line; each with its file and line."""
        for number, line in enumerate(self.text.splitlines(), start=1):
            if line.strip():
                yield line.strip(), f"{self.name} line {number}"


def read_table(path: str, flag: str = "table") -> Table:
    """Read a table, local or remote.

    Args:
      path: of the file.
      flag: that named it.

    Raises:
      UsageError: there is no such file.
      DataError: it is no text, or has no first line.
    """
    if storage.size(path) is None:
        raise UsageError(f"--{flag}={path}: no such file; give the path of the table")
    text = _text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise DataError(
            f"{path} is empty: expected is a table with the names of its columns in the first line"
        )
    delimiter = max(_DELIMITERS, key=first.count)
    try:
        _, columns = next(_rows(text, delimiter))
    except csv.Error as error:
        raise DataError(f"{path} line 1: {error}") from error
    return Table(path, tuple(column.strip() for column in columns), text, delimiter)


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line that is not empty."""
    for number, cells in csv_rows(text, skips_blanks=True, delimiter=delimiter):
        if any(cell.strip() for cell in cells):
            yield number, cells


def _inflated(path: str, content: bytes) -> bytes:
    text = bytearray()
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        while part := file.read(_PART):
            text += part
            if len(text) > LARGEST_TABLE:
                raise DataError(
                    f"{path} holds more than {LARGEST_TABLE:,} bytes of text: give the table of one data set"
                )
    return bytes(text)


def _text(path: str) -> str:
    content = storage.read_bytes(path)
    try:
        if content.startswith(_GZIP):
            content = _inflated(path, content)
        encoding = "utf-16" if content.startswith(_UTF16) else "utf-8-sig"
        return content.decode(encoding)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}): download it again") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}): save it as CSV UTF-8") from error
