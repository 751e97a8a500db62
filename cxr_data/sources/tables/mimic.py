"""MIMIC-CXR(-JPG): the tables of labels, metadata and split, joined on dicom_id and study_id.

    mimic-cxr-2.0.0-chexpert.csv.gz   subject_id,study_id,Atelectasis,...          a line a study
    mimic-cxr-2.0.0-metadata.csv.gz   dicom_id,subject_id,study_id,...,ViewPosition,...   a line a picture
    mimic-cxr-2.0.0-split.csv.gz      dicom_id,study_id,subject_id,split           a line a picture

The labels are those of a study, so that all its pictures have the same. `observations` says what a blank is.
"""

from collections.abc import Sequence

from cxr_data.core.errors import DataError, UsageError
from cxr_data.sources.finding_values import UNKNOWN
from cxr_data.sources.tables import observations
from cxr_data.sources.tables.row import Contents, Reading, Row, TableFormat
from cxr_data.sources.tables.table_file import Line, Table

_SPLITS = {"validate": "validation"}
_SHOWN = 3


def _read(tables: Sequence[Table], reading: Reading) -> Contents:
    del reading
    studies: dict[str, Line] = {}
    pictures: dict[str, Line] = {}
    split_of: dict[str, str] = {}
    for table in tables:
        table.require("study_id")
        if table.has("split"):
            split_of |= {line["dicom_id"]: line["split"] for line in table.lines()}
        elif table.has("dicom_id"):
            table.require("ViewPosition")
            pictures |= {line["dicom_id"]: line for line in table.lines()}
        else:
            table.require(*observations.FINDINGS)
            studies |= _studies(table)
    if not studies or not pictures:
        missing = "labels (mimic-cxr-2.0.0-chexpert.csv.gz)" if not studies else "metadata"
        raise UsageError(f"--table: the table of {missing} is missing; give {FORMAT.files}")
    rows = [
        Row(
            path=name,
            labels=observations.labels_of(studies[line["study_id"]]),
            rest=UNKNOWN,
            where=line.where,
            patient=line["subject_id"],
            view=line["ViewPosition"],
            split=_SPLITS.get(split_of.get(name, ""), split_of.get(name, "")),
        )
        for name, line in pictures.items()
        if line["study_id"] in studies
    ]
    return Contents(observations.FINDINGS, tuple(rows), _notes(pictures, studies))


def _studies(table: Table) -> dict[str, Line]:
    studies: dict[str, Line] = {}
    for line in table.lines():
        first = studies.setdefault(line["study_id"], line)
        if first.cells != line.cells:
            raise DataError(f"{line.where}: study {line['study_id']} has other labels in {first.where}")
    return studies


def _notes(pictures: dict[str, Line], studies: dict[str, Line]) -> tuple[str, ...]:
    without = [name for name, line in pictures.items() if line["study_id"] not in studies]
    if not without:
        return ()
    shown = ", ".join(without[:_SHOWN])
    return (f"{len(without):,} pictures of the metadata have no labels of their study, as {shown}",)


FORMAT = TableFormat(
    source="mimic",
    files="mimic-cxr-2.0.0-chexpert.csv.gz,mimic-cxr-2.0.0-metadata.csv.gz,mimic-cxr-2.0.0-split.csv.gz",
    blank=f"{observations.BLANK} (Irvin et al., 2019; Johnson et al., 2019)",
    read=_read,
)
