"""Folds of the records of a data set: lists of positions, so that no shard is written anew."""

from collections import Counter, defaultdict

import numpy as np

from cxr_data.records.index import labels_of, read_split_fields, read_split_index
from cxr_data.records.manifest import Manifest
from cxr_data.records.split_names import parse_split
from cxr_data.sources.finding_values import PRESENT
from cxr_data.sources.splits import place_groups
from cxr_data.sources.stratification import stratify_groups


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


def fold_numbers(manifest: Manifest, pool: str, count: int) -> np.ndarray:
    """Return the fold of each record of a pool, int64 [N] from 1.

    Whole patients are in one fold, and every class, or finding, has its share in each. It depends on labels
    and patients alone, and on no seed: every run and every command has the same folds.

    Args:
      pool: a split, or several joined by `+`.
      count: how many folds.
    """
    fields = read_split_fields(manifest, pool)
    groups = [record.group for record in fields]
    labels = labels_of(read_split_index(manifest, pool))
    fractions = {str(number): 1 / count for number in range(1, count + 1)}
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    if labels.ndim == 2:
        for group, row in zip(groups, labels, strict=True):
            sizes[group].update(map(str, np.flatnonzero(row == PRESENT)))
        fold_of = stratify_groups(Counter(groups), sizes, fractions, seed=0)
    else:
        for group, label in zip(groups, labels, strict=True):
            sizes[group][str(label)] += 1
        fold_of = place_groups(sizes, fractions, seed=0)
    return np.array([int(fold_of[group]) for group in groups], np.int64)
