"""Tiny data directories for tests of the read side and the trainer."""

import hashlib
import pathlib

import numpy as np

from cxr_data.records import example
from cxr_data.records.index import scan_shard, write_index
from cxr_data.records.layout import shard_name
from cxr_data.records.manifest import (
    CLASSES,
    FINDINGS,
    SCHEMA,
    Manifest,
    Shard,
    names_of,
    write_manifest,
)
from cxr_data.records.tfrecord import frame

CLASS_NAMES = ("covid", "normal", "pneumonia")


def random_images(count: int, size: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    """float32 [count, size, size, channels] in [0, 1]."""
    return np.random.default_rng(seed).random([count, size, size, channels], np.float32)


def labels_of(count: int) -> np.ndarray:
    """0, 1, 2, 0, 1, 2, ..."""
    return np.arange(count) % len(CLASS_NAMES)


def findings_of(count: int, findings: int) -> np.ndarray:
    """int32 [count, findings], of 1 present, 0 absent, -1 uncertain and -2 unknown."""
    return np.random.default_rng(1).integers(-2, 2, [count, findings], np.int32)


def write_shards(
    directory: pathlib.Path,
    splits: dict[str, np.ndarray],
    *,
    records_per_shard: int = 4,
    dtype: str = "float32",
    findings: int = 0,
    sources: tuple[str, ...] = ("",),
) -> Manifest:
    """Writes each split's images [N, S, S, C] in [0, 1] as a data directory.

    Each has the class of `labels_of`, or `findings_of` where `findings` are given; sources take turns.
    """
    class_names = tuple(f"finding{number}" for number in range(findings)) or CLASS_NAMES
    directory.mkdir(parents=True, exist_ok=True)
    shards, rows, counts = [], [], {}
    for split, images in splits.items():
        labels = labels_of(len(images))
        several = findings_of(len(images), findings).tolist()
        fields = [
            example.Fields(
                label=int(1 in several[i]) if findings else int(labels[i]),
                id=f"{split}/{i}.png",
                sha256="0" * 64,
                group=f"{split}/{i}.png",
                source=sources[i % len(sources)],
                labels=tuple(several[i]),
            )
            for i in range(len(images))
        ]
        starts = range(0, len(images), records_per_shard)
        for number, start in enumerate(starts):
            name = shard_name(split, number, len(starts))
            content = bytearray()
            for i in range(start, min(start + records_per_shard, len(images))):
                content += _frame(_stored(images[i], dtype), fields[i], dtype)
            (directory / name).write_bytes(content)
            index = scan_shard(directory / name, findings=findings)
            index["shard"] = len(shards)
            index["source"] = np.arange(start, start + len(index)) % len(sources)
            rows.append(index)
            shards.append(Shard(name, split, len(index), len(content), hashlib.sha256(content).hexdigest()))
        counts[split] = dict.fromkeys(class_names, 0)
        for one in fields:
            for present in names_of(one, class_names):
                counts[split][present] += 1
    first = next(iter(splits.values()))
    manifest = Manifest(
        directory=str(directory),
        schema=SCHEMA,
        class_names=class_names,
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
        task=FINDINGS if findings else CLASSES,
        sources=sources,
    )
    write_manifest(manifest)
    return manifest


def _stored(image: np.ndarray, dtype: str) -> np.ndarray:
    return np.rint(image * 255).astype(np.uint8) if dtype == "uint8" else image.astype(dtype)


def _frame(pixels: np.ndarray, fields: example.Fields, dtype: str) -> bytes:
    before, after = frame(example.example_header(fields, dtype, pixels.nbytes), pixels.tobytes())
    return before + pixels.tobytes() + after
