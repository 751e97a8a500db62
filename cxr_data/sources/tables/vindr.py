"""VinDr-CXR: image_labels_train.csv and image_labels_test.csv.

    image_id,rad_id,Aortic enlargement,...,No finding      three radiologists a picture in the training set
    image_id,Aortic enlargement,...,No finding             the consensus of five in the test set

The training table names a finding `Other diseases`, the test table `Other disease`: it is one finding.

Every reader marks all findings (Nguyen et al., 2022), so that nothing is blank. Where readers differ,
--readers says what they say together: `majority`, an equal number of either being uncertain; or `any`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from cxr_data.core.errors import DataError
from cxr_data.sources.finding_values import ABSENT, PRESENT, UNCERTAIN, UNKNOWN
from cxr_data.sources.names import split_of
from cxr_data.sources.tables.row import Contents, Reading, Row, TableFormat, value_of
from cxr_data.sources.tables.table_file import Line, Table

_OF_NO_FINDING = ("image_id", "rad_id")
_RENAMED = {"other disease": "Other diseases"}
"""Columns of the test table that the training table names otherwise."""


def _read(tables: Sequence[Table], reading: Reading) -> Contents:
    findings: tuple[str, ...] = ()
    rows: list[Row] = []
    differing = pictures = 0
    for table in tables:
        table.require("image_id", "No finding")
        columns = [column for column in table.columns if column.lower() not in _OF_NO_FINDING and column]
        column_of = {_RENAMED.get(column.lower(), column).lower(): column for column in columns}
        findings = findings or tuple(_RENAMED.get(column.lower(), column) for column in columns)
        if column_of.keys() != {name.lower() for name in findings}:
            raise DataError(
                f"{table.path} has other findings than {tables[0].path}: give the tables of one release"
            )
        by_picture: dict[str, list[Line]] = defaultdict(list)
        for line in table.lines():
            by_picture[line["image_id"]].append(line)
        pictures += len(by_picture)
        for name, lines in by_picture.items():
            once, twice = _once(lines)
            readings = [{f: value_of(line, column_of[f.lower()], UNKNOWN) for f in findings} for line in once]
            differing += any(one != readings[0] for one in readings)
            labels = {f: _together([one[f] for one in readings], reading.readers) for f in findings}
            row = Row(name, labels, UNKNOWN, once[0].where, split=_split_of(table))
            rows.append(row)
            for line, first in twice:
                against = "" if line.cells == first.cells else first.where
                rows.append(replace(row, where=line.where, against=against))
    notes = (f"readers differ on {differing:,} of {pictures:,} pictures: --readers={reading.readers}",)
    return Contents(findings, tuple(rows), notes if differing else ())


def _once(lines: Sequence[Line]) -> tuple[list[Line], list[tuple[Line, Line]]]:
    """Return the lines of a picture, each reader's first, and the further ones, each with that first; a
    consensus has one line.
    """
    by_reader: dict[str, Line] = {}
    twice = []
    for line in lines:
        first = by_reader.setdefault(line["rad_id"], line)
        if first is not line:
            twice.append((line, first))
    return list(by_reader.values()), twice


def _together(values: Sequence[int], readers: str) -> int:
    known = [value for value in values if value in (PRESENT, ABSENT)]
    present = known.count(PRESENT)
    if not known:
        return UNCERTAIN if UNCERTAIN in values else UNKNOWN
    if readers == "any":
        return PRESENT if present else ABSENT
    if 2 * present == len(known):
        return UNCERTAIN
    return PRESENT if 2 * present > len(known) else ABSENT


def _split_of(table: Table) -> str:
    words = table.name.lower().partition(".")[0].split("_")
    return next((split for word in words if (split := split_of(word))), "")


FORMAT = TableFormat(
    source="vindr",
    files="image_labels_train.csv,image_labels_test.csv",
    blank="nothing is blank: every reader marks all findings (Nguyen et al., 2022)",
    read=_read,
)
