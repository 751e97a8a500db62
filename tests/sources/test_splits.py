"""Splits: whole groups, stratified by class."""

from collections import Counter

import pytest
from grouped_items import SPLITS, datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_data.core.errors import DataError, UsageError
from cxr_data.sources import splits
from cxr_data.sources.item import Item


@settings(max_examples=150, deadline=None)
@given(datasets(largest_group=1), st.integers(0, 3))
def test_single_images_are_stratified_to_within_one(dataset, seed):
    items, groups = dataset
    split_of = splits.assign_splits(items, groups, SPLITS, seed)
    totals = Counter(item.label for item in items)
    found = Counter((item.label, split_of[groups[item.id]]) for item in items)
    for label, total in totals.items():
        for split, fraction in SPLITS.items():
            assert abs(found[label, split] - total * fraction) < 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 4), min_size=0, max_size=15), st.integers(60, 120), st.integers(0, 3))
def test_groups_do_not_spoil_the_strata_where_single_images_can_fill_up(sizes, singles, seed):
    items, groups = [], {}
    for number, size in enumerate([*sizes, *[1] * singles]):
        for position in range(size):
            item = Item(f"a/{number}_{position}", "", "a", 1, 0)
            items.append(item)
            groups[item.id] = str(number)
    split_of = splits.assign_splits(items, groups, SPLITS, seed)
    found = Counter(split_of[groups[item.id]] for item in items)
    for split, fraction in SPLITS.items():
        assert abs(found[split] - len(items) * fraction) < 1


def test_small_splits_see_large_groups_too():
    items = [Item(f"a/{g}_{i}", "", "a", 1, 0) for g in range(300) for i in range(3)]
    items += [Item(f"a/single{i}", "", "a", 1, 0) for i in range(300)]
    groups = {item.id: item.id.split("_")[0] for item in items}
    split_of = splits.assign_splits(items, groups, SPLITS, 0)
    large = Counter(split for group, split in split_of.items() if "single" not in group)
    assert 40 <= large["validation"] <= 80
    assert 15 <= large["test"] <= 45


@pytest.mark.parametrize(
    "text",
    [
        "",
        "train",
        "train:x",
        "train:0.5",
        "train:0.5,train:0.5",
        "a b:1",
        "train:-1,b:2",
        "val:0.5,validation:0.5",
    ],
)
def test_bad_splits(text):
    with pytest.raises(UsageError, match="--splits"):
        splits.parse_splits(text)


def test_good_splits():
    assert splits.parse_splits("train:0.8, test:0.2") == {"train": 0.8, "test": 0.2}
    assert splits.parse_splits("folders") is None
    assert splits.parse_splits("Train:0.8,val:0.2") == {"train": 0.8, "validation": 0.2}


def test_a_group_in_two_split_folders_is_refused_by_name():
    items = [Item(f"{s}/a/p1_{s}", "", "a", 1, 0, split=s) for s in ("train", "test")]
    with pytest.raises(DataError, match="'p1' .*train/a/p1_train.*test/a/p1_test"):
        splits.splits_of_folders(items, {item.id: "p1" for item in items})


@pytest.mark.parametrize(
    ("found_by", "named"), [("NIH ChestX-ray14", True), ("--group_regex", True), ("CSV", False), ("", True)]
)
def test_the_ways_out_of_a_group_in_two_splits(found_by, named):
    items = [Item(f"{s}/a/p1_{s}", "", "a", 1, 0, split=s) for s in ("train", "test")]
    ids = [item.id for item in items]
    with pytest.raises(DataError) as raised:
        splits.splits_of_folders(items, dict.fromkeys(ids, "p1"), dict.fromkeys(ids, found_by))
    assert ("--group_regex=none" in str(raised.value)) == named
    assert f"according to {found_by}," in str(raised.value) or not found_by
    assert "--splits=train:0.8,validation:0.1,test:0.1" in str(raised.value)


@pytest.mark.parametrize(
    ("own", "text", "expected"),
    [
        ("train test", "train:0.9,validation:0.1", {"test"}),
        ("train validation test", "train:0.9,validation:0.1", {"test"}),
        ("train validation test", "train:0.8,validation:0.1,test:0.1", set()),
        ("train test", "train:1", {"test"}),
        ("train test", "a:0.5,b:0.5", set()),
        ("train test", "folders", {"train", "test"}),
    ],
)
def test_splits_of_the_source_that_are_not_named_stay(own, text, expected):
    items = [Item(f"{split}/a/1", "", "a", 1, 0, split=split) for split in own.split()]
    assert splits.kept_splits(items, splits.parse_splits(text), True) == expected


def test_train_alone_is_divided_by_patients_while_test_stays():
    items = [
        Item(f"{split}/{label}/p{patient}_{n}", "", label, 1, 0, split=split)
        for split, patients in (("train", range(40)), ("test", range(40, 50)))
        for label in "ab"
        for patient in patients
        for n in range(2)
    ]
    groups = {item.id: item.id.split("/")[2].split("_")[0] for item in items}
    fractions = {"train": 0.75, "validation": 0.25}
    split_of, names = splits.decide_splits(items, groups, fractions, {"test"}, 0)
    assert names == ["train", "validation", "test"]
    found = Counter((item.split, split_of[groups[item.id]]) for item in items)
    assert found == {("train", "train"): 120, ("train", "validation"): 40, ("test", "test"): 40}
    alone = [item for item in items if item.split == "train"]
    assert splits.assign_splits(alone, groups, fractions, 0).items() <= split_of.items()
    groups["test/a/p40_0"] = "p3"
    with pytest.raises(DataError, match="group 'p3' .*: train/a/p3_.*test/a/p40_0.*one of 1 "):
        splits.decide_splits(items, groups, fractions, {"test"}, 0)


@pytest.mark.parametrize(
    ("has_splits", "expected"), [(True, None), (False, {"train": 0.8, "validation": 0.1, "test": 0.1})]
)
def test_auto_takes_the_splits_of_the_source_where_it_has_any(has_splits, expected):
    assert splits.fractions_of("auto", has_splits) == expected
    assert splits.fractions_of("train:1", has_splits) == {"train": 1.0}
