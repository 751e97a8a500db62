"""A data set of synthetic embeddings of several sources, in which the source and the class both show."""

import dataclasses
import hashlib
import pathlib

import numpy as np
from shards import write_shards

from cxr_data.records import example
from cxr_data.records.index import scan_shard, write_index
from cxr_data.records.manifest import Manifest, Shard, write_manifest
from cxr_data.records.tfrecord import frame

CLASSES = ("normal", "pneumonia", "covid")
SOURCES = ("nih", "Köln, Süd", "rare/site")
FEATURES = 6


def write_embedded_sources(
    directory: pathlib.Path, *, patients: tuple[int, ...] = (130, 120, 6), odd: str = ""
) -> Manifest:
    """Write train, validation and test: two pictures a patient, two classes in turns, covid in one source.

    Args:
      directory: is made.
      patients: of each of `SOURCES`.
      odd: a source whose embeddings are others, all else being the same.
    """
    manifest = write_shards(directory, {"train": np.zeros([3, 1, 1, FEATURES], np.float32)})
    (directory / manifest.shards[0].name).unlink()
    random = np.random.default_rng(0)
    signal, of_source = random.normal(size=(2, 3, FEATURES))
    shards, rows, counts = [], [], {}
    for number, (split, share) in enumerate((("train", 0.5), ("validation", 0.25), ("test", 0.25))):
        content, sources, labels = bytearray(), [], []
        for source, name in enumerate(SOURCES):
            for patient in range(int(patients[source] * share)):
                for picture in range(2):
                    label = patient % 2 * (2 if source == 2 else 1)
                    values = signal[label] + of_source[source % 2] + 1.5 * random.normal(size=FEATURES)
                    values = (-values if name == odd else values).astype(np.float32)
                    group = f"{split}-{name}-{patient}"
                    fields = example.Fields(label, f"{group}-{picture}", "0" * 64, group, name, ())
                    before, after = frame(
                        example.example_header(fields, "float32", values.nbytes), values.tobytes()
                    )
                    content += before + values.tobytes() + after
                    sources.append(source)
                    labels.append(label)
        shard = f"{split}-00000-of-00001.tfrecord"
        (directory / shard).write_bytes(content)
        index = scan_shard(directory / shard)
        index["shard"], index["source"] = number, sources
        rows.append(index)
        digest = hashlib.sha256(content).hexdigest()
        shards.append(Shard(shard, split, len(index), len(content), digest))
        counts[split] = {name: labels.count(label) for label, name in enumerate(CLASSES)}
    made = dataclasses.replace(
        manifest,
        class_names=CLASSES,
        shards=tuple(shards),
        counts=counts,
        sources=SOURCES,
        mean=(),
        std=(),
        embedding="synthetic",
        index_sha256=write_index(str(directory), np.concatenate(rows)),
    )
    write_manifest(made)
    return made
