"""What an earlier run left: re-used where it is whole and of the same plan, refused where it is not."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from cxr_data.audit import figures
from cxr_data.convert import ledger, plan
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.ledger import Header
from cxr_data.convert.plan import ShardPlan
from cxr_data.convert.prepare import Prepared
from cxr_data.convert.progress import Progress
from cxr_data.convert.shard_writer import ShardResult
from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.core.runtime import cores
from cxr_data.core.wording import counted
from cxr_data.images.source_file import digest_of
from cxr_data.images.undecodable import Undecodable
from cxr_data.records.layout import (
    AUDIT_FOLDER,
    AUDIT_NAME,
    LEDGER_NAME,
    MANIFEST_NAME,
    is_of_dataset,
    is_of_shard,
)


def reusable(config: SharderConfig, prepared: Prepared, progress: Progress) -> dict[str, ShardResult]:
    """Return the whole shards of an earlier run of the same plan. Refuse those of another plan."""
    earlier = _read_earlier(config)
    if earlier is None:
        return {}
    header, results = earlier
    difference = header.difference(prepared.header)
    finished = storage.size(storage.join(config.output, MANIFEST_NAME)) is not None
    if difference or (config.overwrite and finished):
        if not config.overwrite:
            raise DataError(
                f"{config.output} holds another conversion: {difference}; --overwrite replaces it"
            )
        progress.say(f"--overwrite: starting over ({difference or 'the output was finished'})")
        return {}
    by_name = {shard.name: shard for shard in prepared.plan.shards}
    candidates = [(by_name[name], result) for name, result in results.items() if name in by_name]
    if config.retry_quarantined:
        candidates = [(shard, result) for shard, result in candidates if not result.quarantined]
    with ThreadPoolExecutor(cores()) as pool:
        whole = list(pool.map(lambda pair: _is_whole(config, *pair), candidates))
    reused = {result.name: result for (_, result), good in zip(candidates, whole, strict=True) if good}
    progress.say(f"found {len(reused)} of {counted(len(by_name), 'shard')} whole and checked")
    return reused


def _read_earlier(config: SharderConfig) -> tuple[Header, dict[str, ShardResult]] | None:
    foreign = [name for name in storage.names(config.output) if is_of_dataset(name)]
    try:
        earlier = ledger.read_ledger(config.output)
        if earlier is None and foreign:
            raise DataError(
                f"{config.output} holds {foreign[0]} but no {LEDGER_NAME}; --overwrite replaces it"
            )
    except DataError:
        if not config.overwrite:
            raise
        return None
    return earlier


def _is_whole(config: SharderConfig, shard: ShardPlan, result: ShardResult) -> bool:
    """Return whether a shard is on disk as it was written, and its sources are what it was made from."""
    path = storage.join(config.output, result.name)
    if result.records == 0:
        return storage.size(path) is None
    if storage.size(path) != result.bytes:
        return False
    store = storage.store_of(path)
    if not store.is_intact(path, result.sha256):
        return False
    converted_ns = store.modified_ns(path)
    entries = {entry.id: entry for entry in shard.entries}
    if not {name for name, _, _ in result.sources} | {one.id for one in result.quarantined} <= entries.keys():
        return False  # a ledger of somebody else
    for name, size, sha256 in result.sources:
        if not _is_unchanged(entries[name], size, sha256, converted_ns, config.max_pixels):
            if config.overwrite or config.retry_quarantined:
                return False
            raise DataError(f"{name} has changed since it was converted; --overwrite starts over")
    for left_out in result.quarantined:
        entry = entries[left_out.id]
        if left_out.sha256 and not _is_unchanged(
            entry, entry.bytes, left_out.sha256, converted_ns, config.max_pixels
        ):
            raise DataError(
                f"{entry.id} has changed since it was quarantined; --retry_quarantined tries it again"
            )
    return True


def _is_unchanged(entry: plan.Entry, size: int, sha256: str, converted_ns: int, max_pixels: int) -> bool:
    if entry.bytes != size:
        return False
    if storage.store_of(entry.path).is_older(entry.path, converted_ns):
        return True
    # Touched after it was converted, perhaps only copied or renamed: the content decides.
    try:
        return digest_of(entry.path, max_pixels) == sha256
    except Undecodable:
        return False


def begin(output: str, prepared: Prepared, results: Mapping[str, ShardResult]) -> None:
    """Mark the output as unfinished: no manifest, a ledger of the whole shards, no other file of ours."""
    for name in (MANIFEST_NAME, AUDIT_NAME):
        storage.remove(storage.join(output, name))
    figures.remove_figures(storage.join(output, AUDIT_FOLDER))
    ledger.write_ledger(output, prepared.header, results.values())
    for name in storage.names(output):
        if is_of_shard(name) and name not in results:
            storage.remove(storage.join(output, name))
