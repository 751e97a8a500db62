"""Everything before the first byte: inputs, patients, duplicates, the plan."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from cxr_data.convert import exclude, plan
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.ledger import Header
from cxr_data.convert.plan import Plan
from cxr_data.convert.progress import Progress
from cxr_data.convert.split_file import assign_by_file
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.runtime import cores
from cxr_data.core.wording import counted, listed
from cxr_data.images import resize
from cxr_data.records import manifest
from cxr_data.records.index import MOST_SOURCES
from cxr_data.sources import duplicates, patients, splits
from cxr_data.sources.discover import Found, find_inputs
from cxr_data.sources.item import Item
from cxr_data.sources.left_out import LeftOut
from cxr_data.sources.masks import check_masks
from cxr_data.sources.origins import find_origins
from cxr_data.sources.patients import Groups
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
_OPTIONAL = (
    "balance",
    "crop_border",
    "equalize_to",
    "exclude_folders",
    "exclude_files",
    "source_name",
    "labels",
    "views",
    "readers",
)
_DEFAULTS = SharderConfig("", "")


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before the first byte is written."""

    found: Found
    plan: Plan
    header: Header
    excluded: tuple[Quarantined, ...]


def prepare_conversion(config: SharderConfig, progress: Progress) -> Prepared:
    """Find the inputs and plan the run, and write nothing.

    Raises:
      UsageError, DataError: the source, a flag, or how they fit together.
    """
    left_out = LeftOut(config.exclude_folders, config.exclude_files)
    found = find_inputs(config.source, config.tables, left_out=left_out, follow_links=config.follow_links)
    for note in found.notes:
        progress.say(note)
    left_out.refuse_unused(found.quarantined)
    threads = cores()
    named = _excluded(config, found.items)
    wanted = [item for item in found.items if item.id not in named]
    depth = 1 if found.has_class_folders and found.has_splits else 0
    masks = "" if found.findings else check_masks(wanted, left_out, depth=depth)  # no row names a mask
    if config.split_file:
        assigned = assign_by_file(config.split_file, wanted, config.max_pixels, threads)
        progress.say(assigned.summary)
        named |= assigned.left_out
        wanted = list(assigned.items)
        found = replace(found, has_splits=True)
    copies = duplicates.find_duplicates(wanted, config.max_pixels, threads)
    kept = duplicates.apply_policy(wanted, copies, config.duplicates)
    dropped = _dropped(config, found, kept.items)
    items = [item for item in kept.items if item.id not in dropped]
    patient_of, lost = patients.patients_in_headers(items, config.max_pixels, config.limits, threads)
    found = _without(found, lost)
    items = [item for item in items if item.id not in lost]
    excluded = (*kept.excluded, *named.values(), *dropped.values())
    if not items:
        why = (*excluded, *found.quarantined)[0].detail
        raise DataError(f"{config.source}: all {found.discovered} files are excluded ({why})")
    groups = patients.find_groups(items, config.group_regex, patient_of)
    progress.say(groups.summary)
    origins = find_origins(items, groups.of, config.source_name, from_folders=found.has_class_folders)
    for assumed in filter(None, (groups.assumed, origins.assumed)):
        progress.say(f"ASSUMED: {assumed}")
    group_of = duplicates.tie_groups(groups.of, _within(kept.same, groups.of))
    made = _plan(config, found, items, groups, group_of, origins.of, progress)
    if any(made.sources):
        progress.say(f"sources: {_sources(made)}")
    warnings = [masks, groups.warning, *manifest.class_warnings(made.counts(), made.task)]
    for warning in filter(None, warnings):
        progress.say(f"WARNING: {warning}")
    header = Header(_config_of(config, made.class_names, named), made.digest())
    progress.event(
        "plan",
        discovered=found.discovered,
        planned=made.records,
        shards=len(made.shards),
        groups=len(set(group_of.values())),
        warning=groups.warning,
        assumed=groups.assumed,
    )
    return Prepared(found, made, header, excluded)


