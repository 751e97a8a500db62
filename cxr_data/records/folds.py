"""Parts of the records of a data set, by source and fold: positions in shards that stay as they are."""

import numpy as np

from cxr_data.core.errors import UsageError
from cxr_data.records.copies import are_of_sources
from cxr_data.records.index import labels_of, read_split_fields, read_split_index
from cxr_data.records.manifest import Manifest, Shard
from cxr_data.records.split_names import images_of, parse_split
from cxr_data.sources.finding_values import PRESENT
from cxr_data.sources.splits import place_groups

_known: dict[tuple[str, tuple[Shard, ...], str, int], np.ndarray] = {}
"""The folds of this process: to read the patient of every record takes seconds where there are many."""


def positions_of(manifest: Manifest, split: str) -> np.ndarray:
    """Return the records of a split, or of a part of it: int64, ascending positions in its splits.

    Raises:
      UsageError: the name is none, see `split_names`, or the data set has not these sources.
      DataError: a split is not there, or a shard cannot be read.
    """
    name = parse_split(split)
    if name.fold is None:
        return _positions_of_pool(manifest, name.pool)
    numbers = fold_numbers(manifest, name.pool, name.fold.count)
    inside = (numbers == name.fold.number) != name.fold.is_rest
    return np.flatnonzero(inside & (numbers > 0))


def _positions_of_pool(manifest: Manifest, pool: str) -> np.ndarray:
    """Return the records of some splits, of some of their sources; as `positions_of`."""
    sources = parse_split(pool).sources
    if sources is None:
        return np.arange(manifest.count(pool))
    for name in sources.names:
        if name not in manifest.sources:
            known = ", ".join(filter(None, manifest.sources)) or "none: no record says where it is from"
            raise UsageError(f"split {pool!r}: {manifest.directory} has no source {name!r}; it has {known}")
    numbers = [manifest.sources.index(name) for name in sources.names]
    of_each = read_split_index(manifest, pool)["source"]
    inside = np.isin(of_each, numbers) != sources.is_rest
    if sources.is_disjoint:
        is_known = np.isin(of_each, [number for number, name in enumerate(manifest.sources) if name])
        inside &= is_known & ~are_of_sources(manifest, "+".join(parse_split(pool).splits), numbers)
    if not inside.any():
        raise UsageError(f"split {pool!r}: {manifest.directory} has no such image; name other sources")
    return np.flatnonzero(inside)


def count_images(manifest: Manifest, split: str) -> int:
    """Return the images of a split, or of its sources; of a fold of them, about as many.

    Raises:
      UsageError, DataError: as `positions_of`.
    """
    return images_of(len(_positions_of_pool(manifest, parse_split(split).pool)), split)


def labels_of_split(manifest: Manifest, split: str) -> np.ndarray:
    """Return the labels of a split, or of a part of it: int32 [N], classes, or int32 [N, C], findings.

    Raises:
      UsageError, DataError: as `positions_of`.
    """
    return labels_of(read_split_index(manifest, split))[positions_of(manifest, split)]


def class_counts(manifest: Manifest, split: str) -> dict[str, int]:
    """Return the images of each class in a split, or in a part of it; of a finding, those that have it.

    Raises:
      UsageError, DataError: as `positions_of`.
    """
    parsed = parse_split(split)
    if not parsed.is_part:
        return {
            name: sum(manifest.counts[part][name] for part in parsed.splits) for name in manifest.class_names
        }
    labels, numbers = labels_of_split(manifest, split), np.arange(len(manifest.class_names))
    is_class = labels == PRESENT if labels.ndim == 2 else labels[:, None] == numbers
    return dict(zip(manifest.class_names, is_class.sum(axis=0).tolist(), strict=True))


def fold_numbers(manifest: Manifest, pool: str, count: int) -> np.ndarray:
    """Return the fold of each record of a pool, int64 [N] from 1; 0 for records of other sources.

    Whole patients are in one fold, and every class, or finding, has its share in each. It depends on labels
    and patients alone, and on no seed: every run and every command has the same folds.

    Args:
      pool: a split, or several joined by `+`, or some sources of them.
      count: how many folds.
    """
    key = (manifest.directory, manifest.shards, pool, count)
    if key not in _known:
        _known[key] = _place(manifest, pool, count)
        _known[key].setflags(write=False)
    return _known[key]


def _place(manifest: Manifest, pool: str, count: int) -> np.ndarray:
    every = read_split_fields(manifest, pool)
    positions = _positions_of_pool(manifest, pool)
    fields = [every[position] for position in positions]
    groups = [record.group for record in fields]
    fractions = {str(number): 1 / count for number in range(1, count + 1)}
    labels = [record.labels or str(record.label) for record in fields]
    fold_of = place_groups(groups, labels, fractions, seed=0)
    numbers = np.zeros(len(every), np.int64)
    numbers[positions] = [int(fold_of[group]) for group in groups]
    return numbers
