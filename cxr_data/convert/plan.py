"""The plan: which image goes to which position of which shard, before the first byte.

It depends on the inputs' ids, labels and groups, the flags and the seed, and on
nothing else. Orders come from hashes of names, so they are the same for any order of
the directory listing and any version of numpy.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxr_data.core.errors import DataError, UsageError
from cxr_data.records import example
from cxr_data.sources.discover import Item

# scikit-learn's grouped splitters cut equal folds, and take a second to import; these have any ratio.

MIN_SHARD_RECORDS = 16
MANY_SHARDS = 16
SHA256_DIGITS = 64


@dataclass(frozen=True)
class Entry:
    """One planned record."""

    id: str
    path: str
    label: int
    group: str
    bytes: int


@dataclass(frozen=True)
class ShardPlan:
    """One planned shard: its final file name and its records in order."""

    name: str
    split: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Plan:
    """The shards in manifest order."""

    class_names: tuple[str, ...]
    shards: tuple[ShardPlan, ...]

    @property
    def records(self) -> int:
        """Number of images in all shards, before any turns out to be bad."""
        return sum(len(shard.entries) for shard in self.shards)

    def digest(self) -> str:
        """SHA-256 of everything in the plan but where the source lies and how large its files are."""
        shards = [[s.name, [(e.id, e.label, e.group) for e in s.entries]] for s in self.shards]
        return hashlib.sha256(json.dumps([self.class_names, shards]).encode()).hexdigest()


def parse_splits(text: str) -> dict[str, float] | None:
    """`train:0.8,test:0.2` as {split: fraction}; None for `folders`.

    Raises:
      UsageError: not of this form, a name twice, or fractions that do not add up to 1.
    """
    if text == "folders":
        return None
    fractions: dict[str, float] = {}
    for part in text.split(","):
        name, colon, number = part.strip().partition(":")
        try:
            fraction = float(number)
        except ValueError:
            fraction = -1.0
        if not colon or not name.isidentifier() or not 0 < fraction <= 1 or name in fractions:
            raise UsageError(
                f"--splits={text}: {part!r} is not NAME:FRACTION (as train:0.8,test:0.2) or folders"
            )
        fractions[name] = fraction
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise UsageError(f"--splits={text}: the fractions add up to {sum(fractions.values()):g}, not 1")
    return fractions


def class_names_of(items: Sequence[Item], wanted: Sequence[str]) -> tuple[str, ...]:
    """The classes in index order: as `wanted` says, else by name. Raises UsageError if they differ."""
    found = {item.label for item in items}
    if not wanted:
        return tuple(sorted(found))
    if set(wanted) != found or len(set(wanted)) != len(wanted):
        raise UsageError(f"--classes={','.join(wanted)}: the source has {','.join(sorted(found))}")
    return tuple(wanted)


# -- splits ------------------------------------------------------------------------------------


def assign_splits(
    items: Sequence[Item], groups: Mapping[str, str], fractions: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Assigns whole groups to splits, stratified by class.

    Groups of several images come first, the largest before, each to a split that still has room
    for it (drawn in proportion to the room, so that every split sees patients of every size);
    images that stand alone then fill each split's share of each class exactly.

    Args:
      items: the inputs.
      groups: {id: group}.
      fractions: {split: share of the images}, adding up to 1.
      seed: decides the draw.

    Returns:
      {group: split}.
    """
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        sizes[groups[item.id]][item.label] += 1
    return place_groups(sizes, fractions, seed)


def place_groups(
    sizes: Mapping[str, Counter[str]], fractions: Mapping[str, float], seed: int
) -> dict[str, str]:
    """`assign_splits` for groups of which only the images of each class, {group: {class: n}}, are known."""
    totals: Counter[str] = Counter()
    for by_class in sizes.values():
        totals.update(by_class)
    room = {label: _shares(total, fractions) for label, total in totals.items()}
    assigned: dict[str, str] = {}
    for group in sorted(sizes, key=lambda g: (-sizes[g].total(), _hash(seed, "group", g))):
        split = _choose(sizes[group], room, list(fractions), _fraction(seed, "split", group))
        assigned[group] = split
        for label, count in sizes[group].items():
            room[label][split] -= count
    return assigned


