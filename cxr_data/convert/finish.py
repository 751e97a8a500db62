"""After the last shard: index, quarantine, ledger and, last of all, the manifest."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from cxr_data.audit.audit import audit_pictures, write_audit
from cxr_data.audit.pictures import pictures_of_shards
from cxr_data.convert import ledger
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.conversion import conversion_of
from cxr_data.convert.plan import Plan
from cxr_data.convert.prepare import Prepared, versions
from cxr_data.convert.shard_writer import ShardResult
from cxr_data.convert.split_file import write_split_file
from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.core.wording import counted
from cxr_data.images import measure, resize
from cxr_data.records import example, manifest
from cxr_data.records.index import index_dtype, write_features, write_index
from cxr_data.records.layout import AUDIT_NAME
from cxr_data.records.quarantine_file import write_quarantine
from cxr_data.sources import quarantine
from cxr_data.sources.quarantine import Quarantined


def finish_dataset(
    config: SharderConfig, prepared: Prepared, results: Mapping[str, ShardResult]
) -> manifest.Manifest:
    """Write index, quarantine, ledger and, last, the manifest."""
    ordered = [results[shard.name] for shard in prepared.plan.shards]
    if not any(result.records for result in ordered):
        entry = next(entry for result in ordered for entry in result.quarantined)
        raise DataError(
            f"not one of {counted(prepared.found.discovered, 'file')} can be used: {entry.id}: {entry.detail}"
        )
    split_of = {shard.name: shard.split for shard in prepared.plan.shards}
    written = [result for result in ordered if result.records]
    left_out = [*prepared.found.quarantined, *prepared.excluded, *(q for r in ordered for q in r.quarantined)]
    fields = _fields_of(prepared, written)
    index = _index_of(prepared.plan, written, fields)
    mean, std = _statistics(config, written, split_of)
    ledger.write_ledger(config.output, prepared.header, ordered)
    ledger.forget_beside(config.output)
    write_quarantine(config.output, left_out)
    shards = [manifest.Shard(r.name, split_of[r.name], r.records, r.bytes, r.sha256) for r in written]
    made = manifest.Manifest(
        directory=config.output.rstrip("/") or "/",
        schema=manifest.SCHEMA,
        class_names=prepared.plan.class_names,
        size=config.size,
        channels=config.channels,
        dtype=config.dtype,
        kernel=resize.KERNEL,
        color=config.color,
        shards=tuple(shards),
        counts=_counts(shards, prepared.plan.class_names, fields),
        mean=mean,
        std=std,
        seed=config.seed,
        config_hash=hashlib.sha256(repr(sorted(prepared.header.config.items())).encode()).hexdigest(),
        inputs_hash=prepared.header.plan,
        source_counts=_source_counts(prepared, index, left_out),
        versions=versions(),
        index_sha256=write_index(config.output, index),
        features_sha256=write_features(config.output, _features_of(written)),
        crop_border=config.crop_border,
        equalize_to=config.equalize_to,
        task=prepared.plan.task,
        sources=prepared.plan.sources,
    )
    if config.write_split_file:
        write_split_file(config.write_split_file, made, fields)
    if config.audit and storage.size(storage.join(config.output, AUDIT_NAME)) is None:
        _audit(config, made, fields)  # before the manifest: it says that all is there
    manifest.write_manifest(made)
    return made


def _fields_of(prepared: Prepared, written: Sequence[ShardResult]) -> list[example.Fields]:
    """Return what the records hold beside the pixels, in the order of the index."""
    entries = {entry.id: entry for shard in prepared.plan.shards for entry in shard.entries}
    return [entries[name].fields(sha256) for result in written for name, _, sha256 in result.sources]


def _audit(config: SharderConfig, made: manifest.Manifest, fields: Sequence[example.Fields]) -> None:
    own = pictures_of_shards(made, quiet=True, known=fields)
    write_audit(made.directory, audit_pictures(own, conversion=conversion_of(config), quiet=config.quiet))


def _index_of(plan: Plan, written: Sequence[ShardResult], fields: Sequence[example.Fields]) -> np.ndarray:
    number_of = {source: number for number, source in enumerate(plan.sources)}
    rows = [(number, *row) for number, result in enumerate(written) for row in result.rows]
    has_findings = plan.task == manifest.FINDINGS
    return np.array(
        [
            (*row, number_of[one.source], *([one.labels] if has_findings else []))
            for row, one in zip(rows, fields, strict=True)
        ],
        index_dtype(len(plan.class_names) if has_findings else 0),
    )


def _features_of(written: Sequence[ShardResult]) -> np.ndarray:
    return np.concatenate([measure.decode_rows(result.features) for result in written])


def _counts(
    shards: Sequence[manifest.Shard], class_names: Sequence[str], fields: Sequence[example.Fields]
) -> dict[str, dict[str, int]]:
    counts = {shard.split: dict.fromkeys(class_names, 0) for shard in shards}
    splits = (shard.split for shard in shards for _ in range(shard.records))
    for split, one in zip(splits, fields, strict=True):
        for name in manifest.names_of(one, class_names):
            counts[split][name] += 1
    return counts


def _source_counts(prepared: Prepared, index: np.ndarray, left_out: Sequence[Quarantined]) -> dict[str, int]:
    duplicates = sum(entry.reason == "duplicate" for entry in left_out)
    excluded = sum(entry.reason in quarantine.EXCLUDED for entry in left_out)
    counts = {
        "discovered": prepared.found.discovered,
        "written": len(index),
        "quarantined": len(left_out) - duplicates - excluded,
        "duplicates": duplicates,
        "excluded": excluded,
    }
    if counts["discovered"] != sum(counts.values()) - counts["discovered"]:
        raise AssertionError(f"the counts do not add up: {counts}")
    return counts


def _statistics(
    config: SharderConfig, written: Sequence[ShardResult], split_of: Mapping[str, str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation in [0, 1] of the training pixels (of all, without training)."""
    training = [result for result in written if split_of[result.name] == "train"] or list(written)
    pixels = sum(result.records for result in training) * config.size**2
    means, deviations = [], []
    for channel in range(config.channels):
        # Exact integers until the end, so that the order of the shards does not matter.
        total = sum(result.sums[channel] for result in training)
        squares = sum(result.squares[channel] for result in training)
        means.append(total / pixels / 255)
        deviations.append(((squares * pixels - total**2) / pixels**2) ** 0.5 / 255)
    return tuple(means), tuple(deviations)
