"""A source whose findings stand in tables: each file and each row is an item, or is named with the reason."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.wording import counted
from cxr_data.sources.item import Item
from cxr_data.sources.names import is_nobody
from cxr_data.sources.quarantine import Quarantined
from cxr_data.sources.tables.formats import FORMATS
from cxr_data.sources.tables.picture_files import PictureFiles
from cxr_data.sources.tables.row import Contents, Reading, Row
from cxr_data.sources.tables.table_file import read_table

_VIEWS = {"LATERAL": "L", "LL": "L"}
"""Other names of a view, as the data sets have them."""


@dataclass(frozen=True)
class TableOptions:
    """Which tables say the findings, and which rows of them count.

    Attributes:
      format: one of `FORMATS`.
      tables: paths.
      views: those to keep, as PA; empty for all.
      reading: how the tables are read.
    """

    format: str
    tables: tuple[str, ...]
    views: tuple[str, ...] = ()
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True)
class Listed:
    """What tables and files are together.

    Attributes:
      items: the files that may become records, with their findings.
      lost: the files and the rows that cannot.
      findings: in the order of `Item.labels`.
      has_splits: whether each item has a split.
      notes: what a user should know, a line each.
    """

    items: tuple[Item, ...]
    lost: tuple[Quarantined, ...]
    findings: tuple[str, ...]
    has_splits: bool
    notes: tuple[str, ...]


def list_tables(entries: Iterable[Item | Quarantined], options: TableOptions) -> Listed:
    """Join the files of a source with the rows of tables.

    Args:
      entries: every file of the source; the tables may be among them.
      options: the tables.

    Raises:
      UsageError: a table is not there, or a flag names a view or a finding that no row has.
      DataError: a table is malformed, or only some of its rows have a split.
    """
    declared = FORMATS[options.format]
    contents = declared.read([read_table(path) for path in options.tables], options.reading)
    findings = _chosen(contents.findings, options.reading.findings)
    entries = list(entries)
    files = [entry for entry in entries if isinstance(entry, Item) and entry.path not in options.tables]
    lost = [entry for entry in entries if isinstance(entry, Quarantined)]
    rows, of_other_views = _in_views(contents.rows, options.views)
    by_end = PictureFiles([item.id for item in files], declared.least_parts)

    def found(path: str) -> list[Item]:
        return [files[number] for number in by_end.find(path)]

    joined = _Joined(findings, declared.source)
    for row in rows:
        joined.add(row, found(row.path))
    for row in of_other_views:
        joined.add_view(row, found(row.path))
    items = joined.items()
    known = {item.id for item in items} | joined.named
    for row in of_other_views:
        view = row.view or "unknown"
        for item in found(row.path):
            if item.id not in known:
                lost.append(Quarantined(item.id, "other_view", f"its view is {view} ({row.where})"))
                known.add(item.id)
    lost += [
        Quarantined(item.id, "no_row", "no row of the table names it")
        for item in files
        if item.id not in known
    ]
    lost += joined.lost
    lost += [
        Quarantined(name, "no_row", f"no row of the table names it ({where})")
        for name, where in contents.without_row.items()
        if not found(name)
    ]
    with_split = sum(item.split is not None for item in items)
    if with_split not in (0, len(items)):
        first = next(item.id for item in items if item.split is None)
        raise DataError(
            f"{with_split:,} of {counted(len(items), 'picture')} have a split in the tables, but {first} has "
            "none: give the lists of all splits, or none"
        )
    notes = (*contents.notes, _summary(options, contents, items, lost), f"blanks: {declared.blank}")
    return Listed(tuple(items), tuple(lost), findings, with_split > 0, notes)


def _chosen(findings: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the findings to keep. Raises UsageError: one is none of the table's."""
    by_name = {finding.lower(): finding for finding in findings}
    unknown = [name for name in wanted if name.lower() not in by_name]
    if unknown or len(set(wanted)) < len(wanted):
        wrong = f"{unknown[0]} is no finding of the table" if unknown else "a finding is named twice"
        raise UsageError(f"--classes={','.join(wanted)}: {wrong}; choose from {', '.join(findings)}")
    return tuple(by_name[name.lower()] for name in wanted) or findings


