"""The sources that can be held out: those with enough patients of two classes, without which all classes are
learned, and what they share.

Of a class, a number is reported where at least `FEW` patients have it, and of its AUROC where as many have
another. "Too few" is said of all others.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.wording import counted, tool
from cxr_data.input.mix import LEAST_IN_BATCH
from cxr_data.records.audit_document import has_audit
from cxr_data.records.copies import are_of_sources
from cxr_data.records.folds import positions_of
from cxr_data.records.index import labels_of, read_split_fields, read_split_index
from cxr_data.records.manifest import Manifest
from cxr_data.records.split_names import source_splits
from cxr_train.evaluation.decisions import FEW

_BATCH = 64
_MANY_TIMES = 10
FEW_PATIENTS = "too few patients of two classes"


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
      training_images: of all of these sources.
      smallest: the training source with the fewest images, and their number; None without one.
      training_sources: how many there are.
      obstacle: why it cannot be held out, in words; empty where it can.
      unknown: images of the other splits of unknown source, which are left out.
      shared: images of other sources that are left out, since their patients are in this source too.
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
    training_images: int
    smallest: tuple[str, int] | None
    training_sources: int
    unknown: int
    shared: int
    obstacle: str


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
    unknown, shared = _left_out(manifest, name, "+".join(dict.fromkeys(splits[:2])))
    is_disjoint = unknown + shared > 0
    (train, own_train), (validation, own_validation), (_, own_test) = (
        source_splits(split, [name], is_disjoint=is_disjoint) for split in splits
    )
    training = _rows_of(manifest, train)
    by_source = Counter(training["source"].tolist())
    smallest = min(by_source, key=lambda number: (by_source[number], number), default=None)
    batch_size = batch_of(max(len(by_source), 1), len(training))
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
        batch_size=batch_size,
        training_images=len(training),
        smallest=None if smallest is None else (manifest.sources[smallest], by_source[smallest]),
        training_sources=len(by_source),
        unknown=unknown,
        shared=shared,
        obstacle=_obstacle(manifest, patients, training, _rows_of(manifest, validation), batch_size),
    )


def _rows_of(manifest: Manifest, split: str) -> np.ndarray:
    """Return the rows of the index of a split, or of a part of it; none where the part is empty."""
    rows = read_split_index(manifest, split)
    try:
        return rows[positions_of(manifest, split)]
    except UsageError:  # all images are of the source that is left out
        return rows[:0]


def _obstacle(
    manifest: Manifest,
    patients: Mapping[str, int],
    training: np.ndarray,
    validation: np.ndarray,
    batch_size: int,
) -> str:
    """Return why a source cannot be held out, see `Target`.

    Args:
      manifest: of the data.
      patients: of the source, by class.
      training, validation: rows of the index that are left to train and to choose on.
      batch_size: of the training.
    """
    if sum(count >= FEW for count in patients.values()) < 2:
        return FEW_PATIENTS
    if not len(training):
        return "no other source is in the training split"
    learned = {manifest.class_names[label] for label in set(labels_of(training).tolist())}
    known = [name for name in manifest.class_names if any(of[name] for of in manifest.counts.values())]
    if missing := [name for name in known if name not in learned]:
        return f"no other source has {' or '.join(missing)} in the training split to learn from"
    if len(training) < batch_size:
        return f"the other sources have {counted(len(training), 'image')} in the training split"
    if len(set(labels_of(validation).tolist())) < 2:
        return "the other sources have fewer than two classes in the validation split to choose on"
    return ""


def _left_out(manifest: Manifest, name: str, pool: str) -> tuple[int, int]:
    """Return how many images of some splits are left out beside a source, see `Target`."""
    number = manifest.sources.index(name)
    sources = read_split_index(manifest, pool)["source"]
    is_unknown = np.isin(sources, [other for other, known in enumerate(manifest.sources) if not known])
    is_shared = are_of_sources(manifest, pool, [number]) & (sources != number) & ~is_unknown
    return int(is_unknown.sum()), int(is_shared.sum())


def left_out_notes(manifest: Manifest, targets: Sequence[Target]) -> list[str]:
    """Return what is left out of the training beside the held-out sources, and what nobody looked for."""
    found = []
    if unknown := max((target.unknown for target in targets), default=0):
        found.append(f"{counted(unknown, 'image')} of unknown source: in no training")
    found += [
        f"without {target.source}: {counted(target.shared, 'image')} of other sources left out, of patients "
        "of whom the audit found the same picture in it"
        for target in targets
        if target.shared
    ]
    for target in targets:
        if target.smallest is None or target.training_sources < 2:
            continue
        name, images = target.smallest
        times = target.training_images / target.training_sources / images
        if times > _MANY_TIMES:
            found.append(
                f"without {target.source}: methods with as many images of each source in a batch see each "
                f"of the {counted(images, 'training image')} of {name} {times:.0f} times an epoch, and may "
                "learn them by heart"
            )
    if not has_audit(manifest.directory):
        look = f"python -m {tool('audit_dataset')}"
        found.append(
            "no audit: copies of held-out pictures in other sources were not looked for; "
            + (
                f"audit the pictures with {look}, and embed them again with --overwrite"
                if manifest.embedding
                else f"look with {look} --data={manifest.directory}"
            )
        )
    return found


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
        if not manifest.sources[source]:
            continue  # is not trained on
        if (first := source_of.setdefault(group, source)) != source:
            both: Sequence[str] = sorted(manifest.sources[number] for number in (first, source))
            raise DataError(
                f"{manifest.directory}: patient {group!r} is of {both[0]!r} and of {both[1]!r}: a held-out "
                "source would be trained on; give the patients of each source names of their own"
            )
