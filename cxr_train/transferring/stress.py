"""The stress test: in training the source says the class nine times in ten, in the test the reverse.

From two sources patients are taken so that 90 % of the pictures of one class are of the first source and
10 % of the second, of the other class the reverse. The test has the correlation reversed: a model that has
learned the source is wrong there. The balanced oracle is trained on as many pictures in which the source says
nothing. Nobody has such a set without more pictures of the rare kind, so that its name says oracle.

Patients are placed first: a patient is in one of training, validation and test, and patients with pictures of
both classes are left out. Patients of whom the audit found the same picture are one. The data sets are copies
of records, so that everything reads them as any other.
"""

import dataclasses
import math
import urllib.parse
from collections.abc import Mapping, Sequence

import numpy as np

from cxr_data.core import storage
from cxr_data.core.errors import UsageError
from cxr_data.core.seeded import seeded_fraction, seeded_hash
from cxr_data.records.copies import tied_patients
from cxr_data.records.index import labels_of, read_split_index
from cxr_data.records.manifest import Manifest
from cxr_train.evaluation.decisions import FEW
from cxr_train.transferring.subset import Splits, write_subset

SHARE = 0.9
"""Of a class's pictures in training, those of the source that goes with it."""
_PARTS = {"train": 0.4, "validation": 0.2, "test": 0.4}


@dataclasses.dataclass(frozen=True)
class Correlated:
    """What the stress test is of: in training, the first class comes from the first source.

    Attributes:
      sources: two.
      classes: two.
    """

    sources: tuple[str, str]
    classes: tuple[str, str]


def choose_correlated(patients: Mapping[str, Mapping[str, int]]) -> Correlated | None:
    """Return the two sources and the two classes with the most patients in the rarest of their four cells.

    Args:
      patients: by source and class.

    Returns:
      None where no two sources have enough patients of two classes.
    """
    best, found = 4 * FEW, None
    for first in patients:
        for second in patients:
            for one in patients[first]:
                for other in patients[first]:
                    if first == second or one >= other:
                        continue
                    cells = [patients[source][name] for source in (first, second) for name in (one, other)]
                    if min(cells) > best:
                        best, found = min(cells), Correlated((first, second), (one, other))
    return found


def parse_correlated(text: str, manifest: Manifest) -> Correlated:
    """Parse `CLASS:SOURCE,CLASS:SOURCE`: in training, the class goes with the source.

    A comma in a name is written as %2C, a colon of a class as %3A and a percent sign as %25.

    Raises:
      UsageError: it is none, or the data has no such class or source.
    """
    parts = [part.partition(":") for part in text.split(",")]
    classes, sources = ([urllib.parse.unquote(part[place]) for part in parts] for place in (0, 2))
    known = {*classes} <= {*manifest.class_names} and {*sources} <= {*manifest.sources}
    if not known or len(set(classes)) != 2 or len(set(sources)) != 2:
        raise UsageError(
            f"--stress={text}: must be like pneumonia:guangzhou,normal:nih, with two classes of "
            f"{', '.join(manifest.class_names)} and two of the sources "
            f"{', '.join(map(_written, manifest.sources))}; write a comma in a name as %2C"
        )
    return Correlated((sources[0], sources[1]), (classes[0], classes[1]))


def _written(name: str) -> str:
    """Return a name as `--stress` takes it."""
    return urllib.parse.quote(name, safe=" /") if {*name} & {*"%,"} else name


def stress_splits(manifest: Manifest, correlated: Correlated, *, seed: int = 0) -> dict[str, Splits]:
    """Return the rows of the two data sets by name and split: `data` and `oracle_data`, with the same test.

    Raises:
      UsageError: the two sources have too few patients of the two classes.
      DataError: a shard cannot be read.
    """
    pool = "+".join(manifest.splits)
    rows = read_split_index(manifest, pool)
    groups = tied_patients(manifest, pool)
    cells = _cells(manifest, correlated, rows, groups)
    part_of = {group: _part_of(group, seed) for group in groups}
    data, oracle_data = {}, {}
    for part in _PARTS:
        there = {
            cell: [row for row in of_cell if part_of[groups[row]] == part] for cell, of_cell in cells.items()
        }
        # So that the oracle has as many pictures, and no more.
        images = min(_images_of_class(there, share) for share in (SHARE, 0.5, 1 - SHARE))
        if images < FEW:
            raise UsageError(
                f"--stress: {' and '.join(correlated.sources)} have too few patients of "
                f"{' and '.join(correlated.classes)} for a {part} split; name others, or leave it out "
                "with --stress=none"
            )
        data[part] = _take(there, 1 - SHARE if part == "test" else SHARE, images, groups, seed)
        oracle_data[part] = data[part] if part == "test" else _take(there, 0.5, images, groups, seed)
    return {"data": data, "oracle_data": oracle_data}


def write_stress(manifest: Manifest, splits: Mapping[str, Splits], directory: str) -> None:
    """Write the data sets of `stress_splits` into a folder, unless they are there already."""
    rows = read_split_index(manifest, "+".join(manifest.splits))
    for name, of_splits in splits.items():
        write_subset(manifest, storage.join(directory, name), rows, of_splits)


def _part_of(group: str, seed: int) -> str:
    fraction = seeded_fraction(seed, "stress part", group)
    for part, share in _PARTS.items():
        fraction -= share
        if fraction < 0:
            return part
    return "test"


Cells = Mapping[tuple[int, int], Sequence[int]]


def _cells(
    manifest: Manifest, correlated: Correlated, rows: np.ndarray, groups: Sequence[str]
) -> dict[tuple[int, int], list[int]]:
    """Return the rows of each source (0 or 1) and class (0 or 1), of patients with one of the classes."""
    sources = [manifest.sources.index(name) for name in correlated.sources]
    classes = [manifest.class_names.index(name) for name in correlated.classes]
    labels = labels_of(rows)
    classes_of: dict[str, set[int]] = {}
    for group, label in zip(groups, labels.tolist(), strict=True):
        classes_of.setdefault(group, set()).add(label)
    return {
        (source, one): [
            row
            for row in np.flatnonzero((rows["source"] == number) & (labels == label)).tolist()
            if len(classes_of[groups[row]]) == 1
        ]
        for source, number in enumerate(sources)
        for one, label in enumerate(classes)
    }


def _images_of_class(cells: Cells, share: float) -> int:
    """Return the most pictures of each class of which `share` is of the source that goes with it."""
    return min(
        math.floor(len(rows) / (share if source == one else 1 - share))
        for (source, one), rows in cells.items()
    )


def _take(cells: Cells, share: float, images: int, groups: Sequence[str], seed: int) -> list[int]:
    """Return rows of whole patients, in a random order of patients, of each class about `images`."""
    taken = []
    for (source, one), rows in cells.items():
        wanted = round(images * (share if source == one else 1 - share))
        by_patient: dict[str, list[int]] = {}
        for row in rows:
            by_patient.setdefault(groups[row], []).append(row)
        left = wanted
        for patient in sorted(by_patient, key=lambda name: seeded_hash(seed, "stress", name)):
            if len(by_patient[patient]) <= left:
                taken += by_patient[patient]
                left -= len(by_patient[patient])
    return sorted(taken)
