"""The plan: whole groups, stratified, the same for any order of the inputs."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_data.convert import plan
from cxr_data.core.errors import DataError, UsageError
from cxr_data.sources.discover import Item

SPLITS = {"train": 0.7, "validation": 0.2, "test": 0.1}


@st.composite
def datasets(draw, largest_group=5):
    """Items of a few classes, in groups of random sizes; a group may have two classes."""
    items, groups = [], {}
    for number in range(draw(st.integers(1, 40))):
        label = draw(st.sampled_from("abc"))
        for position in range(draw(st.integers(1, largest_group))):
            name = f"{label}/{number}_{position}.png"
            mixed = draw(st.integers(0, 9)) == 0
            items.append(Item(name, "/x/" + name, "a" if mixed else label, 100, 0))
            groups[name] = f"g{number}"
    return items, groups


def whole_plan(items, groups, fractions=SPLITS, seed=0, shard_bytes=5000):
    split_of = plan.assign_splits(items, groups, fractions, seed)
    names = plan.class_names_of(items, ())
    return plan.make_plan(items, groups, split_of, names, list(fractions), "uint8", 1000, shard_bytes, seed)


@settings(max_examples=150, deadline=None)
@given(datasets(), st.integers(0, 5))
def test_every_image_once_and_no_group_in_two_splits(dataset, seed):
    items, groups = dataset
    made = whole_plan(items, groups, seed=seed)
    placed = [entry for shard in made.shards for entry in shard.entries]
    assert sorted(entry.id for entry in placed) == sorted(item.id for item in items)
    splits = {(entry.group, shard.split) for shard in made.shards for entry in shard.entries}
    assert len(splits) == len(set(groups.values()))
    assert len({shard.name for shard in made.shards}) == len(made.shards)


@settings(max_examples=100, deadline=None)
@given(datasets(), st.randoms())
def test_same_plan_for_any_order_of_the_listing(dataset, random_order):
    items, groups = dataset
    shuffled = list(items)
    random_order.shuffle(shuffled)
    assert whole_plan(sorted(shuffled, key=lambda i: i.id), groups) == whole_plan(
        sorted(items, key=lambda i: i.id), groups
    )
    assert whole_plan(shuffled, groups) == whole_plan(items, groups)


@settings(max_examples=150, deadline=None)
@given(datasets(largest_group=1), st.integers(0, 3))
def test_single_images_are_stratified_to_within_one(dataset, seed):
    items, groups = dataset
    split_of = plan.assign_splits(items, groups, SPLITS, seed)
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
    split_of = plan.assign_splits(items, groups, SPLITS, seed)
    found = Counter(split_of[groups[item.id]] for item in items)
    for split, fraction in SPLITS.items():
        assert abs(found[split] - len(items) * fraction) < 1


def test_small_splits_see_large_groups_too():
    items = [Item(f"a/{g}_{i}", "", "a", 1, 0) for g in range(300) for i in range(3)]
    items += [Item(f"a/single{i}", "", "a", 1, 0) for i in range(300)]
    groups = {item.id: item.id.split("_")[0] for item in items}
    split_of = plan.assign_splits(items, groups, SPLITS, 0)
    large = Counter(split for group, split in split_of.items() if "single" not in group)
    assert 40 <= large["validation"] <= 80
    assert 15 <= large["test"] <= 45


def test_the_seed_decides():
    items = [Item(f"a/{i}", "", "a", 1, 0) for i in range(100)]
    groups = {item.id: item.id for item in items}
    assert whole_plan(items, groups, seed=1) == whole_plan(items, groups, seed=1)
    assert whole_plan(items, groups, seed=1) != whole_plan(items, groups, seed=2)


def test_shards_keep_to_their_size_and_are_even():
    items = [Item(f"a/{i}", "", "a", 1, 0) for i in range(1000)]
    groups = {item.id: item.id for item in items}
    made = whole_plan(items, groups, {"train": 1.0}, shard_bytes=20_000)
    lengths = [len(shard.entries) for shard in made.shards]
    assert max(lengths) - min(lengths) <= 1
    for shard in made.shards:
        assert sum(plan.record_bytes(e, "uint8", 1000) for e in shard.entries) <= 20_000
    assert made.shards[0].name == f"train-00000-of-{len(made.shards):05d}.tfrecord"


@pytest.mark.parametrize(
    "text", ["", "train", "train:x", "train:0.5", "train:0.5,train:0.5", "a b:1", "train:-1,b:2"]
)
def test_bad_splits(text):
    with pytest.raises(UsageError, match="--splits"):
        plan.parse_splits(text)


def test_good_splits():
    assert plan.parse_splits("train:0.8, test:0.2") == {"train": 0.8, "test": 0.2}
    assert plan.parse_splits("folders") is None


def test_a_group_in_two_split_folders_is_refused_by_name():
    items = [Item(f"{s}/a/p1_{s}", "", "a", 1, 0, split=s) for s in ("train", "test")]
    with pytest.raises(DataError, match=r"group 'p1' is in two splits: train/a/p1_train.*test/a/p1_test"):
        plan.splits_of_folders(items, {item.id: "p1" for item in items})


def test_classes_in_the_wanted_order():
    items = [Item(c, "", c, 1, 0) for c in "cab"]
    assert plan.class_names_of(items, ()) == ("a", "b", "c")
    assert plan.class_names_of(items, ("b", "c", "a")) == ("b", "c", "a")
    with pytest.raises(UsageError, match="--classes=a,b: the source has a,b,c"):
        plan.class_names_of(items, ("a", "b"))
