"""A converted dataset, for programs: what it holds, and its images as batches or by position.

import cxr_data

dataset = cxr_data.read_dataset("tfrecords")
dataset.class_names                       # ("covid", "normal", "pneumonia")
dataset.counts["train"]["covid"]          # 80
for batch in dataset.batches("train", 32, seed=0, epoch=0):
    batch["image"], batch["label"]        # float32 [32, 360, 360, 3] in [0, 1], int32 [32]

Where each picture has several findings, `label` is int32 [32, C]: for each finding 1 where it is present, 0
absent, -1 uncertain, -2 unknown.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from cxr_data.core.runtime import keep_large_allocations
from cxr_data.input.batch import expand_image
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.index import read_split_fields
from cxr_data.records.manifest import Manifest, read_manifest


class Dataset:
    """The records of one data directory; `read_dataset` opens it.

    Attributes:
      manifest: what `manifest.json` of the directory holds.
    """

    def __init__(self, manifest: Manifest, options: ReadOptions) -> None:
        self.manifest = manifest
        self._pipeline = Pipeline(manifest, options)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels 0, 1, 2, ...; or of the findings."""
        return self.manifest.class_names

    @property
    def source_names(self) -> tuple[str, ...]:
        """Hospitals or data sets that the images come from, in the order of `source` 0, 1, 2, ..."""
        return self.manifest.sources

    @property
    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Images by split and class: {split: {class name: images}}."""
        return self.manifest.counts

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image that `batches` and `images` give."""
        return self.manifest.size, self.manifest.size, self.manifest.features or 3

    def batches(
        self,
        split: str,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        first_step: int = 0,
        epochs: int = 1,
    ) -> tf.data.Dataset:
        """Return the full batches of one or several epochs, in an order that the arguments alone decide.

        Args:
          split: such as `train`, or several joined by `+`.
          batch_size: examples in a batch; an epoch leaves out what does not fill one.
          seed: the same seed gives the same order of examples.
          epoch: the first epoch, from 0; each has its own order.
          first_step: number of its batches to skip, to continue after a stop.
          epochs: number of epochs, one after the other.

        Returns:
          Dictionaries: `image` float32 [B, S, S, 3] in [0, 1], `label` int32 [B] or [B, C], `source` int32
          [B], `weight` float32 [B], 1, and `index` int64 [B], the record's position in its split.

        Raises:
          UsageError: the split has not one full batch.
          DataError: the split is not there; while iterating, a record cannot be read.
        """
        return _expanded(
            self._pipeline.training_dataset(
                split, batch_size=batch_size, seed=seed, epoch=epoch, first_step=first_step, epochs=epochs
            )
        )

    def all_batches(self, split: str, batch_size: int) -> tf.data.Dataset:
        """Return every image of `split` once, in the order of the records, for an evaluation.

        Black images of `weight` 0 and `index` -1 fill the last batch. For the keys see `batches`.
        """
        return _expanded(self._pipeline.evaluation_dataset(split, batch_size=batch_size))

    def images(self, split: str, positions: np.ndarray) -> np.ndarray:
        """Read images by their positions, int64 [N], each at most once: float32 [N, S, S, 3] in [0, 1].

        Raises:
          DataError: one cannot be read.
        """
        return self._pipeline.images(split, np.asarray(positions, np.int64))

    def labels(self, split: str) -> np.ndarray:
        """Return the labels of all images of `split`, int32 [N] or [N, C], by position."""
        return self._pipeline.reader(split).labels

    def sources(self, split: str) -> np.ndarray:
        """Return where all images of `split` come from, int32 [N], positions in `source_names`."""
        return self._pipeline.reader(split).sources

    def ids_and_groups(self, split: str) -> tuple[list[str], list[str]]:
        """Return what each image was made from, and its patient, by position, as in `predictions.csv`."""
        fields = read_split_fields(self.manifest, split)
        return [field.id for field in fields], [field.group for field in fields]


def read_dataset(path: str, options: ReadOptions | None = None) -> Dataset:
    """Open a data directory that `make_tfrecords` made, or `index_tfrecords` took over.

    Args:
      path: local, or s3:// or gs:// where tensorflow-io is installed.
      options: how the shards are read and cached.

    Raises:
      DataError: there is no dataset, it is damaged, or its store cannot be reached.
    """
    keep_large_allocations()
    return Dataset(read_manifest(path), options or ReadOptions())


def _expanded(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Turn stored pixels into float32 [..., 3]; where they are that already, nothing is added."""
    element = batches.element_spec["image"]
    if element.dtype == tf.float32 and element.shape[-1] != 1:
        return batches
    expand = lambda batch: {**batch, "image": expand_image(batch["image"])}  # noqa: E731
    return batches.map(expand, num_parallel_calls=1, deterministic=True).prefetch(1)
