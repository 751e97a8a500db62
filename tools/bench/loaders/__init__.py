"""The loaders that the reader is measured against, one small file each.

A peer's file has `open_epochs(data, batch_size, **options)`, which returns a function from
the epoch's number to an iterator over its image batches, and, where the peer has a storage
format of its own, `write(arrays, output)`. `worker` runs it, started by path in the
environment that has the peer's packages; so nothing here imports this project, but `ours`.
"""

import dataclasses
from collections.abc import Mapping

OWN = "project"
"""Stands for the interpreter that runs the benchmark."""

PINS = (
    "torch==2.13.0",
    "numpy==1.26.4",
    "pillow==13.0.0",
    "webdataset==1.0.2",
    "grain==0.2.18",
    "array_record==0.8.6",
    "litdata==0.2.76",
    "mosaicml-streaming==0.13.0",
)
"""What is installed for the peers, into an environment of their own: grain needs a protobuf
that TensorFlow 2.17 refuses."""


@dataclasses.dataclass(frozen=True)
class Peer:
    """One row of the table.

    Attributes:
      key: name on the command line.
      label: name in the table.
      module: file in this folder.
      data: folder below the scratch folder that is read.
      package: whose version is shown; it must be installed.
      needs: further packages without which it does not run.
      options: for `open_epochs`.
      environment: `OWN`, or "" for the peers' environment.
      uncached: False if images are kept in memory, so that storage is not read.
      note: how it runs, in a few words.
    """

    key: str
    label: str
    module: str
    data: str
    package: str
    needs: tuple[str, ...] = ()
    options: Mapping[str, object] = dataclasses.field(default_factory=dict)
    environment: str = ""
    uncached: bool = True
    note: str = ""


_OURS = ("ours", "shards", "cxr")

PEERS = (
    Peer(
        "ours", "ours", *_OURS, environment=OWN, options={"verify": "first"}, note="each record verified once"
    ),
    Peer("ours_always", "ours, verify=always", *_OURS, environment=OWN, options={"verify": "always"}),
    Peer(
        "ours_memory",
        "ours, cache=memory",
        *_OURS,
        environment=OWN,
        options={"cache": "memory"},
        uncached=False,
        note="images kept in memory",
    ),
    Peer(
        "study",
        "study's generator",
        "study_generator",
        "images",
        "pillow",
        environment=OWN,
        note="one Python generator",
    ),
    Peer(
        "keras",
        "image_dataset_from_directory",
        "keras_directory",
        "images",
        "keras",
        environment=OWN,
        options={"cache": False},
        note="decode and resize in tf.data",
    ),
    Peer(
        "keras_cache",
        "image_dataset_from_directory.cache()",
        "keras_directory",
        "images",
        "keras",
        environment=OWN,
        options={"cache": True},
        uncached=False,
        note="hands out the same batches, in the same order, from memory",
    ),
    Peer("torch_folder", "PyTorch, folder, in process", "pytorch_folder", "images", "torch", ("pillow",)),
    Peer(
        "torch_folder_workers",
        "PyTorch, folder, workers",
        "pytorch_folder",
        "images",
        "torch",
        ("pillow",),
        options={"workers": True},
    ),
    Peer("torch_npy", "PyTorch, .npy, in process", "pytorch_npy", "arrays", "torch"),
    Peer(
        "torch_npy_workers",
        "PyTorch, .npy, workers",
        "pytorch_npy",
        "arrays",
        "torch",
        options={"workers": True},
    ),
    Peer("webdataset", "WebDataset, in process", "webdataset_tar", "tar", "webdataset", ("torch",)),
    Peer(
        "webdataset_workers",
        "WebDataset, workers",
        "webdataset_tar",
        "tar",
        "webdataset",
        ("torch",),
        options={"workers": True},
    ),
    Peer(
        "grain",
        "Grain + ArrayRecord, in process",
        "grain_array_record",
        "array_record",
        "grain",
        ("array_record",),
    ),
    Peer(
        "grain_workers",
        "Grain + ArrayRecord, workers",
        "grain_array_record",
        "array_record",
        "grain",
        ("array_record",),
        options={"workers": True},
    ),
    Peer("litdata", "LitData, in process", "litdata_chunks", "litdata", "litdata"),
    Peer(
        "litdata_workers",
        "LitData, workers",
        "litdata_chunks",
        "litdata",
        "litdata",
        options={"workers": True},
    ),
    Peer("mosaic", "MosaicML Streaming, in process", "mosaic_mds", "mds", "mosaicml-streaming"),
    Peer(
        "mosaic_workers",
        "MosaicML Streaming, workers",
        "mosaic_mds",
        "mds",
        "mosaicml-streaming",
        options={"workers": True},
    ),
)
