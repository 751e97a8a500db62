"""A source that is a CSV: columns path,label[,group][,split][,source], paths relative to the CSV."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.sources.item import Item, Lost, Places, by_id, local_item
from cxr_data.sources.left_out import LeftOut
from cxr_data.sources.names import split_of
from cxr_data.sources.quarantine import Quarantined
from cxr_data.sources.tables.table_file import PATIENT_COLUMNS, Line, Table, read_table

_READ = ("path", "label", "split", "source")
_OUTSIDE = "the path leads out of the CSV's folder: put the CSV into a folder that holds all images"


def list_csv(
    source: str, linked: Path | None, left_out: LeftOut
) -> tuple[list[Item], list[Lost], bool, tuple[str, ...]]:
    """List the inputs that a CSV names.

    Args:
      source: the CSV.
      linked: the folder below which the targets of links may lie; None for none.
      left_out: what is left out.

    Returns:
      The files that may become records by their ids, those that cannot, whether each line has a split, and
      what a user should know, a line each.

    Raises:
      DataError: the CSV is malformed, or contradicts itself.
    """
    items: list[Item] = []
    lost: list[Lost] = []
    label_of: dict[str, str] = {}
    table = read_table(source, flag="source")
    if not table.has("path", "label"):
        raise DataError(
            f"{source}: the first line must name the columns path,label[,group][,split][,source], and names "
            f"{','.join(table.columns)}"
        )
    patient = next((name for name in ("group", *PATIENT_COLUMNS) if table.has(name)), "")
    for line in table.lines():
        label, split = line["label"], line["split"]
        if not line["path"] or not label:
            raise DataError(f"{line.where}: path or label is empty")
        (entry,) = left_out.apply([_csv_entry(source, line, linked)])
        split = split_of(split) or split
        if entry.id in label_of:
            if label_of[entry.id] != label:
                raise DataError(
                    f"{line.where}: {entry.id} is {label!r} here and {label_of[entry.id]!r} above"
                )
            again = Quarantined(f"{entry.id}#line{line.number}", "listed_twice", f"line {line.number}")
            lost.append(Lost(again))
            continue
        label_of[entry.id] = label
        if isinstance(entry, Quarantined):
            lost.append(Lost(entry, label, split))
            continue
        group = (line[patient] or None) if patient else None  # "" is the name of an index column
        items.append(replace(entry, label=label, split=split or None, group=group, source=line["source"]))
    with_split = sum(item.split is not None for item in items)
    if with_split not in (0, len(items)):
        raise DataError(f"{source}: {with_split} of {len(items)} lines have a split; give all or none")
    return sorted(items, key=by_id), lost, with_split > 0, _notes(table, (*_READ, patient))


def _notes(table: Table, read: Sequence[str]) -> tuple[str, ...]:
    """Say which columns are not read: a name that is spelt otherwise, as of the patient, shows there."""
    others = [name for name in table.columns if name and name.lower() not in read]
    known = "path, label, group (or patient), split and source are"
    return (f"columns that are not read: {', '.join(others)}; {known}",) if others else ()


def _csv_entry(source: str, row: Line, linked: Path | None) -> Item | Quarantined:
    name = PurePosixPath(row["path"].replace("\\", "/")).as_posix()
    if not storage.store_of(source).is_local:
        folder = source.rsplit("/", 1)[0]
        if ".." in PurePosixPath(name).parts or name.startswith("/"):
            return Quarantined(name, "outside_source", _OUTSIDE)
        path = storage.join(folder, name)
        size: Any = storage.size(path)
        return Quarantined(name, "missing", "no such file") if size is None else Item(name, path, "", size, 0)
    root = Path(source).resolve().parent
    path_inside = Path(os.path.normpath(root / name))
    if not path_inside.is_relative_to(root):
        return Quarantined(name, "outside_source", _OUTSIDE)
    return local_item(Places(root, linked, ()), path_inside)
