"""Finds the inputs: folders of images, or a CSV that lists them.

    DIR/class/...                a folder per class
    DIR/train/class/...          split folders above (train, validation or val, test, ...)
    FILE.csv                     columns path,label[,group][,split][,source], paths relative to the CSV

Nothing is opened here. Every file found is either an `Item` or `Quarantined`; only
hidden files (a leading dot) are passed over. Links are followed to files inside of
the source and to nothing else.
"""

import csv
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.sources.quarantine import Quarantined

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
    "test_set": "test",
}
"""Folder names that are splits, and the split's name in the output."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".dcm", ".dicom")


@dataclass(frozen=True)
class Item:
    """One input file.

    Attributes:
      id: path relative to the source, with forward slashes; names the record.
      path: what to open, links resolved.
      label: class name.
      bytes: size of the file.
      changed_ns: when it was last changed (ctime), 0 if unknown.
      split: where folders or CSV decide it.
      group: the patient, where the CSV states it.
      source: where it comes from: the first folder below that of its class, or as the CSV states it.
    """

    id: str
    path: str
    label: str
    bytes: int
    changed_ns: int
    split: str | None = None
    group: str | None = None
    source: str = ""


@dataclass(frozen=True)
class Found:
    """All inputs of a source, in the order of their ids.

    Attributes:
      items: the files that may become records.
      quarantined: the files that cannot, already now.
      has_splits: whether every item has a split.
    """

    items: tuple[Item, ...]
    quarantined: tuple[Quarantined, ...]
    has_splits: bool

    @property
    def discovered(self) -> int:
        """Number of files found, good and bad."""
        return len(self.items) + len(self.quarantined)


def discover_images(source: str, flag: str = "source") -> Found:
    """List the inputs of a folder or CSV, local or remote.

    Args:
      source: the folder or CSV.
      flag: that named it.

    Raises:
      UsageError: there is no such source.
      DataError: it holds no image files, or the CSV is malformed.
    """
    from_csv = source.lower().endswith(".csv")
    if not (storage.size(source) is not None if from_csv else storage.store_of(source).has_directory(source)):
        raise UsageError(f"--{flag}={source}: no such folder or CSV file")
    found = _discover_csv(source) if from_csv else _discover_folder(source)
    if not found.items:
        reasons = "".join(f"; {q.id}: {q.detail}" for q in found.quarantined[:1])
        raise DataError(
            f"no images under {source}: expected {source}/CLASS/*.png, {source}/train/CLASS/*.png "
            f"or a CSV{reasons}"
        )
    return found


# -- folders -----------------------------------------------------------------------------------


def _discover_folder(source: str) -> Found:
    entries = list(_walk_local(source) if storage.store_of(source).is_local else _walk_remote(source))
    top = {PurePosixPath(e.id).parts[0] for e in entries if len(PurePosixPath(e.id).parts) > 1}
    has_splits = any(SPLIT_FOLDERS.get(name.lower()) == "train" for name in top)
    items: list[Item] = []
    quarantined: list[Quarantined] = []
    for entry in entries:
        if isinstance(entry, Quarantined):
            quarantined.append(entry)
            continue
        parts = PurePosixPath(entry.id).parts
        split = SPLIT_FOLDERS.get(parts[0].lower()) if has_splits else None
        depth = 1 if has_splits else 0
        if len(parts) < depth + 2 or (has_splits and split is None):
            expected = "SPLIT/CLASS" if has_splits else "CLASS"
            quarantined.append(Quarantined(entry.id, "no_class", f"it does not lie in a folder {expected}"))
            continue
        origin = parts[depth + 1] if len(parts) > depth + 2 else ""
        items.append(replace(entry, label=parts[depth], split=split, source=origin))
    return Found(tuple(sorted(items, key=_by_id)), tuple(sorted(quarantined)), has_splits)


def _by_id(item: Item) -> str:
    return item.id


def _walk_local(source: str) -> Iterator[Item | Quarantined]:
    root = Path(source).resolve()
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield Quarantined(_id(root, folder), "unreadable", f"folder: {error.strerror}")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
                if entry.name.lower().endswith(IMAGE_SUFFIXES):
                    yield Quarantined(_id(root, Path(entry.path)), "directory", "named like an image")
                continue
            yield local_item(root, Path(entry.path))


def _id(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def local_item(root: Path, path: Path, label: str = "") -> Item | Quarantined:
    """Look at one path under `root` (resolved), without opening it."""
    name = _id(root, path)
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(root):
            return Quarantined(name, "outside_source", "the path or link leads out of the source")
        status = os.stat(real, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        reason = "dangling_link" if path.is_symlink() else "missing"
        return Quarantined(name, reason, "no such file")
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        return Quarantined(name, "unreadable", getattr(error, "strerror", None) or str(error))
    if stat.S_ISDIR(status.st_mode):
        return Quarantined(name, "link_to_directory" if path.is_symlink() else "directory", "not a file")
    if not stat.S_ISREG(status.st_mode):
        return Quarantined(name, "special_file", "not a regular file")
    return Item(name, str(real), label, status.st_size, status.st_ctime_ns)


def _walk_remote(source: str) -> Iterator[Item | Quarantined]:
    prefix = source.rstrip("/") + "/"
    for path, size in storage.store_of(source).walk(source):
        name = path.removeprefix(prefix)
        if not any(part.startswith(".") for part in name.split("/")):
            yield Item(name, path, "", size, 0)


# -- CSV ---------------------------------------------------------------------------------------


def _discover_csv(source: str) -> Found:
    rows = list(_csv_rows(source))
    items: list[Item] = []
    quarantined: list[Quarantined] = []
    label_of: dict[str, str] = {}
    for number, row in rows:
        entry = _csv_entry(source, row)
        label = row["label"]
        if entry.id in label_of:
            if label_of[entry.id] != label:
                raise DataError(
                    f"{source} line {number}: {entry.id} is {label!r} here and {label_of[entry.id]!r} above"
                )
            quarantined.append(Quarantined(f"{entry.id}#line{number}", "listed_twice", f"line {number}"))
            continue
        label_of[entry.id] = label
        if isinstance(entry, Quarantined):
            quarantined.append(entry)
            continue
        split = row.get("split") or None
        items.append(
            replace(
                entry,
                label=label,
                split=SPLIT_FOLDERS.get(split.lower(), split) if split else None,
                group=row.get("group") or None,
                source=row.get("source") or "",
            )
        )
    with_split = sum(item.split is not None for item in items)
    if with_split not in (0, len(items)):
        raise DataError(f"{source}: {with_split} of {len(items)} lines have a split; give all or none")
    return Found(tuple(sorted(items, key=_by_id)), tuple(sorted(quarantined)), with_split > 0)


def _csv_rows(source: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, {column: stripped text})."""
    try:
        text = storage.read_bytes(source).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not UTF-8 text: {error}") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    columns = [name.strip().lower() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    if not {"path", "label"} <= set(columns):
        raise DataError(
            f"{source}: the first line must name the columns path,label[,group][,split], not {columns}"
        )
    try:
        for row in reader:
            clean: dict[str, str] = {k: (v or "").strip() for k, v in row.items() if isinstance(k, str)}
            if not clean["path"] or not clean["label"]:
                raise DataError(f"{source} line {reader.line_num}: path or label is empty")
            yield reader.line_num, clean
    except csv.Error as error:
        raise DataError(f"{source} line {reader.line_num}: {error}") from error


def _csv_entry(source: str, row: dict[str, str]) -> Item | Quarantined:
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
    return local_item(root, path_inside)
