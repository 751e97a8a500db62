"""Tables as CSV: every cell is read back as it was, and a spreadsheet that separates at commas runs none.

A spreadsheet takes a cell that begins with `=`, `+`, `-`, `@` or a tab for a formula, which may start a
program or send the sheet away. The names of files may begin so. Such a cell is written with `'` before it, as
people type one to say that it is text; a number stays as it is. The reader takes this `'` away again.
Where a spreadsheet separates cells at `;` or tabs, as some languages set it, a cell that holds one becomes
two, and nothing guards the second: choose the comma when such a table is opened.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # the last four are the wide forms
_QUOTE = "'"


def csv_bytes(rows: Iterable[Sequence[object]], line_end: str = "\n") -> bytes:
    """Return rows of cells as CSV; None is an empty cell."""
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator=line_end)
    quoted = csv.writer(text, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    for row in rows:
        cells = ["" if cell is None else _as_text(str(cell)) for cell in row]
        # Python's writer does not quote a carriage return, and its reader takes one for the end of a line.
        (quoted if any("\r" in cell for cell in cells) else plain).writerow(cells)
    # File names that are not UTF-8 are surrogates in Python; the bytes go out as they came in.
    return text.getvalue().encode("utf-8", "surrogateescape")


def csv_rows(
    text: str, *, skips_blanks: bool = False, delimiter: str = ","
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the last line of each row, from 1 on, and its cells.

    Args:
      text: of the table, with its line ends as they are.
      skips_blanks: whether blanks after a delimiter are no part of a cell.
      delimiter: between cells.

    Raises:
      csv.Error: it is no CSV.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=skips_blanks)
    for row in reader:
        yield reader.line_num, [cell[1:] if _was_quoted(cell) else cell for cell in row]


def _as_text(cell: str) -> str:
    return _QUOTE + cell if _FORMULA.match(cell) and not _is_number(cell) else cell


def _was_quoted(cell: str) -> bool:
    return cell.startswith(_QUOTE) and bool(_FORMULA.match(cell))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.strip() == cell
