"""A data set of some records of another, with splits of its own: everything reads it as any other."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from cxr_data.core import storage
from cxr_data.core.errors import UsageError
from cxr_data.records.index import labels_of, write_index
from cxr_data.records.layout import MANIFEST_NAME, QUARANTINE_NAME, shard_name
from cxr_data.records.manifest import Manifest, Shard, read_manifest, write_manifest
from cxr_data.records.tfrecord import FRAME_FOOTER_BYTES, FRAME_HEADER_BYTES

Splits = Mapping[str, Sequence[int]]


def write_subset(manifest: Manifest, directory: str, rows: np.ndarray, splits: Splits) -> None:
    """Write a data set of copies of records, a shard a split, unless it is there already.

    Args:
      manifest: of the data set that they are copied from.
      directory: local, is made.
      rows: of `read_index`.
      splits: which of them each split has.

    Raises:
      UsageError: copies of other records are there.
    """
    chosen_from = [
        manifest.index_sha256,
        {split: [int(row) for row in chosen] for split, chosen in splits.items()},
    ]
    inputs_hash = hashlib.sha256(json.dumps(chosen_from).encode()).hexdigest()
    if storage.size(storage.join(directory, MANIFEST_NAME)) is not None:
        if read_manifest(directory, check_shards=False).inputs_hash == inputs_hash:
            return
        raise UsageError(
            f"{directory}: holds copies of other records, of another --stress or of data that was replaced "
            "since; choose another --run_dir"
        )
    storage.store_of(directory).make_directory(directory)
    shards, written, counts = [], [], {}
    for number, (split, chosen) in enumerate(splits.items()):
        content, index = bytearray(), rows[list(chosen)].copy()
        for row in index:
            start = int(row["record"])
            with storage.opened_at(manifest.path(manifest.shards[row["shard"]])) as read_at:
                frame = read_at(int(row["length"]) + FRAME_HEADER_BYTES + FRAME_FOOTER_BYTES, start)
            row["payload"] += len(content) - start
            row["record"], row["shard"] = len(content), number
            content += frame
        name = shard_name(split, 0, 1)
        storage.replace(storage.join(directory, name), bytes(content))
        shards.append(Shard(name, split, len(index), len(content), hashlib.sha256(content).hexdigest()))
        written.append(index)
        of_split = np.bincount(labels_of(index), minlength=len(manifest.class_names)).tolist()
        counts[split] = dict(zip(manifest.class_names, of_split, strict=True))
    whole = np.concatenate(written)
    storage.replace(storage.join(directory, QUARANTINE_NAME), b"")
    found = dict.fromkeys(manifest.source_counts, 0) | {"discovered": len(whole), "written": len(whole)}
    write_manifest(
        dataclasses.replace(
            manifest,
            directory=directory,
            shards=tuple(shards),
            counts=counts,
            index_sha256=write_index(directory, whole),
            features_sha256="",
            source_counts=found,
            inputs_hash=inputs_hash,
        )
    )
