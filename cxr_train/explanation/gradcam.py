"""Grad-CAM: where in an image the evidence for one class lies (Selvaraju et al., 2017).

The gradient is that of one class's logit. Through the softmax it would be wrong twice: a
confident prediction saturates, and evidence against the other classes counts as evidence
for this one. (The study took the gradient of the sum of the softmax, which is the constant
1: its gradient is 0, and the maps were noise.)
"""

from collections.abc import Sequence

import cv2
import keras
import numpy as np
import tensorflow as tf

Maps = list[np.ndarray]


class GradCam:
    """Maps of one network at several of its layers, in one forward and one backward pass.

    For a layer with output A [h, w, K] and the logit y of a class, the map is
    relu(sum_k a_k A_k), with a_k the mean of dy/dA_k over h and w.

    Args:
      model: images float32 [B, S, S, 3] in [0, 1] to logits [B, C], computing in float32: in
        float16 the gradients of the deep layers underflow to 0 (see `model.in_float32`).
      layers: names of layers with outputs [B, h, w, K].
    """

    def __init__(self, model: keras.Model, layers: Sequence[str]) -> None:
        self.layers = tuple(layers)
        outputs = [model.get_layer(name).output for name in layers]
        self._network = keras.Model(model.inputs[0], [*outputs, model.output])
        image = tf.TensorSpec([None, *model.inputs[0].shape[1:]], tf.float32)
        self._run = tf.function(self._maps, input_signature=[image, tf.TensorSpec([None], tf.int32)])

    def __call__(self, images: np.ndarray, classes: np.ndarray) -> tuple[Maps, np.ndarray]:
        """Map the evidence for one class in each image.

        Args:
          images: float32 [B, S, S, 3] in [0, 1].
          classes: integers [B], the class whose logit is explained.

        Returns:
          A map float32 [B, h, w] for each layer, 0 or more, in units of the logit times no
          fixed scale (compare within a map, not between maps); and the logits float32 [B, C].
        """
        maps, logits = self._run(tf.constant(images), tf.constant(classes, tf.int32))
        return [part.numpy() for part in maps], logits.numpy()

    def _maps(self, images: tf.Tensor, classes: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(images)
            *features, logits = self._network(images, training=False)
            # The images of a batch do not see each other: the gradient of the sum is each one's own.
            score = tf.reduce_sum(tf.gather(logits, classes, axis=1, batch_dims=1))
        gradients = tape.gradient(score, features)
        maps = []
        for feature, gradient in zip(features, gradients, strict=True):
            weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)  # [B, 1, 1, K]
            maps.append(tf.nn.relu(tf.reduce_sum(weights * feature, axis=-1)))
        return maps, logits


def enlarge(heat: np.ndarray, size: int) -> np.ndarray:
    """Scale a map [h, w] to [size, size], bilinear, and its maximum to 1; a flat 0 stays 0."""
    large = cv2.resize(heat.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    highest = float(large.max())
    return large / highest if highest > 0 else large


def hottest(heat: np.ndarray, share: float) -> np.ndarray:
    """Mark the hottest `share` of the pixels of a map [S, S]: bool [S, S], always the same number."""
    count = round(share * heat.size)
    mask = np.zeros(heat.size, bool)
    mask[np.argsort(-heat, axis=None, kind="stable")[:count]] = True
    return mask.reshape(heat.shape)
