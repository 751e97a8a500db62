"""Random changes of training images, computed on the device inside of the compiled step.

Every number drawn is a function of (seed, step, position in the global batch): a resumed run
draws what the run that never stopped drew, and the number of replicas or of micro-batches
changes nothing.
"""

import dataclasses
import math

import tensorflow as tf

from cxr_data.core.errors import UsageError

DEFAULT_RANGES = {"rotation": 10.0, "shift": 0.05, "zoom": 0.1, "brightness": 0.1, "contrast": 0.1}
# Past these, an image is another one: turned to lie, half out of sight, or black.
_LARGEST = {"rotation": 180.0, "shift": 0.5, "zoom": 0.9, "brightness": 1.0, "contrast": 1.0}

DRAWS = ("rotation", "shift_x", "shift_y", "zoom", "brightness", "contrast", "flip")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far an image may be changed each way; the amount is uniform within the range.

    Attributes:
      rotation: degrees around the centre.
      shift: share of the width and of the height.
      zoom: of the scale around 1.
      brightness: added to the pixels, which are in [0, 1].
      contrast: of the factor around 1 by which pixels are moved from their image's mean.
      flip: whether half of the images are mirrored left to right.
    """

    rotation: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    flip: bool = False

    def __bool__(self) -> bool:
        return self != Augmentation()

    def __call__(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Changes images.

        Args:
          images: as stored, [B, S, S, C]: floats in [0, 1] or uint8.
          draws: float32 [B, 7] in [-1, 1), the columns of `DRAWS`.

        Returns:
          float32 [B, S, S, C] in [0, 1]. What a moved image leaves uncovered continues its edge.
        """
        images = tf.image.convert_image_dtype(images, tf.float32)
        column = {name: draws[:, number, None, None] for number, name in enumerate(DRAWS)}
        if self.rotation or self.shift or self.zoom or self.flip:
            images = _sample(images, *self._sources(images.shape[1], column))
        if self.brightness or self.contrast:
            mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
            factor = 1 + self.contrast * column["contrast"][..., None]
            offset = self.brightness * column["brightness"][..., None]
            images = tf.clip_by_value((images - mean) * factor + mean + offset, 0.0, 1.0)
        return images

    def _sources(self, size: int, column: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Where each pixel of the result comes from: y and x, float32 [B, S, S]."""
        angle = math.radians(self.rotation) * column["rotation"]
        scale = 1 / (1 + self.zoom * column["zoom"])
        mirror = tf.where(column["flip"] < 0, -1.0, 1.0) if self.flip else 1.0
        centre = (size - 1) / 2
        offset = tf.range(size, dtype=tf.float32) - centre
        dy, dx = offset[None, :, None], offset[None, None, :] * mirror
        cos, sin = tf.cos(angle) * scale, tf.sin(angle) * scale
        shift = self.shift * size
        y = centre + cos * dy - sin * dx + shift * column["shift_y"]
        x = centre + sin * dy + cos * dx + shift * column["shift_x"]
        return y, x


def draw(seed: int, step: tf.Tensor, batch: int) -> tf.Tensor:
    """Draws for the images of a global batch: float32 [batch, 7], uniform in [-1, 1).

    Args:
      seed: of the run.
      step: int64 [], counted from the start of the run.
      batch: global.
    """
    key = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
    return tf.random.stateless_uniform([batch, len(DRAWS)], key, -1.0, 1.0, alg="philox")


def parse_augmentation(text: str, flip: bool = False) -> Augmentation:
    """Parses `none`, `all`, or a list like `rotation,zoom:0.2`.

    A name alone has its range of `DEFAULT_RANGES`.

    Raises:
      UsageError: an unknown name or one that is there twice, or a range that is no number or too large.
    """
    if text == "none":
        return Augmentation(flip=flip)
    if text == "all":
        return Augmentation(**DEFAULT_RANGES, flip=flip)
    ranges = {}
    for part in text.split(","):
        name, _, value = part.partition(":")
        if name not in DEFAULT_RANGES:
            raise UsageError(
                f"--augment={text}: {name!r} is none of {', '.join(DEFAULT_RANGES)}; also none or all"
            )
        if name in ranges:
            raise UsageError(f"--augment={text}: {name} is there twice")
        ranges[name] = _parse_range(text, name, value) if value else DEFAULT_RANGES[name]
    return Augmentation(**ranges, flip=flip)


def _parse_range(text: str, name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise UsageError(f"--augment={text}: {value!r} is no number; write {name}:0.1") from error
    if not 0 < number <= _LARGEST[name]:
        raise UsageError(f"--augment={text}: {name} must be above 0 and at most {_LARGEST[name]:g}")
    return number


def _sample(images: tf.Tensor, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Bilinear samples of images [B, S, S, C] at y and x [B, S, S], clamped to the image.

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
