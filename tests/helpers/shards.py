"""Tiny data directories for tests of the read side and the trainer."""

import hashlib
import pathlib

import numpy as np

from cxr_data.records import example
from cxr_data.records.index import scan_shard, write_index
from cxr_data.records.layout import shard_name
from cxr_data.records.manifest import SCHEMA, Manifest, Shard, write_manifest
from cxr_data.records.tfrecord import frame

CLASS_NAMES = ("covid", "normal", "pneumonia")


def random_images(count: int, size: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    """float32 [count, size, size, channels] in [0, 1]."""
    return np.random.default_rng(seed).random([count, size, size, channels], np.float32)


def labels_of(count: int) -> np.ndarray:
    """0, 1, 2, 0, 1, 2, ..."""
    return np.arange(count) % len(CLASS_NAMES)


def write_shards(
    directory: pathlib.Path,
    splits: dict[str, np.ndarray],
    *,
    records_per_shard: int = 4,
    dtype: str = "float32",
) -> Manifest:
    """Writes each split's images [N, S, S, C] in [0, 1], with `labels_of` labels, as a data directory."""
    directory.mkdir(parents=True, exist_ok=True)
    shards, rows, counts = [], [], {}
    for split, images in splits.items():
        labels = labels_of(len(images))
        starts = range(0, len(images), records_per_shard)
        for number, start in enumerate(starts):
            name = shard_name(split, number, len(starts))
            content = bytearray()
            for i in range(start, min(start + records_per_shard, len(images))):
                content += _frame(_stored(images[i], dtype), int(labels[i]), f"{split}/{i}.png", dtype)
            (directory / name).write_bytes(content)
            index = scan_shard(directory / name)
            index["shard"] = len(shards)
            rows.append(index)
            shards.append(Shard(name, split, len(index), len(content), hashlib.sha256(content).hexdigest()))
        counts[split] = {c: int((labels == k).sum()) for k, c in enumerate(CLASS_NAMES)}
    first = next(iter(splits.values()))
    manifest = Manifest(
        directory=str(directory),
        schema=SCHEMA,
        class_names=CLASS_NAMES,
        size=first.shape[1],
        channels=first.shape[3],
        dtype=dtype,
        kernel="none",
        color="gray",
        shards=tuple(shards),
        counts=counts,
        mean=(0.5,) * first.shape[3],
        std=(0.3,) * first.shape[3],
        seed=0,
        config_hash="",
        inputs_hash="",
        source_counts={},
        versions={},
        index_sha256=write_index(str(directory), np.concatenate(rows)),
    )
    write_manifest(manifest)
    return manifest


def _stored(image: np.ndarray, dtype: str) -> np.ndarray:
    return np.rint(image * 255).astype(np.uint8) if dtype == "uint8" else image.astype(dtype)


def _frame(pixels: np.ndarray, label: int, name: str, dtype: str) -> bytes:
    fields = example.Fields(label=label, id=name, sha256="0" * 64, group=name)
    before, after = frame(example.example_header(fields, dtype, pixels.nbytes), pixels.tobytes())
    return before + pixels.tobytes() + after
