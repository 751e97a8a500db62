"""Foreign TFRecords of the same schema: one scan gives them an index and a manifest.

Any program can write `tf.train.Example` records with `image` and `label`; what our readers
need beside them is where each image lies, and what the pixels and labels mean.
"""

import concurrent.futures
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.local_store import sha256_of
from cxr_data.records import example, manifest
from cxr_data.records.index import scan_shard, write_index
from cxr_data.records.layout import FOREIGN_SHARD, MANIFEST_NAME
from cxr_data.records.manifest import Manifest, Shard
from cxr_data.records.quarantine_file import write_quarantine
from cxr_data.records.tfrecord import FRAME_HEADER_BYTES


def adopt(
    directory: str,
    class_names: tuple[str, ...],
    *,
    size: int,
    channels: int,
    dtype: str,
    threads: int = 2,
    tick: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Scan the TFRecord files of a directory and write `index.npy` and `manifest.json` beside them.

    Args:
      directory: local, with files named `SPLIT*.tfrecord`.
      class_names: in the order of the label values.
      size: height and width of every image, in pixels.
      channels: 1 or 3.
      dtype: one of `example.DTYPES`; float32 must be a FloatList, the others one bytes value.
      threads: files scanned at once.
      tick: called with the name of each file that was scanned.

    Raises:
      UsageError: the directory has a manifest already, or no such file.
      DataError: a record is damaged, is not of this schema, or has another size or label.
    """
    root = Path(directory)
    if (root / MANIFEST_NAME).exists():
        raise UsageError(f"{directory} has a {MANIFEST_NAME} already: it needs no scan")
    splits = {
        path: match["split"] for path in root.glob("*") if (match := FOREIGN_SHARD.fullmatch(path.name))
    }
    paths = sorted(splits, key=lambda path: (splits[path], path.name))
    if not paths:
        raise UsageError(f"{directory} has no files named SPLIT*.tfrecord")
    payload = size * size * channels * np.dtype(dtype).itemsize

    def scan(number: int) -> tuple[Shard, np.ndarray]:
        path = paths[number]
        rows = scan_shard(path)
        rows["shard"] = number
        _check(path, rows, payload, len(class_names), is_float_list=dtype == "float32")
        tick(path.name)
        return Shard(path.name, splits[path], len(rows), path.stat().st_size, sha256_of(path)), rows

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        shards, rows = zip(*pool.map(scan, range(len(paths))), strict=True)
    index = np.concatenate(rows)
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
        counts=_counts(shards, rows, class_names),
        mean=(),
        std=(),
        seed=0,
        config_hash="",
        inputs_hash="",
        source_counts={"discovered": len(index), "written": len(index), "quarantined": 0, "duplicates": 0},
        versions={},
        index_sha256=write_index(str(root), index),
        notes=("indexed by a scan of records that another program wrote",),
    )
    write_quarantine(str(root), [])
    manifest.write_manifest(adopted)
    return adopted


def _check(path: Path, rows: np.ndarray, payload: int, classes: int, *, is_float_list: bool) -> None:
    """Refuse records whose pixels or label are not what the flags say."""
    wrong = np.flatnonzero((rows["label"] < 0) | (rows["label"] >= classes))
    if len(wrong):
        label = rows["label"][wrong[0]]
        raise DataError(f"{path}: record {wrong[0]} has label {label}, there are {classes} classes")
    with open(path, "rb") as file:
        for number, row in enumerate(rows):
            file.seek(int(row["record"]) + FRAME_HEADER_BYTES)
            parsed = example.parse_example(file.read(int(row["length"])))
            if parsed.payload_bytes != payload or parsed.is_float_list != is_float_list:
                kind = "a FloatList" if parsed.is_float_list else "one bytes value"
                raise DataError(
                    f"{path}: record {number} holds {kind} of {parsed.payload_bytes} bytes, not the "
                    f"{payload} bytes that --size, --channels and --dtype say"
                )


def _counts(
    shards: tuple[Shard, ...], rows: tuple[np.ndarray, ...], class_names: tuple[str, ...]
) -> dict[str, dict[str, int]]:
    counts = {shard.split: dict.fromkeys(class_names, 0) for shard in shards}
    for shard, of_shard in zip(shards, rows, strict=True):
        for label, name in enumerate(class_names):
            counts[shard.split][name] += int((of_shard["label"] == label).sum())
    return counts
