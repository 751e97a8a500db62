"""Splits of findings: as good as iterative-stratification image by image, and by whole patients."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

from cxr_data.sources.item import Item
from cxr_data.sources.splits import assign_splits
from cxr_data.sources.stratification import stratify_groups

SHARES = (0.2, 0.1, 0.03, 0.4, 0.005)


def drawn(seed: int, images: int) -> np.ndarray:
    """Bool [images, 5], findings of very different shares, two of which come together."""
    present = np.random.default_rng(seed).random([images, len(SHARES)]) < SHARES
    present[:, 2] |= present[:, 1] & (np.arange(images) % 2 == 0)
    return present


def counts_of(present: np.ndarray, groups: np.ndarray) -> tuple[Counter[str], dict[str, Counter[str]]]:
    images = Counter(map(str, groups))
    findings = {group: Counter() for group in images}
    for group, row in zip(groups, present, strict=True):
        findings[str(group)].update({f"f{number}": 1 for number in np.flatnonzero(row)})
    return images, findings


def worst_gap(present: np.ndarray, fold_of: np.ndarray, fractions: dict) -> float:
    """The largest difference of a finding's images in a split from its share, in images."""
    return max(
        np.abs(present[fold_of == split].sum(axis=0) - share * present.sum(axis=0)).max()
        for split, share in fractions.items()
    )


@pytest.mark.parametrize("seed", range(5))
def test_image_by_image_it_is_as_even_as_the_library(seed):
    present = drawn(seed, 1000)
    images, findings = counts_of(present, np.arange(1000))
    fractions = dict.fromkeys(range(5), 0.2)
    ours = stratify_groups(images, findings, fractions, seed)
    folds = np.zeros(1000, int)
    library = MultilabelStratifiedKFold(5, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(library.split(present, present)):
        folds[test] = number
    mine = np.array([ours[str(number)] for number in range(1000)])
    assert worst_gap(present, mine, fractions) <= max(worst_gap(present, folds, fractions), 2)
    assert np.abs(np.bincount(mine) - 200).max() <= 10


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), patients=st.integers(30, 300))
def test_whole_patients_go_to_one_split_and_every_finding_has_its_share(seed, patients):
    present = drawn(seed, 1500)
    groups = np.random.default_rng(seed).zipf(1.5, 1500) % patients
    images, findings = counts_of(present, groups)
    fractions = {"train": 0.7, "validation": 0.1, "test": 0.2}
    found = stratify_groups(images, findings, fractions, seed)
    assert found.keys() == images.keys()
    split_of = np.array([found[str(group)] for group in groups])
    largest = max(images.values())
    assert worst_gap(present, split_of, fractions) <= largest + 3
    assert stratify_groups(dict(reversed(images.items())), findings, fractions, seed) == found


def test_a_rare_finding_is_in_every_split_and_another_seed_gives_other_splits():
    present = np.zeros([300, 2], bool)
    present[:10, 0] = present[::2, 1] = True
    images, findings = counts_of(present, np.arange(300))
    fractions = {"train": 0.8, "validation": 0.1, "test": 0.1}
    one, other = (stratify_groups(images, findings, fractions, seed) for seed in (0, 1))
    for found in (one, other):
        assert Counter(found[str(number)] for number in range(10)) == {"train": 8, "validation": 1, "test": 1}
        assert Counter(found.values()) == {"train": 240, "validation": 30, "test": 30}
    assert one != other


def test_the_splits_of_items_with_findings_are_stratified_by_finding():
    present = drawn(0, 400)
    items = [
        Item(f"{number}.png", "", "", 1, 0, labels=tuple(np.where(row, 1, number % 3 - 2).tolist()))
        for number, row in enumerate(present)
    ]
    groups = {item.id: f"patient{number // 2}" for number, item in enumerate(items)}
    fractions = {"train": 0.5, "test": 0.5}
    split_of = assign_splits(items, groups, fractions, seed=0)
    known_as_present = np.array([[value == 1 for value in item.labels] for item in items])
    found = np.array([split_of[groups[item.id]] for item in items])
    assert worst_gap(known_as_present, found, fractions) <= 3
