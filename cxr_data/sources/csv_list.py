"""A source that is a CSV: columns path,label[,group][,split][,source], paths relative to the CSV."""

import csv
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from cxr_data.core import storage
from cxr_data.core.csv_table import csv_rows
from cxr_data.core.errors import DataError
from cxr_data.sources.item import Item, Lost, Places, by_id, local_item
from cxr_data.sources.left_out import LeftOut
from cxr_data.sources.names import split_of
from cxr_data.sources.quarantine import Quarantined


def list_csv(source: str, linked: Path | None, left_out: LeftOut) -> tuple[list[Item], list[Lost], bool]:
    """List the inputs that a CSV names.

    Args:
      source: the CSV.
      linked: the folder below which the targets of links may lie; None for none.
      left_out: what is left out.

    Returns:
      The files that may become records by their ids, those that cannot, and whether each line has a split.

    Raises:
      DataError: the CSV is malformed, or contradicts itself.
    """
    items: list[Item] = []
    lost: list[Lost] = []
    label_of: dict[str, str] = {}
    for number, row in _csv_rows(source):
        (entry,) = left_out.apply([_csv_entry(source, row, linked)])
        label, split = row["label"], row.get("split", "")
        split = split_of(split) or split
        if entry.id in label_of:
            if label_of[entry.id] != label:
                raise DataError(
                    f"{source} line {number}: {entry.id} is {label!r} here and {label_of[entry.id]!r} above"
                )
            lost.append(Lost(Quarantined(f"{entry.id}#line{number}", "listed_twice", f"line {number}")))
            continue
        label_of[entry.id] = label
        if isinstance(entry, Quarantined):
            lost.append(Lost(entry, label, split))
            continue
        group, origin = row.get("group") or None, row.get("source", "")
        items.append(replace(entry, label=label, split=split or None, group=group, source=origin))
    with_split = sum(item.split is not None for item in items)
    if with_split not in (0, len(items)):
        raise DataError(f"{source}: {with_split} of {len(items)} lines have a split; give all or none")
    return sorted(items, key=by_id), lost, with_split > 0


def _csv_rows(source: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, {column: stripped text})."""
    try:
        text = storage.read_bytes(source).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not UTF-8 text: {error}") from error
    number, rows = 1, csv_rows(text, skips_blanks=True)
    try:
        columns = [name.strip().lower() for name in next(rows, (1, []))[1]]
        if not {"path", "label"} <= set(columns):
            raise DataError(
                f"{source}: the first line must name the columns path,label[,group][,split], not {columns}"
            )
        for number, row in rows:
            if not row:  # an empty line
                continue
            clean = dict.fromkeys(columns, "") | {k: v.strip() for k, v in zip(columns, row, strict=False)}
            if not clean["path"] or not clean["label"]:
                raise DataError(f"{source} line {number}: path or label is empty")
            yield number, clean
    except csv.Error as error:
        raise DataError(f"{source} line {number + 1}: {error}") from error


def _csv_entry(source: str, row: dict[str, str], linked: Path | None) -> Item | Quarantined:
    name = PurePosixPath(row["path"].replace("\\", "/")).as_posix()
    if not storage.store_of(source).is_local:
        folder = source.rsplit("/", 1)[0]
        if ".." in PurePosixPath(name).parts or name.startswith("/"):
            return Quarantined(name, "outside_source", "the path leads out of the CSV's folder")
        path = storage.join(folder, name)
        size: Any = storage.size(path)
        return Quarantined(name, "missing", "no such file") if size is None else Item(name, path, "", size, 0)
    root = Path(source).resolve().parent
    path_inside = Path(os.path.normpath(root / name))
    if not path_inside.is_relative_to(root):
        return Quarantined(name, "outside_source", "the path leads out of the CSV's folder")
    return local_item(Places(root, linked, ()), path_inside)
