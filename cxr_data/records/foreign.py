"""Foreign TFRecords of the same schema: one scan gives them an index and a manifest.

Any program can write `tf.train.Example` records with `image` and `label`; what our readers
need beside them is where each image lies, and what the pixels and labels mean. The scan reads every
value, and refuses what it would otherwise have to guess: a wrong guess trains on wrong labels or pixels.
"""

import concurrent.futures
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cxr_data.core.errors import DataError, UsageError
from cxr_data.records import manifest
from cxr_data.records.foreign_shard import Scanned, Stored, scan_file
from cxr_data.records.index import MOST_SOURCES, write_index
from cxr_data.records.layout import FOREIGN_SHARD, MANIFEST_NAME
from cxr_data.records.manifest import Manifest, Shard
from cxr_data.records.quarantine_file import write_quarantine
from cxr_data.records.tfrecord import begins_with_frame
from cxr_data.records.value_range import UNIT, VALUE_RANGES
from cxr_data.sources.names import check_class_names, split_of

logger = logging.getLogger(__name__)

_EXPECTED_NAME = (
    "expected is one of the words train, validation (or val) and test in the name of each file, such as "
    "train-00003-of-00012.tfrecord or chest_val.tfrecord"
)


def adopt(
    directory: str,
    class_names: tuple[str, ...],
    *,
    size: int,
    channels: int,
    dtype: str,
    value_range: tuple[float, float] = UNIT,
    task: str = manifest.CLASSES,
    threads: int = 2,
    tick: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Scan the TFRecord files of a directory and write `index.npy` and `manifest.json` beside them.

    What the records leave open is logged: ids, patients, classes without images.

    Args:
      directory: local, with TFRecord files, known by their names or their first bytes, whose names say the
        split, see `split_named`.
      class_names: in the order of the label values; or the findings, in the order of `labels`.
      size, channels, dtype, value_range: see `Stored`.
      task: "findings" where each record has the feature `labels`, int64 [len(class_names)].
      threads: files scanned at once.
      tick: called with the name of each file that was scanned.

    Raises:
      UsageError: the directory has a manifest already, no such file, or some in folders below it; or the
        classes are not names of different classes.
      DataError: a record is damaged, is not of this schema, or has another size, label or range; two
        records have one id; or a patient is in two splits.
    """
    _check_classes(class_names)
    root = Path(directory)
    if (root / MANIFEST_NAME).exists():
        raise UsageError(f"{directory} has a {MANIFEST_NAME} already, and needs no scan")
    splits = {path: split_named(path) for path in _shard_files(root)}
    paths = sorted(splits, key=lambda path: (splits[path], path.name))
    if not paths:
        raise UsageError(f"{directory} has no files named SPLIT*.tfrecord: {_EXPECTED_NAME}")
    stored = Stored(size, channels, dtype, value_range)
    findings = len(class_names) if task == manifest.FINDINGS else 0

    def scan(path: Path) -> tuple[Shard, np.ndarray, Scanned]:
        found = scan_file(path, splits[path], stored, class_names, findings=findings)
        tick(path.name)
        return found

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        shards, rows, scanned = zip(*pool.map(scan, paths), strict=True)
    for number, of_shard in enumerate(rows):
        of_shard["shard"] = number
    index = np.concatenate(rows)
    if not len(index):
        raise DataError(f"{directory}: the files named SPLIT*.tfrecord hold no record")
    sources = _number_sources(index, scanned)
    _check_ranges(paths, stored, scanned)
    _check_ids_and_patients(directory, shards, scanned)
    mean, std = _statistics(shards, scanned, stored)
    adopted = Manifest(
        directory=str(root),
        schema=manifest.SCHEMA,
        class_names=class_names,
        size=size,
        channels=channels,
        dtype=dtype,
        kernel="unknown",
        color="unknown",
        shards=shards,
        counts=_counts(shards, scanned, class_names),
        mean=mean,
        std=std,
        seed=0,
        config_hash="",
        inputs_hash="",
        source_counts={"discovered": len(index), "written": len(index), "quarantined": 0, "duplicates": 0},
        versions={},
        index_sha256=write_index(str(root), index),
        notes=("indexed by a scan of records that another program wrote",),
        value_range=value_range,
        task=task,
        sources=sources,
    )
    write_quarantine(str(root), [])
    manifest.write_manifest(adopted)
    _tell(adopted, scanned)
    return adopted


def _check_classes(class_names: Sequence[str]) -> None:
    flag = f"--classes={','.join(class_names)}"
    if len(set(class_names)) < len(class_names):
        raise UsageError(f"{flag}: a class is named twice")
    try:
        check_class_names(dict.fromkeys(class_names, flag))
    except DataError as error:
        raise UsageError(str(error)) from error


def _shard_files(root: Path) -> list[Path]:
    """Return the TFRecord files of a folder, and log what else is in it; hidden files are passed over.

    Raises:
      UsageError: there are some in folders below it, which would be missing.
    """
    found, others = [], []
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if any(part.startswith(".") for part in inside.parts) or not path.is_file():
            continue
        is_shard = FOREIGN_SHARD.fullmatch(path.name) or begins_with_frame(path)
        if not is_shard or "tfevents" in path.name:  # what TensorBoard reads has the same frames
            others.append(inside)
        elif len(inside.parts) > 1:
            raise UsageError(
                f"{path} lies in a folder of {root}, and its records would be missing: put all files into "
                f"{root}, the split in the name of each"
            )
        else:
            found.append(path)
    if others and found:
        logger.info("skipped: %d files that are not TFRecords, such as %s", len(others), others[0])
    return found


def split_named(path: Path) -> str:
    """Return the split that the name of a file of records contains: one of its words names a split.

    Raises:
      DataError: no word of the name is, or words of two splits.
    """
    stem = path.name.lower().partition(".tfrec")[0]
    found = sorted({split for word in re.findall(r"[a-z]+", stem) if (split := split_of(word))})
    if len(found) == 1:
        return found[0]
    named = f"two splits, {' and '.join(found)}" if found else "no split"
    raise DataError(f"the name of {path} says {named}: {_EXPECTED_NAME}")


# -- all of them -------------------------------------------------------------------------------


def _check_ranges(paths: Sequence[Path], stored: Stored, scanned: Sequence[Scanned]) -> None:
    """Refuse a file all of whose values lie in a small part of the range that they are said to have."""
    said = next(name for name, ends in VALUE_RANGES.items() if ends == stored.value_range)
    doubtful = []
    for path, seen in zip(paths, scanned, strict=True):
        looks_like = _smaller_range(said if stored.is_float else "0..255", seen.low, seen.high)
        if seen.fields and looks_like:
            doubtful.append((path, seen, looks_like))
    if not doubtful:
        return
    path, seen, looks_like = doubtful[0]
    way_out = "write them again" + ("" if stored.is_float else ", with --dtype=float32 if in [0, 1]")
    if said != "0..1" and len(doubtful) == len(paths):
        way_out = f"leave out --value_range={said}, or write them again"
    raise DataError(
        f"{path}: all values of all images are from {seen.low:g} to {seen.high:g}, as if {looks_like}, and "
        f"not in {said if stored.is_float else '0..255'} ({len(doubtful)} of {len(paths)} files): {way_out}"
    )


def _smaller_range(said: str, low: float, high: float) -> str:
    """Return what values look like that fill a small part of their range only, "" where they do not."""
    if said == "0..255" and high <= 1:
        return "they were in [0, 1]"
    if said == "-1..1" and low >= 0:
        return "they were in [0, 1]"
    if said == "-1..1" and max(-low, high) <= 0.5:
        return "they were in [-0.5, 0.5]"
    if said == "0..1" and 0 < high <= 1 / 255:
        return "they were divided by 255 twice"
    return ""


def _check_ids_and_patients(directory: str, shards: Sequence[Shard], scanned: Sequence[Scanned]) -> None:
    """Refuse what only all records together show: an id of two records, and a patient in two splits."""
    ids = Counter(fields.id for seen in scanned for fields in seen.fields)
    name, count = max(ids.items(), key=lambda item: item[1])
    if count > 1:
        raise DataError(
            f"{directory}: {count} records have the id {name!r}, and predictions of them could not be told "
            "apart: write each with its own (feature id), or all without"
        )
    splits_of: dict[str, set[str]] = {}
    for shard, seen in zip(shards, scanned, strict=True):
        for fields in seen.fields:
            splits_of.setdefault(fields.group, set()).add(shard.split)
    shared = sorted(group for group, splits in splits_of.items() if len(splits) > 1)
    if shared:
        raise DataError(
            f"{directory}: {len(shared):,} patients (feature group) are in two splits, such as "
            f"{shared[0]!r} in "
            f"{' and '.join(sorted(splits_of[shared[0]]))}, and an evaluation would see patients that the "
            "model knows: write each patient into one split, and no group where it is not the patient"
        )


def _statistics(
    shards: Sequence[Shard], scanned: Sequence[Scanned], stored: Stored
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the training pixels (of all, without training) by channel."""
    chosen = [seen for shard, seen in zip(shards, scanned, strict=True) if shard.split == "train"]
    chosen = [seen for seen in chosen or scanned if seen.fields]
    pixels = sum(len(seen.fields) for seen in chosen) * stored.size**2
    mean = sum(seen.sums for seen in chosen) / max(pixels, 1) * np.ones(stored.channels)
    variance = sum(seen.squares for seen in chosen) / max(pixels, 1) - mean**2
    return tuple(mean.tolist()), tuple(np.sqrt(np.maximum(variance, 0)).tolist())


def _number_sources(index: np.ndarray, scanned: Sequence[Scanned]) -> tuple[str, ...]:
    """Write the number of each record's source into the index; return the sources by number.

    Raises:
      DataError: there are more than the index can number.
    """
    said = [fields.source for seen in scanned for fields in seen.fields]
    number_of = {source: number for number, source in enumerate(dict.fromkeys(said))}
    if len(number_of) > MOST_SOURCES:
        raise DataError(
            f"the records come from {len(number_of):,} sources (feature source), and at most "
            f"{MOST_SOURCES:,} can be kept: write the hospital or the data set there, and not the patient"
        )
    index["source"] = [number_of[source] for source in said]
    return tuple(number_of)


def _counts(
    shards: Sequence[Shard], scanned: Sequence[Scanned], class_names: tuple[str, ...]
) -> dict[str, dict[str, int]]:
    counts = {shard.split: dict.fromkeys(class_names, 0) for shard in shards}
    for shard, seen in zip(shards, scanned, strict=True):
        for fields in seen.fields:
            for name in manifest.names_of(fields, class_names):
                counts[shard.split][name] += 1
    return counts


def _tell(adopted: Manifest, scanned: Sequence[Scanned]) -> None:
    """Log what the records leave open, and what was assumed in its place."""
    low, high = min(seen.low for seen in scanned), max(seen.high for seen in scanned)
    logger.info("pixels: values from %g to %g", low, high)
    unnamed = sum(seen.unnamed for seen in scanned)
    if unnamed:
        logger.info(
            "ids: %s of %s records have none (feature id); they are named SPLIT/FILE/NUMBER",
            f"{unnamed:,}",
            f"{adopted.records:,}",
        )
    fields = [one for seen in scanned for one in seen.fields]
    known = {one.group for one in fields if one.has_patient}
    alone = sum(not one.has_patient for one in fields)
    logger.info(
        "patients: %s known, unknown in %s of %s records (feature group)%s",
        f"{len(known):,}",
        f"{alone:,}",
        f"{adopted.records:,}",
        ": each of these counts as a patient of its own, and nothing tells whether one is in two splits"
        if alone
        else "",
    )
    for line in manifest.class_warnings(adopted.counts, adopted.task):
        logger.warning("%s", line)
