"""MIMIC-CXR(-JPG): the tables of labels, metadata and split, joined on dicom_id and study_id.

    mimic-cxr-2.0.0-chexpert.csv.gz   subject_id,study_id,Atelectasis,...          a line a study
    mimic-cxr-2.0.0-metadata.csv.gz   dicom_id,subject_id,study_id,...,ViewPosition,...   a line a picture
    mimic-cxr-2.0.0-split.csv.gz      dicom_id,study_id,subject_id,split           a line a picture

The labels are those of a study, so that all its pictures have the same. `observations` says what a blank is.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from cxr_data.core.errors import UsageError
from cxr_data.sources.finding_values import UNKNOWN
from cxr_data.sources.tables import observations
from cxr_data.sources.tables.row import Contents, Reading, Row, TableFormat
from cxr_data.sources.tables.split_lists import SplitEntry, with_splits
from cxr_data.sources.tables.table_file import Line, Table

_SPLITS = {"validate": "validation"}
_SHOWN = 3
Labels = Mapping[str, int]


def _read(tables: Sequence[Table], reading: Reading) -> Contents:
    del reading
    studies: dict[str, list[Line]] = defaultdict(list)
    pictures: dict[str, list[Line]] = defaultdict(list)
    listed: list[SplitEntry] = []
    for table in tables:
        table.require("study_id")
        if table.has("split"):
            listed += [_entry(line) for line in table.lines()]
        elif table.has("dicom_id"):
            table.require("ViewPosition")
            for line in table.lines():
                pictures[line["dicom_id"]].append(line)
        else:
            table.require(*observations.FINDINGS)
            for line in table.lines():
                studies[line["study_id"]].append(line)
    if not studies or not pictures:
        missing = "labels (mimic-cxr-2.0.0-chexpert.csv.gz)" if not studies else "metadata"
        raise UsageError(f"--table: the table of {missing} is missing; give {FORMAT.files}")
    labels_of = {study: [observations.labels_of(line) for line in lines] for study, lines in studies.items()}
    rows = [row for lines in pictures.values() for row in _rows(lines, studies, labels_of)]
    with_labels = {row.path for row in rows}
    unlabelled = {name: lines[0].where for name, lines in pictures.items() if name not in with_labels}
    joined, without_row = with_splits(rows, listed)
    return Contents(observations.FINDINGS, tuple(joined), _notes(unlabelled), without_row | unlabelled)


def _entry(line: Line) -> SplitEntry:
    split = _SPLITS.get(line["split"], line["split"])
    return SplitEntry(line["dicom_id"], split, line.where, line["subject_id"])


def _rows(
    lines: Sequence[Line], studies: Mapping[str, Sequence[Line]], labels_of: Mapping[str, Sequence[Labels]]
) -> Iterator[Row]:
    """Yield a row for each line of a picture in the metadata, and for each further line of its study."""
    for number, line in enumerate(lines):
        study = line["study_id"]
        for labels, said in zip(labels_of.get(study, ()), studies.get(study, ()), strict=True):
            is_first = said is studies[study][0]
            if is_first or not number:
                where = line.where if is_first else said.where
                patient, view = line["subject_id"], line["ViewPosition"]
                yield Row(line["dicom_id"], labels, UNKNOWN, where, patient=patient, view=view)


def _notes(unlabelled: Mapping[str, str]) -> tuple[str, ...]:
    if not unlabelled:
        return ()
    shown = ", ".join(list(unlabelled)[:_SHOWN])
    return (f"{len(unlabelled):,} pictures of the metadata have no labels of their study, as {shown}",)


FORMAT = TableFormat(
    source="mimic",
    files="mimic-cxr-2.0.0-chexpert.csv.gz,mimic-cxr-2.0.0-metadata.csv.gz,mimic-cxr-2.0.0-split.csv.gz",
    blank=observations.blank_by("Irvin et al., 2019; Johnson et al., 2019"),
    read=_read,
)
