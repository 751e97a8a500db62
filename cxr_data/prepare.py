"""Everything before the first byte: inputs, patients, duplicates, the plan."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from cxr_data import decode, dicom, duplicates, group, manifest, plan, resize, storage
from cxr_data.discover import Found, Item, discover
from cxr_data.errors import DataError, UsageError
from cxr_data.ledger import Header
from cxr_data.plan import Plan
from cxr_data.progress import Progress
from cxr_data.quarantine import Quarantined, Undecodable
from cxr_data.sharder_config import DEFAULT_SPLITS, SharderConfig
from cxr_data.write import read_source

_DECISIVE = (
    "size",
    "dtype",
    "channels",
    "color",
    "splits",
    "group_regex",
    "shard_mb",
    "seed",
    "duplicates",
    "max_pixels",
)


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before the first byte is written."""

    found: Found
    plan: Plan
    header: Header
    excluded: tuple[Quarantined, ...]


def prepare(config: SharderConfig, progress: Progress) -> Prepared:
    """Finds the inputs and plans the run, and writes nothing.

    Raises:
      UsageError, DataError: the source, a flag, or how they fit together.
    """
    found = discover(config.source)
    threads = cores()
    copies = duplicates.find_duplicates(found.items, config.max_pixels, threads)
    kept = duplicates.apply_policy(found.items, copies, config.duplicates)
    if not kept.items:
        raise DataError(
            f"{config.source}: all {found.discovered} files are excluded ({kept.excluded[0].detail})"
        )
    groups = group.find_groups(kept.items, config.group_regex, _patients(kept.items, threads))
    progress.say(groups.summary)
    if groups.warning:
        progress.say(f"WARNING: {groups.warning}")
    group_of = duplicates.tie_groups(groups.of, kept.same)
    made = _plan(config, found, kept.items, group_of)
    header = Header(_config_of(config, made.class_names), made.digest())
    progress.event(
        "plan",
        discovered=found.discovered,
        planned=made.records,
        shards=len(made.shards),
        groups=len(set(group_of.values())),
        warning=groups.warning,
    )
    return Prepared(found, made, header, kept.excluded)


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _patients(items: Sequence[Item], threads: int) -> dict[str, str]:
    """{id: pseudonym} of the DICOM files that state a patient."""
    heads = ((item, _head(item)) for item in items)
    files = [item for item, head in heads if decode.sniff(head) == "DICOM"]

    def identify(item: Item) -> tuple[str, str]:
        try:
            header = dicom.read_header(read_source(item.path, max_pixels=1 << 28))
        except Undecodable:
            return "", ""  # it will be quarantined when it is converted
        return dicom.patient_of(header), dicom.identity_of(header)

    with ThreadPoolExecutor(threads) as pool:
        identities = list(pool.map(identify, files))
    salt = dicom.salt_of(identity for _, identity in identities)
    pairs = zip(files, identities, strict=True)
    return {item.id: dicom.pseudonym(patient, salt) for item, (patient, _) in pairs if patient}


def _head(item: Item) -> bytes:
    if storage.is_remote(item.path):
        return storage.read_bytes(item.path)[:132] if item.path.lower().endswith((".dcm", ".dicom")) else b""
    try:
        with open(item.path, "rb", buffering=0) as file:
            return file.read(132)
    except OSError:
        return b""  # it will be quarantined when it is converted


def _plan(config: SharderConfig, found: Found, items: Sequence[Item], group_of: Mapping[str, str]) -> Plan:
    text = config.splits
    if text == "auto":
        text = "folders" if found.has_splits else DEFAULT_SPLITS
    fractions = plan.parse_splits(text)
    if fractions is None:
        if not found.has_splits:
            raise UsageError(
                f"--splits=folders: {config.source} has no folders train/CLASS and no column split"
            )
        split_of = plan.splits_of_folders(items, group_of)
        order = {"train": 0, "validation": 1, "test": 2}
        splits = sorted({item.split or "" for item in items}, key=lambda s: (order.get(s, 3), s))
    else:
        split_of = plan.assign_splits(items, group_of, fractions, config.seed)
        splits = list(fractions)
    return plan.make_plan(
        items,
        group_of,
        split_of,
        plan.class_names_of(items, config.classes),
        splits,
        config.dtype,
        config.pixels.payload_bytes,
        int(config.shard_mb * 1e6),
        config.seed,
    )


def _config_of(config: SharderConfig, class_names: Sequence[str]) -> dict[str, Any]:
    """What decides the output besides the inputs: another value needs another output."""
    return {
        **{name: getattr(config, name) for name in _DECISIVE},
        "classes": list(class_names),
        "kernel": resize.KERNEL,
        "schema": manifest.SCHEMA,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of the packages that decide the pixels."""
    names = ("numpy", "opencv-python-headless", "pillow", "pydicom", "tensorflow-io")
    return {name: version(name) for name in names}
