"""A source of folders: CLASS/... or SPLIT/CLASS/..., local or remote.

Hidden files (a leading dot) are passed over. What would lose a whole folder of images with one line, such as
a link to a folder, stops the run.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.sources.item import Item, Lost, Places, by_id, local_item
from cxr_data.sources.left_out import LeftOut
from cxr_data.sources.names import split_of
from cxr_data.sources.quarantine import Quarantined

_OF_IMAGES = ("images", "image", "imgs", "img", "pictures")
"""Names of folders that say no more than that images lie in them."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".dcm", ".dicom")


def walk_folders(
    source: str, linked: Path | None, left_out: LeftOut
) -> tuple[list[Item], list[Lost], bool, tuple[str, ...]]:
    """List the inputs of a folder.

    Args:
      source: the folder.
      linked: the folder below which the targets of links may lie; None for none.
      left_out: what is left out.

    Returns:
      The files that may become records by their ids, those that cannot, whether there are split folders, and
      what a user should know: nothing.

    Raises:
      UsageError, DataError: folders or links are not what is expected, or hold nothing, with the ways out.
    """
    entries = list_files(source, linked, left_out)
    has_splits = _has_split_folders(source, [entry for entry in entries if isinstance(entry, Item)])
    depth = 1 if has_splits else 0
    items: list[Item] = []
    lost: list[Lost] = []
    for entry in entries:
        parts = PurePosixPath(entry.id).parts
        split = split_of(parts[0]) if has_splits else None
        is_in_class = len(parts) > depth + 1 and (not has_splits or split is not None)
        if isinstance(entry, Quarantined):
            lost.append(Lost(entry, parts[depth], split or "") if is_in_class else Lost(entry))
        elif not is_in_class:
            expected = "SPLIT/CLASS" if has_splits else "CLASS"
            lost.append(Lost(Quarantined(entry.id, "no_class", f"it does not lie in a folder {expected}")))
        else:
            origin = parts[depth + 1] if len(parts) > depth + 2 else ""
            origin = "" if origin.lower() in _OF_IMAGES else origin
            items.append(replace(entry, label=parts[depth], split=split, source=origin))
    items.sort(key=by_id)
    _refuse_splits_as_classes(source, items, lost, has_splits)
    if storage.store_of(source).is_local:
        places = Places(Path(source).resolve(), linked, left_out.folders)
        files = [PurePosixPath(entry.id).parts for entry in entries]
        lost += map(Lost, _empty_folders(places, files, depth))
    return items, lost, has_splits, ()


def _empty_folders(places: Places, files: Sequence[Sequence[str]], depth: int) -> Iterator[Quarantined]:
    """Find the folders of splits and classes that hold no file, as after a download that was cut off: no line
    would show that they are missing. A class may be absent from a split.

    Args:
      places: of the source.
      files: the parts of the path of each file, also of those that cannot be used; of links to folders and
        of folders that cannot be read too, which are left out already.
      depth: of the folders of classes: 1 below those of splits, else 0.

    Yields:
      Those that are left out.

    Raises:
      DataError: one is not.
    """
    for at, what in enumerate(["split", "class"][-depth - 1 :]):
        names = {parts[at] for parts in files if len(parts) > at + 1}
        listed = {parts for parts in files if len(parts) == at + 1}
        for folder in sorted(places.root.glob("/".join("*" * (at + 1)))):
            parts = folder.relative_to(places.root).parts
            if folder.name in names or folder.name.startswith(".") or parts in listed:
                continue
            if not all(map(split_of, parts[:depth])):
                continue
            if places.excludes(folder):
                yield Quarantined(places.id_of(folder), "excluded", "a folder without files")
            elif folder.is_dir():
                raise DataError(
                    f"{places.root}: the folder {places.id_of(folder)!r} holds no file, and the {what} would "
                    f"be missing: fill it, remove it, or leave it out by --exclude_folders={folder.name}"
                )


def list_files(source: str, linked: Path | None, left_out: LeftOut) -> list[Item | Quarantined]:
    """List every file of a folder, whatever its folders are named; the arguments are as of `walk_folders`.

    Raises:
      UsageError, DataError: a link or a folder would lose images, with the ways out.
    """
    if storage.store_of(source).is_local:
        walked = _walk_local(Places(Path(source).resolve(), linked, left_out.folders))
    else:
        walked = _walk_remote(source)
    return list(left_out.apply(walked))


