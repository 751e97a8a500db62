"""Folds of the records of a data set: lists of positions in its shards, which stay as they are."""

import numpy as np

from cxr_data.records.index import labels_of, read_split_fields, read_split_index
from cxr_data.records.manifest import Manifest, Shard
from cxr_data.records.split_names import parse_split
from cxr_data.sources.finding_values import PRESENT
from cxr_data.sources.splits import place_groups

_known: dict[tuple[str, tuple[Shard, ...], str, int], np.ndarray] = {}
"""The folds of this process: to read the patient of every record takes seconds where there are many."""


def positions_of(manifest: Manifest, split: str) -> np.ndarray:
    """Return the records of a split, or of a fold of it: int64, ascending positions in its pool.

    Raises:
      UsageError: the name is none, see `split_names`.
      DataError: a split is not there, or a shard cannot be read.
    """
    names, fold = parse_split(split)
    pool = "+".join(names)
    if fold is None:
        return np.arange(manifest.count(pool))
    inside = fold_numbers(manifest, pool, fold.count) == fold.number
    return np.flatnonzero(inside != fold.is_rest)


def labels_of_split(manifest: Manifest, split: str) -> np.ndarray:
    """Return the labels of a split, or of a fold of it: int32 [N], classes, or int32 [N, C], findings.

    Raises:
      UsageError, DataError: as `positions_of`.
    """
    return labels_of(read_split_index(manifest, split))[positions_of(manifest, split)]


def class_counts(manifest: Manifest, split: str) -> dict[str, int]:
    """Return the images of each class in a split, or in a fold of it; of a finding, those that have it.

    Raises:
      UsageError, DataError: as `positions_of`.
    """
    names, fold = parse_split(split)
    if fold is None:
        return {name: sum(manifest.counts[part][name] for part in names) for name in manifest.class_names}
    labels, numbers = labels_of_split(manifest, split), np.arange(len(manifest.class_names))
    is_class = labels == PRESENT if labels.ndim == 2 else labels[:, None] == numbers
    return dict(zip(manifest.class_names, is_class.sum(axis=0).tolist(), strict=True))


def fold_numbers(manifest: Manifest, pool: str, count: int) -> np.ndarray:
    """Return the fold of each record of a pool, int64 [N] from 1.

    Whole patients are in one fold, and every class, or finding, has its share in each. It depends on labels
    and patients alone, and on no seed: every run and every command has the same folds.

    Args:
      pool: a split, or several joined by `+`.
      count: how many folds.
    """
    key = (manifest.directory, manifest.shards, pool, count)
    if key not in _known:
        _known[key] = _place(manifest, pool, count)
        _known[key].setflags(write=False)
    return _known[key]


def _place(manifest: Manifest, pool: str, count: int) -> np.ndarray:
    fields = read_split_fields(manifest, pool)
    groups = [record.group for record in fields]
    fractions = {str(number): 1 / count for number in range(1, count + 1)}
    labels = [record.labels or str(record.label) for record in fields]
    fold_of = place_groups(groups, labels, fractions, seed=0)
    return np.array([int(fold_of[group]) for group in groups], np.int64)
