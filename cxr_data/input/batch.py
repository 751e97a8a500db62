"""What a batch is: a dictionary of five tensors with a row for each example.

    image   [B, S, S, C] as stored: float32 or float16 in [0, 1], or uint8 in [0, 255].
            `expand_image` makes float32 [B, S, S, 3] of it, on the device. Of embeddings [B, 1, 1, F],
            any floats.
    label   int32   [B], the class; or [B, C], for each finding one of `finding_values.FINDING_VALUES`
    source  int32   [B], the position of the record's hospital or data set in `Manifest.sources`
    weight  float32 [B], 1 for an example, 0 for padding
    index   int64   [B], the record's position in its split, -1 for padding

Training drops the odd last batch, since another shape would be another compilation; evaluation pads
it and gives the padding weight 0, so that every image counts once. Padding has the label 0 (of findings,
unknown), and source and index -1.
"""

import tensorflow as tf

from cxr_data.input.order import PADDING
from cxr_data.sources.finding_values import UNKNOWN


def padding_label(rank: int) -> int:
    """Return the label of a row that is no example, of labels int32 [B] or [B, C], whose rank is given."""
    return 0 if rank == 1 else UNKNOWN


def as_batch(index: tf.Tensor, image: tf.Tensor, label: tf.Tensor, source: tf.Tensor) -> dict[str, tf.Tensor]:
    """Name the columns of a batch and give each row its weight.

    Args:
      index: int64 [B], `PADDING` for a row that is no example.
      image: [B, S, S, C], as stored.
      label: int32 [B] or [B, C].
      source: int32 [B].
    """
    weight = tf.cast(index != PADDING, tf.float32)
    return {"image": image, "label": label, "source": source, "weight": weight, "index": index}


def pad_batch(batch: dict[str, tf.Tensor], batch_size: int) -> dict[str, tf.Tensor]:
    """Pad a batch to `batch_size` rows with black images of weight 0."""
    missing = batch_size - tf.shape(batch["label"])[0]
    padded = {}
    for key, tensor in batch.items():
        padding = [[0, missing]] + [[0, 0]] * (tensor.shape.rank - 1)
        fill = tf.constant(_padding(key, tensor.shape.rank), tensor.dtype)
        padded[key] = tf.ensure_shape(
            tf.pad(tensor, padding, constant_values=fill), [batch_size, *tensor.shape[1:]]
        )
    return padded


def _padding(key: str, rank: int) -> int:
    return padding_label(rank) if key == "label" else {"index": PADDING, "source": PADDING}.get(key, 0)


def padding_only(
    image_shape: tuple[int, ...], dtype: str, batch_size: int, findings: int
) -> dict[str, tf.Tensor]:
    """Return a batch without examples.

    Args:
      image_shape: [S, S, C] of one image.
      dtype: of the stored pixels.
      batch_size: rows.
      findings: number of labels of an example; 0 where it has one class.
    """
    shape = [batch_size, findings] if findings else [batch_size]
    label = tf.fill(shape, tf.constant(padding_label(len(shape)), tf.int32))
    nowhere = tf.fill([batch_size], tf.constant(PADDING, tf.int32))
    index = tf.fill([batch_size], tf.constant(PADDING, tf.int64))
    return as_batch(index, tf.zeros([batch_size, *image_shape], dtype), label, nowhere)


def expand_image(image: tf.Tensor) -> tf.Tensor:
    """Turn stored pixels [..., 1 or 3] into float32 [..., 3] in [0, 1], and an embedding into float32.

    float16 and float32 pixels are stored in [0, 1], uint8 pixels in [0, 255]. It runs inside
    the compiled step: what travels to the device is the stored form.
    """
    scale = 1 / 255 if image.dtype == tf.uint8 else 1.0
    image = tf.cast(image, tf.float32) * scale
    return tf.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
