"""Columns of a table of the images, such as view, sex or age, for `--by`."""

import collections
import csv
import pathlib
from collections.abc import Mapping, Sequence

from cxr_data.core.errors import DataError, UsageError


def read_columns(path: pathlib.Path, names: Sequence[str], ids: Sequence[str]) -> dict[str, list[str]]:
    """Read columns of a CSV file for the images of some records.

    A row belongs to the image whose path one of its columns holds, or an end of that path, such as the file's
    name, or the name without its suffix; an end that several images share names none. Of the columns, the
    one that names most images is taken.

    Args:
      path: of the table: comma, semicolon or tab, with or without a byte order mark.
      names: of the columns, as in its first line.
      ids: [N], of the records.

    Returns:
      {name: values [N]}; an empty value for an image that has no row.

    Raises:
      UsageError: a column is not there.
      DataError: the file cannot be read, or no row belongs to any of the images.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"--by_table={path}: cannot be read: {error.strerror}") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    columns = [name for name in (rows[0] if rows else {}) if name]
    for name in names:
        if name not in columns:
            raise UsageError(f"--by={name}: {path} has no such column, only {', '.join(columns)}")
    image_of = _images_by_name(ids)
    found = {column: [_image(row[column], image_of) for row in rows] for column in columns}
    key = max(columns, key=lambda column: len({*found[column]} - {None}))
    values = {name: [""] * len(ids) for name in names}
    if not {*found[key]} - {None}:
        raise DataError(
            f"--by_table={path}: no row names an image of this data, such as {ids[0]}; one column must hold "
            "the path or the name of each file"
        )
    for row, number in zip(rows, found[key], strict=True):
        if number is not None:
            for name in names:
                values[name][number] = (row[name] or "").strip()
    return values


def _images_by_name(ids: Sequence[str]) -> dict[str, int]:
    """Return the number of each image by everything that a row may call it and no other image."""
    numbers: dict[str, set[int]] = collections.defaultdict(set)
    for number, image_id in enumerate(ids):
        for name in {*_ends(image_id), pathlib.PurePosixPath(image_id).stem}:
            numbers[name].add(number)
    return {name: found.pop() for name, found in numbers.items() if len(found) == 1}


def _image(cell: str | None, image_of: Mapping[str, int]) -> int | None:
    """Return the number of the image that a cell names by the longest of its ends; None for no image."""
    return next((image_of[end] for end in _ends((cell or "").strip()) if end in image_of), None)


def _ends(path: str) -> list[str]:
    """Return a path, and what is left without its first folders: tables begin at different ones."""
    parts = pathlib.PurePosixPath(path).parts
    return ["/".join(parts[start:]) for start in range(len(parts))]
