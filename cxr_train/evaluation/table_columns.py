"""Columns of a table of the images, such as view, sex or age, for `--by`."""

import pathlib
from collections.abc import Sequence

from cxr_data.core.errors import DataError, UsageError
from cxr_data.sources.tables.picture_files import PictureFiles
from cxr_data.sources.tables.table_file import Line, Table, read_table


def read_columns(path: pathlib.Path, names: Sequence[str], ids: Sequence[str]) -> dict[str, list[str]]:
    """Read columns of a CSV file for the images of some records.

    A row belongs to the image whose path one of its columns holds, or an end of that path, such as the file's
    name, with or without the ending of an image; an end that several images share names none. The cell may
    begin with folders that the image's path lacks, but all the folders that both have agree. Of the columns,
    the one that names most images is taken.

    Args:
      path: of the table, see `table_file`.
      names: of the columns, in any case.
      ids: [N], of the records.

    Returns:
      {name: values [N]}; an empty value for an image that has no row.

    Raises:
      UsageError: the file or a column is not there.
      DataError: the file is no table, no row belongs to any of the images, or the values of two rows of an
        image differ.
    """
    table = open_table(path, names)
    rows = list(table.lines())
    columns = table.columns
    files = PictureFiles(ids)
    found = {column: [_only(files.find_agreeing(row[column])) for row in rows] for column in columns}
    key = max(columns, key=lambda column: len({*found[column]} - {None}))
    values = {name: [""] * len(ids) for name in names}
    if not {*found[key]} - {None}:
        raise DataError(
            f"--by_table={path}: no row names an image of this data, such as {ids[0]}; one column must hold "
            "the path or the name of each file"
        )
    rows_of: dict[int, Line] = {}
    for row, number in zip(rows, found[key], strict=True):
        if number is not None:
            first = rows_of.setdefault(number, row)
            for name in names:
                if row[name] != first[name]:
                    raise DataError(
                        f"--by_table={path}: the column {name} of {ids[number]} is {first[name]!r} in "
                        f"{first.where} and {row[name]!r} in {row.where}; keep one of the rows"
                    )
                values[name][number] = row[name]
    return values


def open_table(path: pathlib.Path, names: Sequence[str]) -> Table:
    """Read a table that has these columns. Raises as `read_columns`, which says the rest."""
    table = read_table(str(path), flag="by_table")
    for name in names:
        if not table.has(name):
            raise UsageError(f"--by={name}: {path} has no such column, only {', '.join(table.columns)}")
    return table


def _only(images: Sequence[int]) -> int | None:
    """Return the one image that a cell names; None where it is none, or several."""
    return images[0] if len(images) == 1 else None
