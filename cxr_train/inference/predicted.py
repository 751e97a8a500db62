"""The predictions of image files as CSV, JSON or the challenge's file; made without TensorFlow."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cxr_data.core.csv_table import csv_bytes
from cxr_data.core.errors import DataError
from cxr_train.runs.notice import NOTICE

# The challenge's numbers, whatever the order of a model's classes.
SUBMISSION_CLASSES = {"covid": 0, "normal": 1, "pneumonia": 2}

Row = dict[str, Any]


def to_csv(rows: Sequence[Row], class_names: Sequence[str]) -> bytes:
    """Write predictions as CSV, one line a file: file, predicted, a probability a class, error."""
    lines = [["file", "predicted", *(f"p_{name}" for name in class_names), "error"]]
    for row in rows:
        probabilities = row["probabilities"] or {}
        values = (repr(probabilities[name]) if probabilities else "" for name in class_names)
        lines.append([row["file"], row["predicted"] or "", *values, row["error"] or ""])
    return csv_bytes(lines)


def to_json(
    rows: Sequence[Row],
    class_names: Sequence[str],
    temperature: float = 1.0,
    lines: Mapping[str, Sequence[float] | None] | None = None,
) -> bytes:
    """Write predictions as JSON, with the notice and the calibration of their probabilities: the temperature,
    and `platt`, slope and offset of each finding, where there are `lines`.
    """
    document = {
        "notice": NOTICE,
        "class_names": list(class_names),
        "temperature": temperature,
        **({"platt": dict(lines)} if lines else {}),
        "predictions": list(rows),
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def to_submission(rows: Sequence[Row]) -> bytes:
    """Write predictions as the challenge's file: CRLF lines `case,class`, ordered by case, the file's name.

    Raises:
      DataError: a class that the challenge does not have, a file that was not predicted, or two
        files of one name.
    """
    lines = {}
    for row in rows:
        case = pathlib.PurePath(row["file"]).name
        if row["predicted"] not in SUBMISSION_CLASSES:
            reason = row["error"] or f"{row['predicted']} is no class of the challenge"
            raise DataError(
                f"--submission: every case needs a class, and {row['file']} has none: {reason}; repair "
                "the file, or leave it out"
            )
        if case in lines:
            raise DataError(f"--submission: two files are case {case}, such as {row['file']}")
        lines[case] = [case, str(SUBMISSION_CLASSES[row["predicted"]])]
    return csv_bytes([["case", "class"], *(lines[case] for case in sorted(lines))], line_end="\r\n")
