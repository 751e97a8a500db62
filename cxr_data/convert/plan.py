"""The plan: which image goes to which position of which shard, before the first byte.

It depends on the inputs' ids, labels and groups, the flags and the seed, and on
nothing else. Orders come from hashes of names, so they are the same for any order of
the directory listing and any version of numpy.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxr_data.core.errors import UsageError
from cxr_data.core.seeded import seeded_hash
from cxr_data.records import example
from cxr_data.records.example import Fields
from cxr_data.records.layout import shard_name
from cxr_data.records.manifest import CLASSES, FINDINGS, names_of
from cxr_data.records.tfrecord import FRAME_FOOTER_BYTES, FRAME_HEADER_BYTES
from cxr_data.sources.finding_values import PRESENT
from cxr_data.sources.item import Item

SHA256_DIGITS = 64


@dataclass(frozen=True)
class Entry:
    """One planned record."""

    id: str
    path: str
    label: int
    group: str
    bytes: int
    source: str = ""
    labels: tuple[int, ...] = ()

    def fields(self, sha256: str) -> Fields:
        """Return the fields of its record, given the SHA-256 of its file."""
        return Fields(self.label, self.id, sha256, self.group, self.source, self.labels)


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
    task: str = CLASSES

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources of the images, in the order in which the plan names them first."""
        return tuple(dict.fromkeys(entry.source for shard in self.shards for entry in shard.entries))

    @property
    def records(self) -> int:
        """Number of images in all shards, before any turns out to be bad."""
        return sum(len(shard.entries) for shard in self.shards)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return {split: {class name: images}}, as `Manifest.counts`."""
        counts = {shard.split: dict.fromkeys(self.class_names, 0) for shard in self.shards}
        for shard in self.shards:
            for entry in shard.entries:
                for name in names_of(entry.fields(""), self.class_names):
                    counts[shard.split][name] += 1
        return counts

    def digest(self) -> str:
        """Return the SHA-256 of everything in the plan but where the source lies and how large its files
        are.
        """
        shards = [
            [s.name, [(e.id, e.label, e.group, e.source, e.labels) for e in s.entries]] for s in self.shards
        ]
        return hashlib.sha256(json.dumps([self.class_names, shards]).encode()).hexdigest()


def class_names_of(items: Sequence[Item], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the classes in index order: as `wanted` says, else by name. Raises UsageError if they differ."""
    found = {item.label for item in items}
    if not wanted:
        return tuple(sorted(found))
    if set(wanted) != found or len(set(wanted)) != len(wanted):
        raise UsageError(
            f"--classes={','.join(wanted)}: must name the classes of the source, {','.join(sorted(found))}"
        )
    return tuple(wanted)


def record_bytes(entry: Entry, dtype: str, payload_bytes: int) -> int:
    """Return the exact size of a record in its file."""
    header = len(example.example_header(entry.fields("0" * SHA256_DIGITS), dtype, payload_bytes))
    return FRAME_HEADER_BYTES + header + payload_bytes + FRAME_FOOTER_BYTES


def make_plan(
    items: Sequence[Item],
    groups: Mapping[str, str],
    origins: Mapping[str, str],
    split_of_group: Mapping[str, str],
    class_names: Sequence[str],
    splits: Sequence[str],
    dtype: str,
    payload_bytes: int,
    shard_bytes: int,
    seed: int,
) -> Plan:
    """Shuffle each split by the seed and cut it into shards of nearly equal length.

    A shard holds at least `shard_bytes`, and at most about twice as much. A split that has less is one shard.

    Args:
      items: the inputs; where one has `labels`, all have them.
      groups: {id: patient}.
      origins: {id: source}.
      split_of_group: {patient: split}.
      class_names: the classes, or the findings of `Item.labels`.
      splits: in the order of the output.
      dtype, payload_bytes: of the pixels.
      shard_bytes: smallest size of a shard.
      seed: of the order.
    """
    label_of = {name: index for index, name in enumerate(class_names)}
    task = FINDINGS if any(item.labels for item in items) else CLASSES
    by_split: dict[str, list[Entry]] = {split: [] for split in splits}
    for item in items:
        label = int(PRESENT in item.labels) if item.labels else label_of[item.label]
        group, source = groups[item.id], origins[item.id]
        entry = Entry(item.id, item.path, label, group, item.bytes, source, item.labels)
        by_split[split_of_group[entry.group]].append(entry)
    shards: list[ShardPlan] = []
    for split, entries in by_split.items():
        entries.sort(key=lambda entry: seeded_hash(seed, "order", entry.id))
        smallest = min((record_bytes(entry, dtype, payload_bytes) for entry in entries), default=1)
        least = max(-(-shard_bytes // smallest), 1)  # records
        count = max(len(entries) // least, min(len(entries), 1))
        for index in range(count):
            first, last = len(entries) * index // count, len(entries) * (index + 1) // count
            name = shard_name(split, index, count)
            shards.append(ShardPlan(name, split, tuple(entries[first:last])))
    return Plan(tuple(class_names), tuple(shards), task)
