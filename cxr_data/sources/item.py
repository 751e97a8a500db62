"""One input file: what is known of it before it is opened, and where it may lie."""

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cxr_data.sources.quarantine import Quarantined


@dataclass(frozen=True)
class Item:
    """One input file.

    Attributes:
      id: path relative to the source, with forward slashes; names the record.
      path: what to open, links resolved.
      label: class name; empty where there are `labels`.
      bytes: size of the file.
      changed_ns: when it was last changed (ctime), 0 if unknown.
      split: where folders, a CSV or a table decide it.
      group: the patient, where a CSV or a table states it.
      source: where it comes from: the first folder below that of its class, or as a CSV or a table states it.
      labels: of each finding, one of `finding_values.FINDING_VALUES`; empty where each picture has one class.
    """

    id: str
    path: str
    label: str
    bytes: int
    changed_ns: int
    split: str | None = None
    group: str | None = None
    source: str = ""
    labels: tuple[int, ...] = ()

    @property
    def truth(self) -> str | tuple[int, ...]:
        """What is said of the picture: its class, or its findings."""
        return self.labels or self.label


@dataclass(frozen=True, order=True)
class Lost:
    """An input that cannot be used, and the class and split that it would have, "" where unknown."""

    entry: Quarantined
    label: str = ""
    split: str = ""


@dataclass(frozen=True)
class Places:
    """Where files may lie.

    Attributes:
      root: the source, links resolved.
      linked: the folder below which the targets of links may lie too; None for none.
      excluded: names of folders that are left out.
    """

    root: Path
    linked: Path | None
    excluded: Collection[str]

    def id_of(self, path: Path) -> str:
        """Return the path relative to the source, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def holds(self, target: Path) -> bool:
        """Whether a file may lie there."""
        return target.is_relative_to(self.root) or self.is_linked(target)

    def excludes(self, path: Path) -> bool:
        """Whether a folder, or one above it, is left out."""
        return not set(self.excluded).isdisjoint(path.relative_to(self.root).parts)

    def is_linked(self, target: Path) -> bool:
        """Whether links to folders there are followed."""
        return self.linked is not None and target.is_relative_to(self.linked)


def by_id(item: Item) -> str:
    """Return what items are sorted by."""
    return item.id


def local_item(places: Places, path: Path, label: str = "") -> Item | Quarantined:
    """Examine one path under the source, without opening it."""
    name = places.id_of(path)
    try:
        real = path.resolve(strict=True)
        if not places.holds(real):
            detail = "the path or link leads out of the source (--follow_links=FOLDER allows links)"
            return Quarantined(name, "outside_source", detail)
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