def _in_views(rows: Sequence[Row], views: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """Return the rows of the views to keep, and the others. Raises UsageError: no row is of a view."""
    wanted = {_view(view) for view in views}
    if not wanted:
        return list(rows), []
    present = Counter(_view(row.view) for row in rows)
    for view in views:
        if not present[_view(view)]:
            shown = ", ".join(name for name, _ in present.most_common() if name) or "none"
            raise UsageError(f"--views={','.join(views)}: no row has the view {view}; the views are {shown}")
    kept = [row for row in rows if _view(row.view) in wanted]
    return kept, [row for row in rows if _view(row.view) not in wanted]


def _view(name: str) -> str:
    return _VIEWS.get(name.strip().upper(), name.strip().upper())


class _Joined:
    """The rows that have a file, and those that have none."""

    def __init__(self, findings: Sequence[str], source: str) -> None:
        self._findings = findings
        self._source = source
        self._of_file: dict[str, list[tuple[Row, Item]]] = defaultdict(list)
        self._seen: dict[str, Row] = {}  # of rows without a file
        self.lost: list[Quarantined] = []
        self.named: set[str] = set()

    def add(self, row: Row, files: Sequence[Item]) -> None:
        """Add a row and the files that it may mean."""
        if len(files) == 1:
            self._of_file[files[0].id].append((row, files[0]))
            return
        if files:
            names = " and ".join(item.id for item in files[:2])
            detail = f"{row.where} may mean {names}"
            self.lost += [Quarantined(f.id, "ambiguous", detail) for f in files if f.id not in self.named]
            self.named |= {item.id for item in files}
        elif self._seen.setdefault(row.path, row) is row:
            self.lost.append(Quarantined(row.path, "missing", f"no such file ({row.where})"))
        else:
            self._twice(row, self._seen[row.path])

    def add_view(self, row: Row, files: Sequence[Item]) -> None:
        """Add a row of a view that is left out, where another row of the same file is kept."""
        if len(files) == 1 and files[0].id in self._of_file:
            self._of_file[files[0].id].append((row, files[0]))

    def _twice(self, row: Row, first: Row) -> None:
        detail = f"as in {first.where}"
        self.lost.append(Quarantined(f"{row.path}#{row.where}", "listed_twice", detail))

    def items(self) -> list[Item]:
        """Return the files whose rows agree, by their ids."""
        items: list[Item] = []
        for name, pairs in sorted(self._of_file.items()):
            (first, item), *others = pairs
            against = self._against(first, [row for row, _ in others])
            self.named.add(name)
            for row, _ in others if not against else ():
                self._twice(row, first)
            if against:
                detail = f"{' and '.join(against)} contradict each other"
                self.lost.append(Quarantined(name, "conflicting_rows", detail))
            else:
                items.append(self._item(item, first))
        return items

    def _against(self, first: Row, others: Sequence[Row]) -> tuple[str, str] | None:
        """Return where the rows of a file contradict each other; None where they agree."""
        for row in others:
            if row.against:
                return row.against, row.where
            if self._said(first) != self._said(row):
                return first.where, row.where
        return None

    def _said(self, row: Row) -> tuple[object, ...]:
        return self._labels(row), row.patient, _view(row.view), row.split, row.source

    def _labels(self, row: Row) -> tuple[int, ...]:
        return tuple(row.labels.get(finding, row.rest) for finding in self._findings)

    def _item(self, item: Item, row: Row) -> Item:
        return replace(
            item,
            labels=self._labels(row),
            split=row.split or None,
            group=None if is_nobody(row.patient) else row.patient,
            source=row.source or self._source,
        )


def _summary(
    options: TableOptions, contents: Contents, items: Sequence[Item], lost: Sequence[Quarantined]
) -> str:
    counts = Counter(entry.reason for entry in lost)
    parts = list(_parts_of(counts))
    left = f"; {', '.join(parts)}" if parts else ""
    rows, pictures = counted(len(contents.rows), "row"), counted(len(items), "picture")
    return f"table ({options.format}): {rows}, {pictures}{left}"


def _parts_of(counts: Counter[str]) -> Iterator[str]:
    words = {
        "no_row": "{} files, or names in a list, without a row",
        "missing": "{} rows without a file",
        "listed_twice": "{} rows listed twice",
        "conflicting_rows": "{} pictures with rows that contradict each other",
        "ambiguous": "{} files that a row may mean besides another",
        "other_view": "{} of other views",
    }
    for reason, text in words.items():
        if counts[reason]:
            yield text.format(f"{counts[reason]:,}")
