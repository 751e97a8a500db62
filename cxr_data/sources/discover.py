"""Finds the inputs: folders of images, or a CSV that lists them.

    DIR/class/...                a folder per class
    DIR/train/class/...          split folders above (train, validation or val, test, ...)
    FILE.csv                     columns path,label[,group][,split][,source], paths relative to the CSV

Nothing is opened here. Every file found is either an `Item` or `Quarantined`; only
hidden files (a leading dot) are passed over. Links are followed to files inside of
the source, and to what lies below the folder that --follow_links names. What would lose
a whole folder of images with one line, such as a link to a folder, stops the run.
"""

import csv
import io
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.sources.names import SPLIT_FOLDERS, check_class_names, split_of
from cxr_data.sources.quarantine import Quarantined

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".dcm", ".dicom")

KEEP_ALL = "none"
"""What --exclude_folders says where no folder is left out, not even masks."""

# Reasons of entries that belong to no class, so that no class is lost with them.
_OF_NO_CLASS = ("excluded", "no_class", "directory")


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
      has_class_folders: whether folders say the classes, and not a CSV.
    """

    items: tuple[Item, ...]
    quarantined: tuple[Quarantined, ...]
    has_splits: bool
    has_class_folders: bool

    @property
    def discovered(self) -> int:
        """Number of files found, good and bad."""
        return len(self.items) + len(self.quarantined)


@dataclass(frozen=True)
class _Places:
    """Where files may lie.

    Attributes:
      root: the source, links resolved.
      linked: the folder below which the targets of links may lie too; None for none.
      excluded: names of folders that are left out.
    """

    root: Path
    linked: Path | None
    excluded: Collection[str]

    def holds(self, target: Path) -> bool:
        """Whether a file may lie there."""
        return target.is_relative_to(self.root) or self.is_linked(target)

    def excludes(self, path: Path) -> bool:
        """Whether a folder, or one above it, is left out."""
        return not set(self.excluded).isdisjoint(path.relative_to(self.root).parts)

    def is_linked(self, target: Path) -> bool:
        """Whether links to folders there are followed."""
        return self.linked is not None and target.is_relative_to(self.linked)


def discover_images(
    source: str, flag: str = "source", *, exclude_folders: Sequence[str] = (), follow_links: str = ""
) -> Found:
    """List the inputs of a folder or CSV, local or remote.

    Args:
      source: the folder or CSV.
      flag: that named it.
      exclude_folders: names of folders, at any depth, whose files are left out; `KEEP_ALL` for none.
      follow_links: a folder: links to files and folders below it are followed; "" for none.

    Raises:
      UsageError: there is no such source, or its folders are not what is expected.
      DataError: it holds no image files, a class of it cannot be read, or the CSV is malformed.
    """
    from_csv = source.lower().endswith(".csv")
    if not (storage.size(source) is not None if from_csv else storage.store_of(source).has_directory(source)):
        raise UsageError(f"--{flag}={source}: no such folder or CSV file")
    if follow_links and not Path(follow_links).is_dir():
        raise UsageError(f"--follow_links={follow_links}: no such folder")
    linked = Path(follow_links).resolve() if follow_links else None
    excluded = set(exclude_folders) - {KEEP_ALL}
    if from_csv:
        found = _discover_csv(source, linked, excluded)
    else:
        found = _discover_folder(source, linked, excluded)
    if not found.items:
        reasons = "".join(f"; {q.id}: {q.detail}" for q in found.quarantined[:1])
        raise DataError(
            f"no images under {source}: expected {source}/CLASS/*.png, {source}/train/CLASS/*.png "
            f"or a CSV{reasons}"
        )
    check_class_names({item.label: item.id for item in reversed(found.items)})
    return found


def _without_excluded(
    entries: Iterable[Item | Quarantined], excluded: Collection[str]
) -> Iterator[Item | Quarantined]:
    """Leave out what lies in a folder of one of these names; a link to a folder is one."""
    for entry in entries:
        folders = set(PurePosixPath(entry.id).parts[:-1]) & set(excluded)
        if folders and isinstance(entry, Item):
            detail = f"in a folder {min(folders)}, as --exclude_folders says"
            yield Quarantined(entry.id, "excluded", detail)
        else:
            yield entry


def _refuse_lost_classes(
    source: str, items: Sequence[Item], quarantined: Sequence[tuple[str, Quarantined]]
) -> None:
    """Raise DataError for a class of which no file can be used, where others have some.

    Args:
      source: the folder or CSV.
      items: what can be used.
      quarantined: what cannot, and its class.
    """
    left = {item.label for item in items}
    for label, entry in sorted(quarantined) if items else ():
        if label not in left and entry.reason not in _OF_NO_CLASS:
            way_out = " (--follow_links=FOLDER allows links)" if entry.reason == "outside_source" else ""
            raise DataError(
                f"{source}: the class {label!r} has no file that can be used: {entry.id}: "
                f"{entry.detail}{way_out}"
            )


# -- folders -----------------------------------------------------------------------------------


def _discover_folder(source: str, linked: Path | None, excluded: Collection[str]) -> Found:
    if storage.store_of(source).is_local:
        walked = _walk_local(_Places(Path(source).resolve(), linked, excluded))
    else:
        walked = _walk_remote(source)
    entries = list(_without_excluded(walked, excluded))
    quarantined = [entry for entry in entries if isinstance(entry, Quarantined)]
    files = [entry for entry in entries if isinstance(entry, Item)]
    has_splits = _has_split_folders(source, files)
    items: list[Item] = []
    for entry in files:
        parts = PurePosixPath(entry.id).parts
        split = split_of(parts[0]) if has_splits else None
        depth = 1 if has_splits else 0
        if len(parts) < depth + 2 or (has_splits and split is None):
            expected = "SPLIT/CLASS" if has_splits else "CLASS"
            quarantined.append(Quarantined(entry.id, "no_class", f"it does not lie in a folder {expected}"))
            continue
        origin = parts[depth + 1] if len(parts) > depth + 2 else ""
        items.append(replace(entry, label=parts[depth], split=split, source=origin))
    items.sort(key=_by_id)
    lost = [(PurePosixPath(entry.id).parts, entry) for entry in quarantined]
    depth = 1 if has_splits else 0
    _refuse_lost_classes(
        source, items, [(parts[depth], entry) for parts, entry in lost if len(parts) > depth + 1]
    )
    _refuse_splits_as_classes(source, items, quarantined, has_splits)
    return Found(tuple(items), tuple(sorted(quarantined)), has_splits, True)


def _has_split_folders(source: str, files: Sequence[Item]) -> bool:
    """Whether the folders at the top are splits. Raise UsageError where others beside them hold images."""
    splits: set[str] = set()
    others: set[str] = set()
    for file in files:
        top, *below = PurePosixPath(file.id).parts
        if below and split_of(top):
            splits.add(top)
        elif below and _looks_like_an_image(below[-1]):
            others.add(top)
    if splits and others:
        raise UsageError(
            f"{source}: the folder {min(splits)!r} is named as a split, {min(others)!r} beside it is not: "
            f"put the classes into the splits (SPLIT/CLASS), give {min(splits)!r} another name if it is a "
            f"class, or leave a folder out, as by --exclude_folders={min(others)}"
        )
    return bool(splits)


def _looks_like_an_image(name: str) -> bool:
    """Whether a file may be an image by its name: DICOM files often have no suffix."""
    suffix = PurePosixPath(name).suffix
    return name.lower().endswith(IMAGE_SUFFIXES) or not (suffix[1:] or name).isalpha()


def _refuse_splits_as_classes(
    source: str, items: Sequence[Item], quarantined: Sequence[Quarantined], has_splits: bool
) -> None:
    """Raise UsageError for a folder that is named as a split where a class is expected, or below one."""
    if has_splits and not items:
        example = next((entry.id for entry in quarantined if entry.reason == "no_class"), "")
        if example:
            raise UsageError(
                f"{source}: the folder {example.split('/')[0]!r} is named as a split and used as a class, as "
                f"of {example}: put class folders into it (SPLIT/CLASS), or give it another name"
            )
    below: dict[str, set[str]] = {}
    for item in items:
        if split_of(item.label):
            raise UsageError(
                f"{source}: the folder {item.label!r} of {item.id} is named as a split and used as a class: "
                "expected are the folders SPLIT/CLASS; give --source the folder above the splits"
            )
        below.setdefault(item.label, set()).add(item.source)
    for label, folders in below.items():
        if not has_splits and all(split_of(folder) for folder in folders):
            raise UsageError(
                f"{source}: the folder {label!r} holds {', '.join(sorted(folders))}, which are named as "
                "splits and would not be taken for such: expected are the folders SPLIT/CLASS; if the "
                f"classes lie in these, give --source={source.rstrip('/')}/{label}; else move them, or list "
                "the images in a CSV with a column split"
            )


def _by_id(item: Item) -> str:
    return item.id


def _walk_local(places: _Places) -> Iterator[Item | Quarantined]:
    root = places.root
    folders: list[tuple[Path, tuple[Path, ...]]] = [(root, (root,))]  # and the real places down to each
    while folders:
        folder, above = folders.pop()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if places.excludes(folder):
                yield Quarantined(_id(root, folder), "excluded", f"a folder, {error.strerror}")
                continue
            raise DataError(
                f"the folder {folder} cannot be read ({error.strerror}), and its images would be missing: "
                f"make it readable, or leave it out by --exclude_folders={folder.name}"
            ) from error
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and places.excludes(path):
                yield Quarantined(_id(root, path), "excluded", "a link, as --exclude_folders says")
            elif entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(path)):
                real = path.resolve()
                if entry.is_symlink():
                    _refuse_link(places, path, real)
                if real in above:
                    yield Quarantined(_id(root, path), "link_to_directory", f"it leads back to {real}")
                    continue
                folders.append((path, (*above, real)))
                if entry.name.lower().endswith(IMAGE_SUFFIXES):
                    yield Quarantined(_id(root, path), "directory", "named like an image")
            else:
                item = local_item(places, path)
                if isinstance(item, Quarantined) and entry.is_symlink():
                    _refuse_lost_folder(places, path, item)
                yield item


def _refuse_link(places: _Places, path: Path, target: Path) -> None:
    """Raise UsageError for a link to a folder that is not to be followed: one line would stand for it."""
    if not places.is_linked(target):
        raise UsageError(
            f"{_id(places.root, path)} is a link to the folder {target}, and its images would be missing: "
            f"--follow_links={target} follows links to what lies there, --exclude_folders={path.name} leaves "
            "it out"
        )


def _refuse_lost_folder(places: _Places, path: Path, lost: Quarantined) -> None:
    """Raise DataError for a broken link where a folder of a class or a split is expected."""
    above = path.relative_to(places.root).parts[:-1]
    is_above_images = not above or (len(above) == 1 and split_of(above[0]))
    if is_above_images and not path.name.lower().endswith(IMAGE_SUFFIXES):
        raise DataError(
            f"{lost.id} is a link that leads nowhere ({lost.detail}), and the images of a folder would be "
            f"missing: mend it, or leave it out by --exclude_folders={path.name}"
        )


def _id(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def local_item(places: _Places, path: Path, label: str = "") -> Item | Quarantined:
    """Look at one path under the source, without opening it."""
    name = _id(places.root, path)
    try:
        real = path.resolve(strict=True)
        if not places.holds(real):
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


def _discover_csv(source: str, linked: Path | None, excluded: Collection[str]) -> Found:
    rows = list(_csv_rows(source))
    items: list[Item] = []
    quarantined: list[Quarantined] = []
    label_of: dict[str, str] = {}
    for number, row in rows:
        (entry,) = _without_excluded([_csv_entry(source, row, linked)], excluded)
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
    _refuse_lost_classes(source, items, [(label_of[e.id], e) for e in quarantined if e.id in label_of])
    return Found(tuple(sorted(items, key=_by_id)), tuple(sorted(quarantined)), with_split > 0, False)


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
    return local_item(_Places(root, linked, ()), path_inside)