def _shares(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that add up to `total`, by the largest remainder."""
    shares = {split: int(total * fraction + 1e-9) for split, fraction in fractions.items()}
    by_remainder = sorted(fractions, key=lambda split: shares[split] - total * fractions[split])
    for split in by_remainder[: total - sum(shares.values())]:
        shares[split] += 1
    return shares


def _choose(
    sizes: Mapping[str, int], room: Mapping[str, Mapping[str, int]], splits: Sequence[str], draw: float
) -> str:
    fitting = [s for s in splits if all(room[label][s] >= count for label, count in sizes.items())]
    if not fitting:  # the least harm: where the squared distance from the shares grows least
        return min(
            splits, key=lambda s: sum(count * (count - 2 * room[label][s]) for label, count in sizes.items())
        )
    weights = [min(room[label][s] for label in sizes) for s in fitting]
    threshold = draw * sum(weights)
    for split, weight in zip(fitting, weights, strict=True):
        threshold -= weight
        if threshold < 0:
            return split
    return fitting[-1]


def splits_of_folders(items: Sequence[Item], groups: Mapping[str, str]) -> dict[str, str]:
    """{group: split} as folders or CSV have it. Raises DataError for a group in two splits."""
    assigned: dict[str, tuple[str, str]] = {}
    for item in items:
        split, first = assigned.setdefault(groups[item.id], (item.split or "", item.id))
        if split != item.split:
            raise DataError(
                f"group {groups[item.id]!r} is in two splits: {first} ({split}) and {item.id} "
                f"({item.split}); let --splits=train:0.8,validation:0.1,test:0.1 split anew, "
                "or move one of them"
            )
    return {group: split for group, (split, _) in assigned.items()}


# -- shards ------------------------------------------------------------------------------------


def record_bytes(entry: Entry, dtype: str, payload_bytes: int) -> int:
    """Exact size of a record in its file."""
    fields = example.Fields(entry.label, entry.id, "0" * SHA256_DIGITS, entry.group)
    header = len(example.example_header(fields, dtype, payload_bytes))
    return example.FRAME_HEADER_BYTES + header + payload_bytes + example.FRAME_FOOTER_BYTES


def make_plan(
    items: Sequence[Item],
    groups: Mapping[str, str],
    split_of_group: Mapping[str, str],
    class_names: Sequence[str],
    splits: Sequence[str],
    dtype: str,
    payload_bytes: int,
    shard_bytes: int,
    seed: int,
) -> Plan:
    """Shuffles each split by the seed and cuts it into shards of nearly equal length.

    A shard holds at most `shard_bytes` (but at least one record). Small splits are cut finer, into
    up to `MANY_SHARDS` shards of `MIN_SHARD_RECORDS` or more, so that all cores have work.
    """
    label_of = {name: index for index, name in enumerate(class_names)}
    by_split: dict[str, list[Entry]] = {split: [] for split in splits}
    for item in items:
        entry = Entry(item.id, item.path, label_of[item.label], groups[item.id], item.bytes)
        by_split[split_of_group[entry.group]].append(entry)
    shards: list[ShardPlan] = []
    for split, entries in by_split.items():
        entries.sort(key=lambda entry: _hash(seed, "order", entry.id))
        largest = max((record_bytes(entry, dtype, payload_bytes) for entry in entries), default=1)
        by_bytes = -(-len(entries) // max(shard_bytes // largest, 1))
        count = max(by_bytes, min(MANY_SHARDS, len(entries) // MIN_SHARD_RECORDS), min(len(entries), 1))
        for index in range(count):
            first, last = len(entries) * index // count, len(entries) * (index + 1) // count
            name = f"{split}-{index:05d}-of-{count:05d}.tfrecord"
            shards.append(ShardPlan(name, split, tuple(entries[first:last])))
    return Plan(tuple(class_names), tuple(shards))


def _hash(seed: int, purpose: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{purpose}\0{name}".encode("utf-8", "surrogateescape")).digest()


def _fraction(seed: int, purpose: str, name: str) -> float:
    return int.from_bytes(_hash(seed, purpose, name)[:6], "big") / (1 << 48)
