"""The tables of several data sets as one, in the format `columns`, with common names of findings."""

import logging
import posixpath
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from cxr_data.core import storage
from cxr_data.core.csv_table import csv_bytes
from cxr_data.core.errors import UsageError
from cxr_data.core.wording import counted
from cxr_data.sources.discover import discover_findings
from cxr_data.sources.finding_values import UNKNOWN
from cxr_data.sources.item import Item
from cxr_data.sources.names import check_class_names, is_nobody
from cxr_data.sources.quarantine import Quarantined
from cxr_data.sources.tables.formats import FORMATS
from cxr_data.sources.tables.row import READERS, Reading
from cxr_data.sources.tables.table_list import TableOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableSet:
    """One of the data sets to join.

    Attributes:
      source: folder of its pictures, relative to the folder of all sets.
      labels: format of its tables, as of `--labels`.
      tables: paths of them.
      names: {finding of the set: its common name}; a finding that is not named keeps its name.
      views: those to keep, such as PA; empty for all.
      readers: what several readers of a picture say together: "majority" or "any".
    """

    source: str
    labels: str
    tables: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    views: tuple[str, ...] = ()
    readers: str = "majority"


def join_tables(folder: str, sets: Mapping[str, TableSet], output: str) -> tuple[Quarantined, ...]:
    """Write one table of several data sets, for `--labels=columns` and `--source` of their common folder.

    A finding that a set does not label is left blank in its rows: it is unknown there. The patient begins
    with the name of the set and a slash, since numbers of two sets are not one person. The splits are kept
    where every set has them, and else left to the conversion.

    Args:
      folder: that holds the pictures of all sets.
      sets: by name, which becomes the source of the records; a source that a table names itself is not kept.
      output: path of the table.

    Returns:
      The files and rows that are not in it, with the name of the set before their ids.

    Raises:
      UsageError: there is no set, or the name of one cannot be a source, or a field of one is none that
        `--labels` and its flags take, or a folder or table is not there, or `names` has a finding that the
        set lacks, or one name for two of its findings.
      DataError: a table is malformed, or names no file of its folder, or the names of two findings differ by
        case or blanks alone.
    """
    if not sets:
        raise UsageError("sets: must name at least one data set")
    found, lost = {}, []
    for name, one in sets.items():
        _check(name, one)
        options = TableOptions(one.labels, one.tables, one.views, Reading(readers=one.readers))
        found[name] = discover_findings(posixpath.join(folder, one.source), options, f"{name}: ")
        left_out = found[name].quarantined
        lost += [replace(entry, id=f"{name}/{entry.id}") for entry in left_out]
        why = ", ".join(
            f"{count:,} {reason}" for reason, count in Counter(e.reason for e in left_out).items()
        )
        logger.info(
            "%s: %s, %s",
            name,
            counted(len(found[name].items), "picture"),
            f"left out: {why}" if why else "all",
        )
        for note in found[name].notes:
            logger.info("%s: %s", name, note)
    common = {name: _common_names(name, found[name].findings, one.names) for name, one in sets.items()}
    findings = tuple(dict.fromkeys(finding for names in common.values() for finding in names))
    check_class_names({finding: of for of in reversed(common) for finding in common[of]})
    keeps_splits = all(one.has_splits for one in found.values())
    rows = [
        _row(name, sets[name].source, item, dict(zip(common[name], item.labels, strict=True)), findings)
        for name, one in found.items()
        for item in one.items
    ]
    columns = ["path", "patient", "source", "split", *findings]
    kept = [place for place, name in enumerate(columns) if name != "split" or keeps_splits]
    storage.replace(output, csv_bytes([[row[place] for place in kept] for row in [columns, *rows]]))
    return tuple(lost)


def _check(name: str, one: TableSet) -> None:
    # With a slash in the names of sets, patients of two sets could have one name.
    if is_nobody(name) or name != name.strip() or "/" in name:
        raise UsageError(
            f"sets: {name!r} cannot be the name of a source: choose one without a slash or outer blanks "
            "that is no word for nothing"
        )
    if one.labels not in FORMATS:
        raise UsageError(f"{name}: labels: {one.labels!r} must be one of {', '.join(FORMATS)}")
    if one.readers not in READERS:
        raise UsageError(f"{name}: readers: {one.readers!r} must be {' or '.join(READERS)}")
    given: dict[str, object] = {"tables": one.tables, "views": one.views}
    for what, texts in given.items():
        if isinstance(texts, str):
            raise UsageError(f"{name}: {what}: must be a tuple of texts; write {(texts,)!r}")


def _common_names(of: str, findings: tuple[str, ...], names: Mapping[str, str]) -> tuple[str, ...]:
    for name in names:
        if name not in findings:
            raise UsageError(f"{of}: names: {name!r} is no finding of it; choose from {', '.join(findings)}")
    common = tuple(names.get(finding, finding) for finding in findings)
    for name, count in Counter(common).items():
        if count > 1:
            raise UsageError(f"{of}: names: {name!r} is the name of {count} findings; name them apart")
    return common


def _row(of: str, source: str, item: Item, labels: Mapping[str, int], findings: tuple[str, ...]) -> list[str]:
    values = [labels.get(finding, UNKNOWN) for finding in findings]
    return [
        posixpath.join(source, item.id),
        f"{of}/{item.group}" if item.group else "",
        of,
        item.split or "",
        *("" if value == UNKNOWN else str(value) for value in values),
    ]
