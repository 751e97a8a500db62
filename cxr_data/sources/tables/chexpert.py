"""CheXpert: train.csv and valid.csv.

    Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,...,Support Devices
    CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,...

The path begins with the name of the release, which the folder of the pictures may not have; it holds the
official split and the patient. `observations` says what a blank is.
"""

import re
from collections.abc import Sequence

from cxr_data.core.errors import DataError
from cxr_data.sources.finding_values import UNKNOWN
from cxr_data.sources.names import split_of
from cxr_data.sources.tables import observations
from cxr_data.sources.tables.row import Contents, Reading, Row, TableFormat
from cxr_data.sources.tables.table_file import Line, Table

_PATH = re.compile(r"(?:^|/)(?P<split>train|valid|val|test)/(?P<patient>patient\d+)/study\d+/[^/]+$")


def _read(tables: Sequence[Table], reading: Reading) -> Contents:
    del reading
    for table in tables:
        table.require("Path", "Frontal/Lateral", *observations.FINDINGS)
    return Contents(observations.FINDINGS, tuple(_row(line) for table in tables for line in table.lines()))


def _row(line: Line) -> Row:
    found = _PATH.search(line["Path"])
    if not found:
        raise DataError(
            f"{line.where}: the path {line['Path']!r} is not .../train/patient00001/study1/NAME.jpg"
        )
    is_frontal = line["Frontal/Lateral"].lower() == "frontal"
    return Row(
        path=line["Path"],
        labels=observations.labels_of(line),
        rest=UNKNOWN,
        where=line.where,
        patient=found["patient"],
        view=line["AP/PA"] or "frontal" if is_frontal else line["Frontal/Lateral"],
        split=split_of(found["split"]) or "",
    )


FORMAT = TableFormat(
    source="chexpert",
    files="train.csv,valid.csv",
    blank=observations.blank_by("Irvin et al., 2019"),
    read=_read,
    least_parts=3,
)
