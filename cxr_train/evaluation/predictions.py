"""The predictions of a model for every image of a split, as `predictions_{split}.csv` holds them.

    one class an image: id, group, label, predicted, p_CLASS...
    findings:           id, group, y_FINDING..., p_FINDING...

`label` and `predicted` are names of classes; y is 1 present, 0 absent, -1 uncertain, -2 unknown.
"""

import csv
import dataclasses
import pathlib
from typing import Any

import numpy as np

from cxr_data.core import storage
from cxr_data.core.csv_table import csv_bytes, csv_rows
from cxr_data.core.errors import DataError, one_line
from cxr_data.records.example import is_known_patient, patient_of

_COLUMNS = ("id", "group", "label", "predicted")
_OF_FINDINGS = ("id", "group")
_LABEL, _PROBABILITY = "y_", "p_"


@dataclasses.dataclass(frozen=True)
class NamedPredictions:
    """Predictions with the images' names: what `predictions_{split}.csv` holds.

    Attributes:
      source: the file, or the run, that they are from.
      class_names: C names in index order.
      ids: [N], the records' ids, which are distinct.
      groups: [N], their patients; the id where none is known.
      labels: int64 [N] in [0, C); or [N, C] of findings, see `decisions`.
      probabilities: float64 [N, C] in [0, 1], see `six_digits`.
    """

    source: str
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def without_patient(self) -> int:
        """How many images have no known patient, and count as a patient of their own."""
        return sum(not is_known_patient(*pair) for pair in zip(self.ids, self.groups, strict=True))


def six_digits(probabilities: np.ndarray) -> np.ndarray:
    """Round probabilities to six significant digits, or to more where these would say something else.

    Probabilities are rounded first, then evaluated and written: the file gives the same metrics again. The
    order stays, and so do predicted classes, AUROC and AUPRC. Plain rounding would make ties of the images
    that a model is most sure of. It would also make 1 of 0.9999997, and of the wrong label of a finding a
    loss, and a logit, as large as one likes.

    Args:
      probabilities: float64 [...] in [0, 1].

    Returns:
      float64 [...], each within 5e-6 of its probability, relatively, and 1 minus it within 1 %.
    """
    distinct, place = np.unique(probabilities, return_inverse=True)
    short = distinct.copy()
    coarse = np.ones(len(distinct), bool)
    digits = 6
    while coarse.any():
        short[coarse] = [float(f"{p:.{digits}g}") for p in distinct[coarse]]
        values, counts = np.unique(short, return_counts=True)
        is_tied = np.isin(short, values[counts > 1])
        coarse = is_tied | (np.abs(short - distinct) > 0.01 * (1 - distinct))
        digits += 1
    shortened: np.ndarray = short[place].reshape(probabilities.shape)
    return shortened


def write_predictions(path: pathlib.Path, predictions: NamedPredictions) -> None:
    """Write one line an image, see the head of this file.

    The probabilities are written with all the digits that they have, so that reading them gives them back.
    """
    names = predictions.class_names
    of_findings = predictions.labels.ndim == 2
    first = [*_OF_FINDINGS, *(f"{_LABEL}{name}" for name in names)] if of_findings else [*_COLUMNS]
    rows = [[*first, *(f"{_PROBABILITY}{name}" for name in names)]]
    columns = zip(
        predictions.ids, predictions.groups, predictions.labels, predictions.probabilities, strict=True
    )
    for image_id, group, label, probabilities in columns:
        said = (
            [str(value) for value in label] if of_findings else [names[label], names[probabilities.argmax()]]
        )
        rows.append([image_id, group, *said, *(repr(float(probability)) for probability in probabilities)])
    storage.replace(path, csv_bytes(rows))


def read_predictions(path: pathlib.Path) -> NamedPredictions:
    """Read what `write_predictions` wrote.

    Raises:
      DataError: it is not there, or not such a file; names the line.
    """
    text = storage.read_bytes(str(path)).decode("utf-8", "surrogateescape")
    try:
        (_, header), *rows = csv_rows(text or "\n")
    except csv.Error as error:
        raise DataError(f"{path} is not a file of predictions: {error}") from error
    class_names = tuple(n.removeprefix(_PROBABILITY) for n in header if n.startswith(_PROBABILITY))
    of_findings = tuple(header[:2]) == _OF_FINDINGS and tuple(header[: len(_COLUMNS)]) != _COLUMNS
    first = (*_OF_FINDINGS, *(_LABEL + name for name in class_names)) if of_findings else _COLUMNS
    if (
        not class_names
        or len({*class_names}) < len(class_names)
        or tuple(header) != (*first, *(_PROBABILITY + name for name in class_names))
    ):
        raise DataError(f"{path} is not a file of predictions: its first line is {','.join(header)[:80]!r}")
    number = {name: index for index, name in enumerate(class_names)}
    columns: tuple[list[Any], ...] = ([], [], [], [])
    for line, row in rows:
        try:
            image_id, group, *said = row[: len(first)]
            values = [float(value) for value in row[len(first) :]]
            if len(values) != len(class_names):
                raise ValueError(f"{len(values)} probabilities of {len(class_names)} classes")
            if not all(0 <= value <= 1 for value in values):
                raise ValueError("a probability outside of [0, 1]")
            label = [_label_of_finding(text) for text in said] if of_findings else number[said[0]]
            # Early files of shards of other programs have neither.
            name = image_id or f"line {line}"
            entries = (name, patient_of(name, group), label, values)
        except (ValueError, KeyError, IndexError) as error:
            reason = one_line(str(error)[:200])
            raise DataError(f"{path} line {line} is damaged ({reason}): evaluate the run again") from error
        for column, entry in zip(columns, entries, strict=True):
            column.append(entry)
    ids, groups, labels, values = columns
    shape = (len(ids), len(class_names))
    return NamedPredictions(
        source=str(path),
        class_names=class_names,
        ids=tuple(ids),
        groups=tuple(groups),
        labels=np.array(labels, np.int64).reshape(shape if of_findings else shape[:1]),
        probabilities=np.array(values, np.float64).reshape(shape),
    )


def _label_of_finding(text: str) -> int:
    if text not in ("1", "0", "-1", "-2"):
        raise ValueError(f"a label {text!r}, which is none of 1, 0, -1 and -2")
    return int(text)
