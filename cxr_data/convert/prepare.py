"""Everything before the first byte: inputs, patients, duplicates, the plan."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from cxr_data.convert import exclude, plan
from cxr_data.convert.config import DEFAULT_SPLITS, SharderConfig
from cxr_data.convert.ledger import Header
from cxr_data.convert.plan import Plan
from cxr_data.convert.progress import Progress
from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.images import decode, dicom, resize
from cxr_data.images.source_file import read_source
from cxr_data.images.undecodable import Undecodable
from cxr_data.records import manifest
from cxr_data.sources import duplicates, patients
from cxr_data.sources.discover import Found, Item, discover
from cxr_data.sources.quarantine import Quarantined

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
# Of these, only what is asked for is in the config: outputs from before they were there stay valid.
_MITIGATIONS = ("balance", "crop_border", "equalize_to")


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
    named = _excluded(config, found.items)
    wanted = [item for item in found.items if item.id not in named]
    copies = duplicates.find_duplicates(wanted, config.max_pixels, threads)
    kept = duplicates.apply_policy(wanted, copies, config.duplicates)
    dropped = _dropped(config, found, kept.items)
    items = [item for item in kept.items if item.id not in dropped]
    excluded = (*kept.excluded, *named.values(), *dropped.values())
    if not items:
        raise DataError(f"{config.source}: all {found.discovered} files are excluded ({excluded[0].detail})")
    groups = patients.find_groups(items, config.group_regex, _patients(items, threads))
    progress.say(groups.summary)
    if groups.warning:
        progress.say(f"WARNING: {groups.warning}")
    group_of = duplicates.tie_groups(groups.of, _within(kept.same, groups.of))
    made = _plan(config, found, items, group_of)
    header = Header(_config_of(config, made.class_names, named), made.digest())
    progress.event(
        "plan",
        discovered=found.discovered,
        planned=made.records,
        shards=len(made.shards),
        groups=len(set(group_of.values())),
        warning=groups.warning,
    )
    return Prepared(found, made, header, excluded)


def _excluded(config: SharderConfig, items: Sequence[Item]) -> dict[str, Quarantined]:
    """What --exclude and --exclude_findings name."""
    found = exclude.read_findings(config.exclude_findings, items) if config.exclude_findings else {}
    return found | (exclude.read_exclusions(config.exclude, items) if config.exclude else {})


def _dropped(config: SharderConfig, found: Found, items: Sequence[Item]) -> dict[str, Quarantined]:
    if config.balance == "none" or not items:
        return {}
    by_folders = plan.parse_splits(_splits(config, found)) is None
    return exclude.balance(items, config.balance, by_folders, config.seed)


def _within(same: Iterable[Sequence[str]], of: Mapping[str, str]) -> list[list[str]]:
    return [[name for name in ids if name in of] for ids in same]


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _patients(items: Sequence[Item], threads: int) -> dict[str, str]:
    """{id: pseudonym} of the DICOM files that state a patient."""
    heads = ((item, _head(item)) for item in items)
    files = [item for item, head in heads if decode.sniff(head) == "DICOM"]

    def identify(item: Item) -> tuple[str, str]:
        try:
            header = dicom.read_header(read_source(item.path, 1 << 28, item.bytes))
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
        return (
            storage.read_bytes(item.path, item.bytes)[:132]
            if item.path.lower().endswith((".dcm", ".dicom"))
            else b""
        )
    try:
        with open(item.path, "rb", buffering=0) as file:
            return file.read(132)
    except OSError:
        return b""  # it will be quarantined when it is converted


def _plan(config: SharderConfig, found: Found, items: Sequence[Item], group_of: Mapping[str, str]) -> Plan:
    fractions = plan.parse_splits(_splits(config, found))
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
        config.pixel_options.payload_bytes,
        int(config.shard_mb * 1e6),
        config.seed,
    )


def _splits(config: SharderConfig, found: Found) -> str:
    if config.splits == "auto":
        return "folders" if found.has_splits else DEFAULT_SPLITS
    return config.splits


def _config_of(
    config: SharderConfig, class_names: Sequence[str], named: Mapping[str, Quarantined]
) -> dict[str, Any]:
    """What decides the output besides the inputs: another value needs another output."""
    mitigations = {n: getattr(config, n) for n in _MITIGATIONS if getattr(config, n) != getattr(_DEFAULTS, n)}
    if named:
        mitigations["exclude"] = hashlib.sha256(repr(sorted(named.values())).encode()).hexdigest()
    return {
        **{name: getattr(config, name) for name in _DECISIVE},
        **mitigations,
        "classes": list(class_names),
        "kernel": resize.KERNEL,
        "schema": manifest.SCHEMA,
        "versions": versions(),
    }


_DEFAULTS = SharderConfig("", "")


def versions() -> dict[str, str]:
    """Of the packages that decide the pixels."""
    names = ("numpy", "opencv-python-headless", "pillow", "pydicom", "tensorflow-io")
    return {name: version(name) for name in names}
