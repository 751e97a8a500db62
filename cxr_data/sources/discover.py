"""Find the inputs: folders of images, a CSV that lists them, or a folder and the tables of its findings.

    DIR/class/...                a folder per class
    DIR/train/class/...          split folders above (train, validation or val, test, ...)
    FILE.csv                     columns path,label[,group][,split][,source], paths relative to the CSV

Nothing is opened here. Every file found is either an `Item` or `Quarantined`; only
hidden files (a leading dot) are passed over. Links are followed to files inside of
the source, and to what lies below the folder that --follow_links names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.sources.csv_list import list_csv
from cxr_data.sources.folders import list_files, walk_folders
from cxr_data.sources.item import Item, Lost
from cxr_data.sources.left_out import LeftOut
from cxr_data.sources.names import check_class_names, check_split_names
from cxr_data.sources.quarantine import Quarantined
from cxr_data.sources.tables.table_list import TableOptions, list_tables

# Reasons of entries that belong to no class, so that no class is lost with them.
_OF_NO_CLASS = ("excluded", "no_class", "directory", "listed_twice")


@dataclass(frozen=True)
class Found:
    """All inputs of a source, in the order of their ids.

    Attributes:
      items: the files that may become records.
      quarantined: the files that cannot, already now.
      has_splits: whether every item has a split.
      has_class_folders: whether folders say the classes, and not a table.
      findings: names, in the order of `Item.labels`; empty where each picture has one class.
      notes: what a user should know, a line each.
    """

    items: tuple[Item, ...]
    quarantined: tuple[Quarantined, ...]
    has_splits: bool
    has_class_folders: bool
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def discovered(self) -> int:
        """Number of files found, good and bad."""
        return len(self.items) + len(self.quarantined)


def discover_images(
    source: str, flag: str = "--source=", *, left_out: LeftOut | None = None, follow_links: str = ""
) -> Found:
    """List the inputs of a folder or CSV, local or remote.

    Args:
      source: the folder or CSV.
      flag: what stands before it on the command line: "" where it is an argument.
      left_out: folders and files that are left out.
      follow_links: a folder: links to files and folders below it are followed; "" for none.

    Raises:
      UsageError: there is no such source, or its folders are not what is expected.
      DataError: it holds no image files, a class of it cannot be read, or the CSV is malformed.
    """
    from_csv = source.lower().endswith(".csv")
    if not (storage.size(source) is not None if from_csv else storage.store_of(source).has_directory(source)):
        raise UsageError(f"{flag}{source}: no such folder or CSV file")
    linked = _linked(follow_links)
    list_source = list_csv if from_csv else walk_folders
    items, lost, has_splits, notes = list_source(source, linked, left_out or LeftOut())
    if not items:
        expected = (
            "lines of images" if from_csv else f"{source}/CLASS/*.png, {source}/train/CLASS/*.png or a CSV"
        )
        reasons = "".join(f"; {one.entry.id}: {one.entry.detail}" for one in sorted(lost)[:1])
        raise DataError(f"no images under {source}: expected {expected}{reasons}")
    _refuse_lost_classes(source, items, lost)
    check_class_names({item.label: item.id for item in reversed(items)})
    check_split_names({item.split: item.id for item in items if item.split})
    quarantined = sorted(one.entry for one in lost)
    return Found(tuple(items), tuple(quarantined), has_splits, not from_csv, notes=notes)


def find_inputs(
    source: str,
    tables: TableOptions | None,
    flag: str = "--source=",
    *,
    left_out: LeftOut | None = None,
    follow_links: str = "",
) -> Found:
    """List the inputs of a conversion: `discover_findings` where `tables` say the labels, else
    `discover_images`.
    """
    if tables is None:
        return discover_images(source, flag, left_out=left_out, follow_links=follow_links)
    return discover_findings(source, tables, flag, left_out=left_out, follow_links=follow_links)


def discover_findings(
    source: str,
    options: TableOptions,
    flag: str = "--source=",
    *,
    left_out: LeftOut | None = None,
    follow_links: str = "",
) -> Found:
    """List the pictures of a folder, local or remote, whose findings stand in tables.

    Args:
      source: the folder.
      options: the tables.
      flag: as of `discover_images`.
      left_out: folders and files that are left out.
      follow_links: as of `discover_images`.

    Raises:
      UsageError: there is no such folder or table, or a flag does not fit the table.
      DataError: a table is malformed, or names no file of the folder.
    """
    if not storage.store_of(source).has_directory(source):
        raise UsageError(f"{flag}{source}: no such folder; give the folder of the pictures of the table")
    entries = list_files(source, _linked(follow_links), left_out or LeftOut())
    listed = list_tables(entries, options)
    if not listed.items:
        example = f", as {listed.lost[0].id}: {listed.lost[0].detail}" if listed.lost else ""
        raise DataError(f"{source}: no picture has a row in {', '.join(options.tables)}{example}")
    check_class_names(dict.fromkeys(listed.findings, options.tables[0]))
    check_split_names({item.split: item.id for item in listed.items if item.split})
    return Found(
        listed.items, tuple(sorted(listed.lost)), listed.has_splits, False, listed.findings, listed.notes
    )


def _linked(follow_links: str) -> Path | None:
    if follow_links and not Path(follow_links).is_dir():
        raise UsageError(f"--follow_links={follow_links}: no such folder")
    return Path(follow_links).resolve() if follow_links else None


def _refuse_lost_classes(source: str, items: Sequence[Item], lost: Sequence[Lost]) -> None:
    """Raise DataError for a class of which no file of a split can be used: only the ledger would show it.

    Args:
      source: the folder or CSV.
      items: what can be used.
      lost: what cannot.
    """
    left = {(item.split, item.label) for item in items}
    for one in sorted(lost):
        if one.label and (one.split or None, one.label) not in left and one.entry.reason not in _OF_NO_CLASS:
            where = f" in {one.split}" if one.split else ""
            raise DataError(
                f"{source}: the class {one.label!r} has no file{where} that can be used: {one.entry.id}: "
                f"{one.entry.detail}"
            )
