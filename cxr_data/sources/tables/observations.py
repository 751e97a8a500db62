"""The 14 observations of the CheXpert labeler, which labelled CheXpert and MIMIC-CXR.

Irvin et al. (2019): 1 is mentioned as present, 0 as absent, -1 with uncertainty, and blank is not mentioned.
"No Finding" is 1 where no pathology is positive or uncertain, and has no other value: there a blank
pathology is absent (a support device is no pathology), and a blank "No Finding" is 0. That last rule is
torchxrayvision's, not the labeler's.
"""

from cxr_data.sources.finding_values import ABSENT, PRESENT, UNKNOWN
from cxr_data.sources.tables.row import value_of
from cxr_data.sources.tables.table_file import Line

NOTHING, DEVICES = "No Finding", "Support Devices"
FINDINGS = (
    NOTHING,
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    DEVICES,
)


def blank_by(authors: str) -> str:
    """Return what a blank says, and whose rules these are, in words."""
    return (
        f"blank is unknown: not mentioned ({authors}); where No Finding is 1 a blank pathology is absent, a "
        "rule of torchxrayvision"
    )


def labels_of(line: Line) -> dict[str, int]:
    """Return {observation: value} of a line. Raises DataError: a cell holds something else."""
    nothing = value_of(line, NOTHING, ABSENT)
    blank = ABSENT if nothing == PRESENT else UNKNOWN
    return {
        name: nothing if name == NOTHING else value_of(line, name, UNKNOWN if name == DEVICES else blank)
        for name in FINDINGS
    }
