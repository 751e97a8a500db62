"""PadChest: PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.

    ,ImageID,ImageDir,...,PatientID,...,Projection,...,Labels,...
    0,20536686640136348236148679891455886468_k6ga29.png,0,...,839860488694292331637988235681460987,...,PA,...,
      "['pulmonary fibrosis', 'chronic changes']",...

`Labels` is a Python list in a string, of all findings and diagnoses of the report (Bustos et al., 2020), with
stray blanks and empty names. What is not listed is absent, unless the list says that the report does not
tell: `exclude`, `suboptimal study`, `unchanged`, or nothing at all; then it is unknown.
"""

import ast
from collections.abc import Sequence

from cxr_data.core.errors import DataError
from cxr_data.sources.finding_values import ABSENT, PRESENT, UNKNOWN
from cxr_data.sources.tables.row import Contents, Reading, Row, TableFormat
from cxr_data.sources.tables.table_file import Line, Table

_NORMAL = "normal"
_SAYS_LITTLE = {"exclude", "suboptimal study", "unchanged"}


def _read(tables: Sequence[Table], reading: Reading) -> Contents:
    del reading
    for table in tables:
        table.require("ImageID", "PatientID", "Projection", "Labels")
    rows = tuple(_row(line) for table in tables for line in table.lines())
    return Contents(tuple(sorted({finding for row in rows for finding in row.labels})), rows)


def _row(line: Line) -> Row:
    said = _listed(line)
    return Row(
        path="/".join(filter(None, [line["ImageDir"], line["ImageID"]])),
        labels=dict.fromkeys(sorted(said - {_NORMAL} - _SAYS_LITTLE), PRESENT),
        rest=UNKNOWN if not said or said & _SAYS_LITTLE else ABSENT,
        where=line.where,
        patient=line["PatientID"],
        view=line["Projection"],
    )


def _listed(line: Line) -> set[str]:
    text = line["Labels"]
    if not text or text.lower() == "nan":
        return set()
    try:
        names = ast.literal_eval(text)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("not a list of names")
    except (ValueError, SyntaxError) as error:
        raise DataError(
            f"{line.where}: 'Labels' is {text[:80]!r}: expected is ['NAME', 'NAME', ...]"
        ) from error
    return {" ".join(name.split()).lower() for name in names} - {""}


FORMAT = TableFormat(
    source="padchest",
    files="PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
    blank=(
        "a finding that is not listed is absent, and unknown where nothing, exclude, suboptimal study or "
        "unchanged is listed (Bustos et al., 2020)"
    ),
    read=_read,
)