def _without(found: Found, lost: Mapping[str, Quarantined]) -> Found:
    """Return the inputs, those that are lost being quarantined."""
    items = tuple(item for item in found.items if item.id not in lost)
    return replace(found, items=items, quarantined=tuple(sorted((*found.quarantined, *lost.values()))))


def _excluded(config: SharderConfig, items: Sequence[Item]) -> dict[str, Quarantined]:
    """Return what --exclude and --exclude_findings name."""
    found: dict[str, Quarantined] = {}
    for path in reversed(config.exclude_findings):  # the first audit that named a picture says why
        found |= exclude.read_findings(path, items)
    return found | (exclude.read_exclusions(config.exclude, items) if config.exclude else {})


def _dropped(config: SharderConfig, found: Found, items: Sequence[Item]) -> dict[str, Quarantined]:
    if config.balance == "none" or not items:
        return {}
    fractions = splits.fractions_of(config.splits, found.has_splits)
    kept = splits.kept_splits(items, fractions, found.has_splits)
    return exclude.balance(items, config.balance, kept, config.seed)


def _within(same: Iterable[Sequence[str]], of: Mapping[str, str]) -> list[list[str]]:
    return [[name for name in ids if name in of] for ids in same]


def _plan(
    config: SharderConfig,
    found: Found,
    items: Sequence[Item],
    groups: Groups,
    group_of: Mapping[str, str],
    origin_of: Mapping[str, str],
    progress: Progress,
) -> Plan:
    fractions = splits.fractions_of(config.splits, found.has_splits)
    if fractions is None and not found.has_splits:
        raise UsageError(f"--splits=folders: {config.source} has no folders train/CLASS and no column split")
    kept = splits.kept_splits(items, fractions, found.has_splits)
    split_of, names = splits.decide_splits(items, group_of, fractions, kept, config.seed, groups.found_by)
    if fractions and found.has_splits and not kept:
        own = sorted({item.split or "" for item in items})
        progress.say(
            f"splits: those of the source ({', '.join(own)}) are put together, and "
            f"{', '.join(fractions)} are drawn from all {counted(len(items), 'image')}"
        )
    if fractions and kept:
        drawn = sum(item.split not in kept for item in items)
        progress.say(
            f"splits: {' and '.join(sorted(kept))} of the source stay, "
            f"{counted(len(items) - drawn, 'image')}; {', '.join(fractions)} are "
            f"drawn from the other {counted(drawn, 'image')}"
        )
    return plan.make_plan(
        items,
        group_of,
        origin_of,
        split_of,
        found.findings or plan.class_names_of(items, config.classes),
        names,
        config.dtype,
        config.pixel_options.payload_bytes,
        int(config.shard_mb * 1e6),
        config.seed,
    )


def _sources(made: Plan) -> str:
    counts = Counter(entry.source for shard in made.shards for entry in shard.entries)
    if len(counts) > MOST_SOURCES:
        raise DataError(
            f"the column source has {len(counts):,} names, and at most {MOST_SOURCES:,} can be kept: write "
            "the hospital or the data set there, and not the patient"
        )
    return listed([f"{count:,} of {name or 'unknown'}" for name, count in counts.most_common()])


def _config_of(
    config: SharderConfig, class_names: Sequence[str], named: Mapping[str, Quarantined]
) -> dict[str, Any]:
    """Return what decides the output besides the inputs: another value needs another output."""
    values = {n: getattr(config, n) for n in _OPTIONAL if getattr(config, n) != getattr(_DEFAULTS, n)}
    # As the ledger gives it back: in JSON a tuple is a list.
    asked = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    if named:
        asked["exclude"] = hashlib.sha256(repr(sorted(named.values())).encode()).hexdigest()
    return {
        **{name: getattr(config, name) for name in _DECISIVE},
        **asked,
        "classes": list(class_names),
        "kernel": resize.KERNEL,
        "schema": manifest.SCHEMA,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the pixels."""
    names = ("numpy", "opencv-python-headless", "pillow", "pydicom", "imagecodecs")
    return {name: version(name) for name in names}
