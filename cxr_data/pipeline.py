"""The read side: shards -> seeded order -> parse -> batch -> prefetch.

A batch is a dictionary:

    image   float32 [B, S, S, 3] in [0, 1]
    label   int32   [B]
    weight  float32 [B], 1 for an example, 0 for padding
    index   int64   [B], the record's number within its split (its place among the
            rows of the split in `index.npy`), -1 for padding

Training drops the odd last batch, since another shape would be another compilation;
evaluation pads it and gives the padding weight 0, so that every image counts once.
"""

import contextlib
import os
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from cxr_data.errors import DataError, UsageError
from cxr_data.manifest import Manifest, Shard, read_index
from cxr_data.record import Fields, read_fields

_SHARDS_READ_AT_ONCE = 4
_READ_BUFFER_BYTES = 8 << 20
_PREFETCHED_BATCHES = 2


def steps_per_epoch(manifest: Manifest, split: str, batch_size: int) -> int:
    """Returns the number of full batches in `split`.

    Raises:
      UsageError: not even one.
    """
    count = manifest.count(split)
    if count < batch_size:
        raise UsageError(
            f"--batch_size={batch_size}: split {split!r} has only {count} images; choose at most {count}"
        )
    return count // batch_size


def training_dataset(
    manifest: Manifest,
    split: str,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    first_step: int = 0,
    shuffle_records: int = 512,
) -> tf.data.Dataset:
    """One epoch of full batches in an order that depends on `seed` and `epoch` only.

    The order of the shards is permuted, a few are read at once, and their records go
    through a shuffle buffer in the stored form, not as decoded images.

    Args:
      manifest: of the data directory.
      split: such as `train`.
      batch_size: the global batch.
      seed: the same seed gives the same order of examples.
      epoch: from 0; each has its own order.
      first_step: how many batches of this epoch to skip, to go on after a stop.
      shuffle_records: size of the shuffle buffer, in records.

    Returns:
      `steps_per_epoch - first_step` batches.
    """
    numbered = _numbered_shards(manifest, split)
    generator = np.random.default_rng([seed, epoch])
    generator.shuffle(numbered)
    dataset = _read(numbered, shards_at_once=_SHARDS_READ_AT_ONCE)
    shuffle_seed = int(generator.integers(1 << 31))
    dataset = dataset.shuffle(shuffle_records, seed=shuffle_seed, reshuffle_each_iteration=False)
    dataset = dataset.skip(first_step * batch_size)
    dataset = dataset.map(_parser(manifest), num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(batch_size, drop_remainder=True)
    return _finish(dataset, steps_per_epoch(manifest, split, batch_size) - first_step)


def evaluation_dataset(manifest: Manifest, split: str, *, batch_size: int) -> tf.data.Dataset:
    """Every record of `split` once, in manifest order; the last batch is padded to `batch_size`."""
    dataset = _read(_numbered_shards(manifest, split), shards_at_once=1)
    dataset = dataset.map(_parser(manifest), num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(batch_size)
    dataset = dataset.map(lambda batch: pad_batch(batch, batch_size))
    return _finish(dataset, -(-manifest.count(split) // batch_size))


def pad_batch(batch: dict[str, tf.Tensor], batch_size: int) -> dict[str, tf.Tensor]:
    """Pads a batch to `batch_size` with black images of weight 0, label 0 and index -1."""
    missing = batch_size - tf.shape(batch["label"])[0]
    padded = {}
    for key, tensor in batch.items():
        padding = [[0, missing]] + [[0, 0]] * (tensor.shape.rank - 1)
        fill = tf.constant(-1 if key == "index" else 0, tensor.dtype)
        padded[key] = tf.ensure_shape(
            tf.pad(tensor, padding, constant_values=fill), [batch_size, *tensor.shape[1:]]
        )
    return padded


def read_split_fields(manifest: Manifest, split: str) -> list[Fields]:
    """Reads id, label, group and SHA-256 of every record of `split`, without the pixels.

    Returns:
      One entry for each record, so that a batch's `index` is a position in the list.
    """
    shards = manifest.shards_of(split)
    index = read_index(manifest)
    fields = []
    for shard in shards:
        file = os.open(manifest.path(shard), os.O_RDONLY)
        try:
            rows = index[index["shard"] == manifest.shards.index(shard)]
            fields += [read_fields(file, row) for row in rows]
        finally:
            os.close(file)
    return fields


@contextlib.contextmanager
def clear_data_errors(manifest: Manifest) -> Iterator[None]:
    """Turns TensorFlow's errors about damaged records into one line that says what to do.

    Raises:
      DataError: in place of `tf.errors.DataLossError` and of a record that does not parse.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        if not _is_about_records(error):
            raise
        raise DataError(
            f"a record in {manifest.directory} is damaged or missing ({error.message.splitlines()[0][:160]}); "
            f"`python -m tools.verify_tfrecords --data={manifest.directory}` names it"
        ) from error


def _is_about_records(error: tf.errors.OpError) -> bool:
    return not isinstance(error, tf.errors.InvalidArgumentError) or "ParseSingleExample" in error.message


def _numbered_shards(manifest: Manifest, split: str) -> list[tuple[str, int]]:
    """Returns (path, number of its first record within the split) for each shard of `split`."""
    numbered = []
    first = 0
    for shard in manifest.shards_of(split):
        numbered.append((_path(manifest, shard), first))
        first += shard.records
    return numbered


def _path(manifest: Manifest, shard: Shard) -> str:
    return str(manifest.path(shard))


def _read(numbered: list[tuple[str, int]], shards_at_once: int) -> tf.data.Dataset:
    """Yields (index int64 [], serialized Example string []) over the shards, in a fixed order."""
    paths, firsts = zip(*numbered, strict=True)
    shards = tf.data.Dataset.from_tensor_slices((list(paths), np.array(firsts, np.int64)))

    def records(path: tf.Tensor, first: tf.Tensor) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER_BYTES).enumerate(start=first)

    return shards.interleave(
        records, cycle_length=shards_at_once, num_parallel_calls=shards_at_once, deterministic=True
    )


def _parser(manifest: Manifest) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    """Returns the function that turns (index, serialized Example) into one example."""
    stored_shape = [manifest.size, manifest.size, manifest.channels]
    as_floats = manifest.dtype == "float32"
    features = {
        "image": tf.io.FixedLenFeature(stored_shape, tf.float32)
        if as_floats
        else tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(index: tf.Tensor, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        example = tf.io.parse_single_example(serialized, features)
        image = example["image"]
        if not as_floats:
            image = tf.reshape(tf.io.decode_raw(image, tf.dtypes.as_dtype(manifest.dtype)), stored_shape)
        return {
            "image": expand_image(image),
            "label": tf.cast(example["label"], tf.int32),
            "weight": tf.ones([]),
            "index": index,
        }

    return parse


def expand_image(image: tf.Tensor) -> tf.Tensor:
    """Turns stored pixels [..., 1 or 3] into float32 [..., 3] in [0, 1].

    float16 and float32 pixels are stored in [0, 1], uint8 pixels in [0, 255].
    """
    scale = 1 / 255 if image.dtype == tf.uint8 else 1.0
    image = tf.cast(image, tf.float32) * scale
    return image if image.shape[-1] == 3 else tf.repeat(image, 3, axis=-1)


def _finish(dataset: tf.data.Dataset, batches: int) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # One host reads everything itself: TensorFlow must not deal the shards out once more.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    dataset = dataset.prefetch(_PREFETCHED_BATCHES).with_options(options)
    return dataset.apply(tf.data.experimental.assert_cardinality(batches))
