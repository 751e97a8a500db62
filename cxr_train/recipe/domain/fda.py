"""FDA: training images with the low frequencies of the target's images (Yang and Soatto, 2020).

Of an image's spectrum, the amplitudes in a window around frequency 0 are replaced by those of a target
image; the phases stay. The window has 2 b + 1 frequencies each way, b = floor(beta * size), as in their
numpy code (the PyTorch code has one less). Labels of the target are not looked at: it is unsupervised
adaptation.
"""

import dataclasses

import numpy as np
import tensorflow as tf


def reach_of(beta: float, size: int) -> int:
    """Return b, how many frequencies on each side of 0 are replaced in `size` pixels; -1 for none."""
    return int(beta * size) if beta else -1


def low_amplitudes(images: np.ndarray, reach: int) -> np.ndarray:
    """Return the amplitudes of the low frequencies of images.

    Args:
      images: float32 [N, S, S, C].
      reach: b of `reach_of`, at least 0.

    Returns:
      float32 [N, 2 b + 1, 2 b + 1, C], frequency 0 in the middle.
    """
    spectrum = np.fft.fft2(images, axes=(1, 2))
    places = np.arange(-reach, reach + 1)
    low: np.ndarray = np.abs(spectrum[:, places[:, None], places[None, :]]).astype(np.float32)
    return low


def with_low_amplitudes(images: tf.Tensor, low: tf.Tensor) -> tf.Tensor:
    """Return images that have the low amplitudes of others.

    Args:
      images: float32 [B, S, S, C].
      low: float32 [B, 2 b + 1, 2 b + 1, C], see `low_amplitudes`.

    Returns:
      float32 [B, S, S, C]; it may go a little beyond [0, 1].
    """
    size, reach = images.shape[1], low.shape[1] // 2
    # Channels first, as the transform is over the last two dimensions.
    spectrum = tf.signal.fft2d(tf.cast(tf.transpose(images, [0, 3, 1, 2]), tf.complex64))
    rest = size - low.shape[1]
    wanted = tf.pad(tf.transpose(low, [0, 3, 1, 2]), [[0, 0], [0, 0], [0, rest], [0, rest]])
    wanted = tf.roll(wanted, [-reach, -reach], axis=[2, 3])
    inside = np.roll(np.pad(np.ones(low.shape[1:3], bool), [[0, rest], [0, rest]]), (-reach, -reach), (0, 1))
    amplitude = tf.abs(spectrum)
    factor = tf.where(inside, tf.math.divide_no_nan(wanted, amplitude), 1.0)
    changed = tf.signal.ifft2d(spectrum * tf.cast(factor, tf.complex64))
    return tf.transpose(tf.math.real(changed), [0, 2, 3, 1])


@dataclasses.dataclass(frozen=True, eq=False)
class FourierAdaptation:
    """What training images take from the target.

    Attributes:
      low: float32 [N, 2 b + 1, 2 b + 1, C], see `low_amplitudes`, of images of the target.
    """

    low: np.ndarray

    def draw(self, seed: int, step: tf.Tensor, batch: int) -> tf.Tensor:
        """Draw an image of the target for each of a global batch: float32 [batch, 1] in [0, 1)."""
        # A GPU's generator reads its key on the host. The augmentation's keys are those from 0 on.
        with tf.device("/cpu:0"):
            key = tf.stack([tf.constant(-1 - seed, tf.int64), tf.cast(step, tf.int64)])
        return tf.random.stateless_uniform([batch, 1], key, alg="philox")

    def change(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Change images.

        Args:
          images: as stored, [B, S, S, C]: floats in [0, 1] or uint8.
          draws: float32 [B] in [0, 1).

        Returns:
          float32 [B, S, S, C].
        """
        chosen = tf.minimum(tf.cast(draws * len(self.low), tf.int32), len(self.low) - 1)
        images = tf.image.convert_image_dtype(images, tf.float32)
        return with_low_amplitudes(images, tf.gather(tf.constant(self.low), chosen))
