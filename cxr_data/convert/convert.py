"""From a source of images to a finished dataset: the sharder's whole path.

    discover -> groups, duplicates -> plan -> (ledger: what is whole already) -> workers -> manifest

Killed at any moment and started again, it finishes the rest, and the output is the
same, byte for byte, as that of a run that was never disturbed.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np

from cxr_data.audit import audit
from cxr_data.convert import ledger
from cxr_data.convert.beam import BeamJob
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.finish import finish_dataset
from cxr_data.convert.plan import ShardPlan
from cxr_data.convert.prepare import Prepared, prepare_conversion
from cxr_data.convert.progress import Progress
from cxr_data.convert.resume import begin, reusable
from cxr_data.convert.shard_writer import ShardResult
from cxr_data.convert.workers import Pool
from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.machine_memory import all_memory
from cxr_data.core.runtime import cores
from cxr_data.core.settings import check_folder
from cxr_data.core.wording import byte_size, counted, tool
from cxr_data.images import assumed, measure
from cxr_data.records import manifest
from cxr_data.records.index import read_features
from cxr_data.records.layout import AUDIT_NAME, QUARANTINE_NAME
from cxr_data.records.quarantine_file import read_quarantine
from cxr_data.sources import quarantine

# Quarantined files that are shown as they are met; quarantine.jsonl names all.
_MOST_SHOWN = 20


def make_tfrecords(config: SharderConfig) -> manifest.Manifest:
    """Convert a folder or CSV of images to TFRecord shards, and audit them.

    A conversion that was stopped is continued, and its output is the same, byte for byte.

    Args:
      config: the source, the output, and how to convert.

    Returns:
      What the output's `manifest.json` holds: classes, counts and shards.

    Raises:
      UsageError: a flag or the source is wrong.
      DataError: bad input, an output of something else, too many bad files, or a full disk.
    """
    _check_places(config)
    with Progress(config.log_json, config.quiet) as progress:
        prepared = prepare_conversion(config, progress)
        with _only_run(config.output):
            try:
                return _run(config, prepared, progress)
            except OSError as error:
                raise DataError(
                    f"cannot write in {config.output}: {error.strerror or error}; every shard with its final "
                    "name is whole; make room and run the same command again to finish the rest"
                ) from error


def _check_places(config: SharderConfig) -> None:
    if storage.is_within(config.output, config.source):
        raise UsageError(
            f"--output={config.output} lies in the source {config.source}: nothing is written there"
        )
    # Now, not after an hour: can it be reached?
    check_folder("output", config.output)


def _only_run(directory: str) -> AbstractContextManager[object]:
    """Make the output and refuse a second run in it; the lock goes with the process.

    An object store has no locks: see `_require_own_ledger`.
    """
    try:
        storage.make_directory(directory)
        return storage.store_of(directory).lock(directory)
    except BlockingIOError as error:
        raise DataError(f"another run is writing in {directory}") from error
    except OSError as error:
        raise DataError(f"--output={directory} cannot be made: {error.strerror}") from error


def _run(config: SharderConfig, prepared: Prepared, progress: Progress) -> manifest.Manifest:
    started = time.monotonic()
    results = reusable(config, prepared, progress)
    todo = [shard for shard in prepared.plan.shards if shard.name not in results]
    if todo:
        begin(config.output, prepared, results)
        _convert(config, prepared, results, todo, progress)
    made = finish_dataset(config, prepared, results)
    _report(made, prepared, results, todo, time.monotonic() - started, progress)
    return made


def _convert(
    config: SharderConfig,
    prepared: Prepared,
    results: dict[str, ShardResult],
    todo: Sequence[ShardPlan],
    progress: Progress,
) -> None:
    """Write the missing shards and add them to `results` and the ledger."""
    _warn_of_space(config, todo, progress)
    _warn_of_memory(config, progress)
    pool = _pool(config, prepared, progress)
    bad = sum(entry.reason not in quarantine.NOT_BAD for entry in prepared.found.quarantined)
    bad += sum(len(result.quarantined) for result in results.values())
    shown = 0
    progress.start(sum(len(shard.entries) for shard in todo))
    with contextlib.closing(pool.convert(todo, progress.tick)) as finished:
        for result in finished:
            _require_own_ledger(config, prepared)
            ledger.append_result(config.output, prepared.header, result)
            results[result.name] = result
            for entry in result.quarantined:
                shown += 1
                if shown <= _MOST_SHOWN:
                    progress.say(f"quarantined {entry.id}: {entry.reason}: {entry.detail}")
                progress.event("quarantined", **vars(entry))
            bad += len(result.quarantined)
            if bad > config.max_bad * prepared.found.discovered:
                raise DataError(
                    f"{bad} of {prepared.found.discovered} files are bad, more than --max_bad="
                    f"{config.max_bad:.2%}, the last one {_last_bad(result)}; stopped"
                )


def _require_own_ledger(config: SharderConfig, prepared: Prepared) -> None:
    """Stop a run on an object store when another one, of other flags or inputs, has begun in its output.

    Runs of the same flags write the same bytes; of others the first to stop is the one that began first.
    """
    has_locks = storage.store_of(config.output).has_locks
    if not has_locks and not ledger.belongs_to(config.output, prepared.header):
        raise DataError(
            f"another run, with other flags or inputs, has begun in {config.output}, so this one stops; "
            "give each its "
            f"own --output, and check what the other one made with python -m {tool('verify_tfrecords')}"
        )


def _pool(config: SharderConfig, prepared: Prepared, progress: Progress) -> Pool | BeamJob:
    count = _workers(config)
    if config.runner == "local":
        return Pool(count, config.output, config.pixel_options, config.limits, progress.say)
    return BeamJob(
        config.beam_runner,
        config.beam_options,
        max(count, 1),
        config.output,
        config.pixel_options,
        config.limits,
        prepared.header,
    )


def _workers(config: SharderConfig) -> int:
    return cores() if config.workers < 0 else config.workers


def _last_bad(result: ShardResult) -> str:
    return (
        f"{result.quarantined[-1].id} ({result.quarantined[-1].reason})"
        if result.quarantined
        else "found before"
    )


def _warn_of_space(config: SharderConfig, todo: Sequence[ShardPlan], progress: Progress) -> None:
    needed = sum(len(shard.entries) for shard in todo) * config.pixel_options.payload_bytes
    free = storage.store_of(config.output).free_bytes(config.output)
    if free is not None and needed > free:
        progress.say(f"WARNING: {byte_size(needed)} are needed, {config.output} has {byte_size(free)} free")


def _warn_of_memory(config: SharderConfig, progress: Progress) -> None:
    """Each worker may take what an image may take: without the memory, the kernel ends what it likes."""
    workers, there = max(_workers(config), 1), all_memory()
    if config.runner == "local" and workers * config.limits.memory > there:
        progress.say(
            f"WARNING: {counted(workers, 'worker')} of --image_memory_gb={config.image_memory_gb:g} may take "
            f"{byte_size(workers * config.limits.memory)}, and {byte_size(there)} are there: give fewer "
            "--workers or a smaller --image_memory_gb"
        )


def _warn_of_small(made: manifest.Manifest, progress: Progress) -> None:
    """Nothing can sharpen an image that is smaller than what all are reduced to."""
    measured = read_features(made)
    if not made.equalize_to or measured is None:
        return
    smallest = int(np.minimum(measured["width"], measured["height"]).min())
    if smallest < 2 * made.equalize_to:
        progress.say(
            f"WARNING: the smallest image has {smallest} pixels: after --equalize_to={made.equalize_to} it "
            f"may still differ from larger ones by its sharpness; {smallest // 2} or less would hide it"
        )


def _assumptions(made: manifest.Manifest) -> str:
    """Return what was assumed where files are silent, and about how many; empty for nothing."""
    measured = read_features(made)
    if measured is None:
        return ""
    return assumed.assumed_summary(letters.decode() for letters in measure.modes_of(measured)[1])


def _counts(made: manifest.Manifest, split: str) -> str:
    """Return the images of a split in words: of each class, or all and of each finding."""
    counts = ", ".join(f"{images:,} {name}" for name, images in made.counts[split].items())
    return f"{counted(made.count(split), 'image')}: {counts}" if made.findings else counts


def _report(
    made: manifest.Manifest,
    prepared: Prepared,
    results: Mapping[str, ShardResult],
    todo: Sequence[ShardPlan],
    seconds: float,
    progress: Progress,
) -> None:
    new = [results[shard.name] for shard in todo]
    planned = prepared.plan.counts()
    images = sum(result.records for result in new)
    size = sum(shard.bytes for shard in made.shards)
    rows = [(split, _counts(made, split)) for split in made.counts]
    rows.append(("files", ", ".join(f"{n:,} {name}" for name, n in made.source_counts.items())))
    assumptions = _assumptions(made)
    if assumptions:
        rows.append(("assumed", assumptions))
    rows.append(("shards", f"{len(made.shards)} of {byte_size(size)} in {made.directory}"))
    if new:
        speed = f"{images / seconds:.0f} img/s, {sum(r.bytes for r in new) / 1e6 / seconds:.0f} MB/s"
        rows.append(("speed", f"{counted(images, 'image')} in {seconds:.1f} s: {speed}"))
    else:
        rows.append(("speed", "nothing to do: the output was complete, and is checked"))
    progress.finish(rows)
    for line in manifest.class_warnings(made.counts, made.task, planned=planned):
        progress.say(f"WARNING: {line}")
    _warn_of_small(made, progress)
    if storage.size(storage.join(made.directory, AUDIT_NAME)) is not None:
        for line in audit.audit_summary(made.directory).split("\n"):
            progress.say(line)
    left_out = read_quarantine(made.directory)
    if left_out:
        progress.say(f"left out, by reason ({storage.join(made.directory, QUARANTINE_NAME)} names each):")
        for line in quarantine.reasons_table(left_out).split("\n"):
            progress.say(line)
    progress.event(
        "done",
        seconds_run=round(seconds, 3),
        converted=images,
        bytes=size,
        assumed=assumptions,
        **made.source_counts,
    )
