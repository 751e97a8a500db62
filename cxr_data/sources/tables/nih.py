"""NIH ChestX-ray14: Data_Entry_2017.csv or Data_Entry_2017_v2020.csv, and the official lists of a split.

    Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,...

The labels were mined from reports (Wang et al., 2017): `Cardiomegaly|Effusion`, or `No Finding`. Each picture
has the list of all findings of its report, so what is not listed is absent.
"""

from collections.abc import Sequence

from cxr_data.core.errors import DataError
from cxr_data.sources.finding_values import ABSENT, PRESENT
from cxr_data.sources.tables.row import Contents, Reading, Row, TableFormat
from cxr_data.sources.tables.split_lists import SplitEntry, with_splits
from cxr_data.sources.tables.table_file import Line, Table

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
_NOTHING = "No Finding"
_SPLIT_OF_LIST = {"train_val_list": "train", "test_list": "test"}


def _read(tables: Sequence[Table], reading: Reading) -> Contents:
    del reading
    listed: list[SplitEntry] = []
    entries = []
    for table in tables:
        split = _SPLIT_OF_LIST.get(table.name.partition(".")[0].lower())
        if split:
            listed += [SplitEntry(name, split, where) for name, where in table.names_in_lines()]
        else:
            table.require("Image Index", "Finding Labels", "Patient ID", "View Position")
            entries.append(table)
    rows, without_row = with_splits((_row(line) for table in entries for line in table.lines()), listed)
    return Contents(FINDINGS, tuple(rows), without_row=without_row)


def _row(line: Line) -> Row:
    said = {name.strip() for name in line["Finding Labels"].split("|")} - {"", _NOTHING}
    unknown = sorted(said - set(FINDINGS))
    if unknown or not line["Finding Labels"]:
        raise DataError(
            f"{line.where}: 'Finding Labels' is {line['Finding Labels']!r}: expected are No Finding or, "
            f"between |, some of {', '.join(FINDINGS)}"
        )
    return Row(
        path=line["Image Index"],
        labels=dict.fromkeys(said, PRESENT),
        rest=ABSENT,
        where=line.where,
        patient=line["Patient ID"],
        view=line["View Position"],
    )


FORMAT = TableFormat(
    source="nih",
    files="Data_Entry_2017.csv or Data_Entry_2017_v2020.csv, and if wished train_val_list.txt,test_list.txt",
    blank="a finding that is not listed is absent (Wang et al., 2017)",
    read=_read,
)
