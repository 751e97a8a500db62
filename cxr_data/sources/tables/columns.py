"""A table of one's own: a line a picture, and a column for each finding.

    path,patient,view,split,source,effusion,edema
    a/1.png,p1,PA,train,north,1,0
    a/2.png,p1,AP,train,north,-1,

`path` is needed, the other named columns are not. A finding is 1 (present), 0 (absent), -1 (uncertain), or
blank, which is unknown. Without --classes every other column that holds nothing else is a finding.
"""

from collections.abc import Sequence

from cxr_data.core.errors import DataError
from cxr_data.sources.finding_values import UNKNOWN
from cxr_data.sources.tables.row import Contents, Reading, Row, TableFormat, is_value, values_of
from cxr_data.sources.tables.table_file import PATIENT_COLUMNS, Line, Table

_OF_NO_FINDING = {
    "path", "view", "split", "source", "label", "id", "study", "study_id", "age", "sex", "gender",
    *PATIENT_COLUMNS,
}  # fmt: skip


def _read(tables: Sequence[Table], reading: Reading) -> Contents:
    rows: list[Row] = []
    findings, notes = _findings(tables, reading)
    for table in tables:
        table.require("path", *findings)
        patient = next((name for name in PATIENT_COLUMNS if table.has(name)), "patient")
        rows += [_row(line, findings, patient) for line in table.lines()]
    return Contents(findings, tuple(rows), notes)


def _findings(tables: Sequence[Table], reading: Reading) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if reading.findings:
        return reading.findings, ()
    columns = [name for name in tables[0].columns if name and name.lower() not in _OF_NO_FINDING]
    others = {name for name in columns for line in tables[0].lines() if not is_value(line[name])}
    findings = tuple(name for name in columns if name not in others)
    if not findings:
        raise DataError(
            f"{tables[0].path} has no column of a finding (1, 0, -1 or blank), only "
            f"{', '.join(tables[0].columns)}"
        )
    passed_over = [name for name in columns if name in others]
    note = f"columns that are taken for no finding: {', '.join(passed_over)}; --classes names the findings"
    return findings, (note,) if passed_over else ()


def _row(line: Line, findings: Sequence[str], patient: str) -> Row:
    return Row(
        path=line["path"],
        labels=values_of(line, findings),
        rest=UNKNOWN,
        where=line.where,
        patient=line[patient],
        view=line["view"],
        split=line["split"],
        source=line["source"],
    )


FORMAT = TableFormat(
    source="",
    files="FILE.csv with the columns path,FINDING,FINDING,... and, if wished, patient,view,split,source",
    blank="blank is unknown",
    read=_read,
    least_parts=0,
)
