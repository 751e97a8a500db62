"""Random changes of training images, computed on the device inside of the compiled step.

Every number drawn is a function of (seed, step, position in the global batch): a resumed run
draws what the run that never stopped drew, and the number of replicas or of micro-batches
changes nothing.
"""

import math

import tensorflow as tf

from cxr_train.recipe.augmentation import Augmentation

DRAWS = ("rotation", "shift_x", "shift_y", "zoom", "brightness", "contrast", "flip")


def change_images(augmentation: Augmentation, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Change images at random, as far as an augmentation allows.

    Args:
      augmentation: how far.
      images: as stored, [B, S, S, C]: floats in [0, 1] or uint8.
      draws: float32 [B, 7] in [-1, 1), the columns of `DRAWS`.

    Returns:
      float32 [B, S, S, C] in [0, 1]. What a moved image leaves uncovered continues its edge.
    """
    images = tf.image.convert_image_dtype(images, tf.float32)
    column = {name: draws[:, number, None, None] for number, name in enumerate(DRAWS)}
    if augmentation.rotation or augmentation.shift or augmentation.zoom or augmentation.flip:
        images = _sample(images, *_sources(augmentation, images.shape[1], column))
    if augmentation.brightness or augmentation.contrast:
        mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
        factor = 1 + augmentation.contrast * column["contrast"][..., None]
        offset = augmentation.brightness * column["brightness"][..., None]
        images = tf.clip_by_value((images - mean) * factor + mean + offset, 0.0, 1.0)
    return images


def _sources(
    augmentation: Augmentation, size: int, column: dict[str, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return where each pixel of the result comes from: y and x, float32 [B, S, S]."""
    angle = math.radians(augmentation.rotation) * column["rotation"]
    scale = 1 / (1 + augmentation.zoom * column["zoom"])
    mirror = tf.where(column["flip"] < 0, -1.0, 1.0) if augmentation.flip else 1.0
    centre = (size - 1) / 2
    offset = tf.range(size, dtype=tf.float32) - centre
    dy, dx = offset[None, :, None], offset[None, None, :] * mirror
    cos, sin = tf.cos(angle) * scale, tf.sin(angle) * scale
    shift = augmentation.shift * size
    y = centre + cos * dy - sin * dx + shift * column["shift_y"]
    x = centre + sin * dy + cos * dx + shift * column["shift_x"]
    return y, x


def draw(seed: int, step: tf.Tensor, batch: int) -> tf.Tensor:
    """Draw for the images of a global batch: float32 [batch, 7], uniform in [-1, 1).

    Args:
      seed: of the run.
      step: int64 [], counted from the start of the run.
      batch: global.
    """
    # A GPU's generator reads its key on the host.
    with tf.device("/cpu:0"):
        key = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
    return tf.random.stateless_uniform([batch, len(DRAWS)], key, -1.0, 1.0, alg="philox")


def _sample(images: tf.Tensor, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Return the bilinear samples of images [B, S, S, C] at y and x [B, S, S], clamped to the image.

    XLA cannot compile TensorFlow's own projective transform; it compiles gathers.
    """
    size = images.shape[1]
    pixels = tf.reshape(images, [-1, size * size, images.shape[3]])
    y, x = (tf.clip_by_value(source, 0.0, size - 1.0) for source in (y, x))
    # The last sample lies on the far side of the last cell, not in one that starts outside.
    top, left = (tf.minimum(tf.floor(source), size - 2.0) for source in (y, x))
    down, right = (y - top)[..., None], (x - left)[..., None]
    corner = tf.cast(top, tf.int32) * size + tf.cast(left, tf.int32)

    def row(start: tf.Tensor) -> tf.Tensor:
        near, far = (tf.gather(pixels, start + step, batch_dims=1) for step in (0, 1))
        return near + (far - near) * right

    upper = row(corner)
    return upper + (row(corner + size) - upper) * down
