"""The sources that can be held out: those with enough patients of two classes, and what they share.

Of a class, a number is reported where at least `FEW` patients have it, and of its AUROC where as many have
another. "Too few" is said of all others.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from cxr_data.core.errors import DataError
from cxr_data.input.mix import LEAST_IN_BATCH
from cxr_data.records.folds import positions_of
from cxr_data.records.index import labels_of, read_split_fields, read_split_index
from cxr_data.records.manifest import Manifest
from cxr_data.records.split_names import source_splits
from cxr_train.evaluation.decisions import FEW

_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Target:
    """A source that is held out, and what is trained without it.

    Attributes:
      source: its name.
      images: of it.
      patients: by class, those with an image of it.
      train_split, validation_split: of all other sources.
      split: all of its images.
      own_train, own_validation, own_test: of it alone, for the bound.
      batch_size: with whole and equal numbers of each training source.
    """

    source: str
    images: int
    patients: dict[str, int]
    train_split: str
    validation_split: str
    split: str
    own_train: str
    own_validation: str
    own_test: str
    batch_size: int

    @property
    def is_measurable(self) -> bool:
        """Whether the AUROC of a class can be reported."""
        return sum(patients >= FEW for patients in self.patients.values()) > 1


def find_targets(manifest: Manifest, train: str, validation: str, test: str) -> list[Target]:
    """Return every named source as a target, in the order of the manifest.

    Args:
      manifest: of the data.
      train, validation, test: the splits.

    Raises:
      DataError: there are fewer than two sources, or a patient is of two.
    """
    names = [name for name in manifest.sources if name]
    if len(names) < 2:
        raise DataError(
            f"{manifest.directory} says of {len(names)} sources where its pictures are from; two are needed: "
            "convert them with a column `source`, or from folders CLASS/SOURCE/"
        )
    pool = "+".join(manifest.splits)
    rows = read_split_index(manifest, pool)
    sources = rows["source"]
    groups = np.array([record.group for record in read_split_fields(manifest, pool)])
    _refuse_shared_patients(manifest, groups, sources)
    labels = labels_of(rows)
    return [
        _target(manifest, name, (train, validation, test), pool, sources, groups, labels) for name in names
    ]


def _target(
    manifest: Manifest,
    name: str,
    splits: tuple[str, str, str],
    pool: str,
    sources: np.ndarray,
    groups: np.ndarray,
    labels: np.ndarray,
) -> Target:
    own = sources == manifest.sources.index(name)
    patients = {
        of_class: len(set(groups[own & (labels == number)]))
        for number, of_class in enumerate(manifest.class_names)
    }
    (train, own_train), (validation, own_validation), (_, own_test) = (
        source_splits(split, [name]) for split in splits
    )
    training = read_split_index(manifest, train)["source"][positions_of(manifest, train)]
    return Target(
        source=name,
        images=int(own.sum()),
        patients=patients,
        train_split=train,
        validation_split=validation,
        split=source_splits(pool, [name])[1],
        own_train=own_train,
        own_validation=own_validation,
        own_test=own_test,
        batch_size=batch_of(len(set(training.tolist())), len(training)),
    )


def batch_of(sources: int, images: int) -> int:
    """Return a batch size that has as many examples of each of some sources: enough, and not more than all.

    Args:
      sources: how many there are in training.
      images: all that are trained on.
    """
    return sources * max(LEAST_IN_BATCH, min(math.ceil(_BATCH / sources), images // sources))


def _refuse_shared_patients(manifest: Manifest, groups: np.ndarray, sources: np.ndarray) -> None:
    source_of: dict[str, int] = {}
    for group, source in zip(groups.tolist(), sources.tolist(), strict=True):
        if (first := source_of.setdefault(group, source)) != source:
            both: Sequence[str] = sorted(manifest.sources[number] for number in (first, source))
            raise DataError(
                f"{manifest.directory}: patient {group!r} is of {both[0]!r} and of {both[1]!r}: a held-out "
                "source would be trained on; give the patients of each source names of their own"
            )