def _has_split_folders(source: str, files: Sequence[Item]) -> bool:
    """Whether the folders at the top are splits. Raise UsageError where others beside them hold images."""
    splits: set[str] = set()
    with_classes: set[str] = set()
    others: set[str] = set()
    for file in files:
        top, *below = PurePosixPath(file.id).parts
        if below and split_of(top):
            splits.add(top)
            if len(below) > 1:
                with_classes.add(top)
        elif below and _looks_like_an_image(below[-1]):
            others.add(top)
    if splits and others:
        raise UsageError(
            f"{source}: the folder {min(splits)!r} is named as a split, {min(others)!r} next to it is not: "
            f"put the classes into the splits (SPLIT/CLASS), give {min(splits)!r} another name if it is a "
            f"class, or leave a folder out, as by --exclude_folders={min(others)}"
        )
    _refuse_splits_of_two_folders(source, sorted(with_classes))
    return bool(splits)


def _refuse_splits_of_two_folders(source: str, folders: Sequence[str]) -> None:
    folder_of: dict[str | None, str] = {}
    for folder in folders:
        first = folder_of.setdefault(split_of(folder), folder)
        if first != folder:
            raise UsageError(
                f"{source}: the folders {first!r} and {folder!r} are both named as the split "
                f"{split_of(folder)}: put them into one, or leave one out, as by --exclude_folders={folder}"
            )


def _looks_like_an_image(name: str) -> bool:
    """Whether a file may be an image by its name: DICOM files often have no suffix."""
    suffix = PurePosixPath(name).suffix
    return name.lower().endswith(IMAGE_SUFFIXES) or not (suffix[1:] or name).isalpha()


def _refuse_splits_as_classes(
    source: str, items: Sequence[Item], lost: Sequence[Lost], has_splits: bool
) -> None:
    """Raise UsageError for a folder that is named as a split where a class is expected, or below one."""
    if has_splits and not items:
        example = next((one.entry.id for one in lost if one.entry.reason == "no_class"), "")
        if example:
            raise UsageError(
                f"{source}: the folder {example.split('/')[0]!r} is named as a split and used as a class, as "
                f"of {example}: put class folders into it (SPLIT/CLASS), or give it another name"
            )
    for item in items:
        if split_of(item.label):
            raise UsageError(
                f"{source}: the folder {item.label!r} of {item.id} is named as a split and used as a class: "
                "expected are the folders SPLIT/CLASS; name the folder above the splits"
            )
        if split_of(item.source):
            above = f"if the classes lie in it, name {source.rstrip('/')}/{item.label}; else "
            raise UsageError(
                f"{source}: the folder {item.source!r} of {item.id} is named as a split and would not be one "
                f"below the class {item.label!r}: expected are the folders SPLIT/CLASS; "
                f"{'' if has_splits else above}move its images, or leave them out by "
                f"--exclude_folders={item.source}"
            )


def _walk_local(places: Places) -> Iterator[Item | Quarantined]:
    root = places.root
    folders: list[tuple[Path, tuple[Path, ...]]] = [(root, (root,))]  # and the real places down to each
    while folders:
        folder, above = folders.pop()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if places.excludes(folder):
                yield Quarantined(places.id_of(folder), "excluded", f"a folder, {error.strerror}")
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
                yield Quarantined(places.id_of(path), "excluded", "a link, as --exclude_folders says")
            elif entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(path)):
                real = path.resolve()
                if entry.is_symlink():
                    _refuse_link(places, path, real)
                if real in above:
                    yield Quarantined(places.id_of(path), "link_to_directory", f"it leads back to {real}")
                    continue
                folders.append((path, (*above, real)))
                if entry.name.lower().endswith(IMAGE_SUFFIXES):
                    yield Quarantined(places.id_of(path), "directory", "named like an image")
            else:
                item = local_item(places, path)
                if isinstance(item, Quarantined) and entry.is_symlink():
                    _refuse_lost_folder(places, path, item)
                yield item


def _refuse_link(places: Places, path: Path, target: Path) -> None:
    """Raise UsageError for a link to a folder that is not to be followed: one line would stand for it."""
    if not places.is_linked(target):
        raise UsageError(
            f"{places.id_of(path)} is a link to the folder {target}, and its images would be missing: "
            f"--follow_links={target} follows links to what lies there, --exclude_folders={path.name} leaves "
            "it out"
        )


def _refuse_lost_folder(places: Places, path: Path, lost: Quarantined) -> None:
    """Raise DataError for a broken link where a folder of a class or a split is expected."""
    above = path.relative_to(places.root).parts[:-1]
    is_above_images = not above or (len(above) == 1 and split_of(above[0]))
    if is_above_images and not path.name.lower().endswith(IMAGE_SUFFIXES):
        raise DataError(
            f"{lost.id} is a link that leads nowhere ({lost.detail}), and the images of a folder would be "
            f"missing: repair it, or leave it out by --exclude_folders={path.name}"
        )


def _walk_remote(source: str) -> Iterator[Item | Quarantined]:
    prefix = source.rstrip("/") + "/"
    for path, size in storage.store_of(source).walk(source):
        name = path.removeprefix(prefix)
        if not any(part.startswith(".") for part in name.split("/")):
            yield Item(name, path, "", size, 0)
