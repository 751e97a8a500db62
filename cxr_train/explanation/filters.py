"""What a channel looks for: pictures that excite it most (activation maximisation).

Gradient ascent on the pixels (Erhan et al., 2009), with jitter, total variation and blur
against the high-frequency noise that otherwise wins (Olah et al., "Feature visualization",
2017). The picture stays in [0, 1], the model's own input range: whatever rescaling follows
is part of the model. What is maximised is the channel before its activation function: behind
a ReLU, a channel that is silent at the start has no gradient to follow.
"""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

_STEP = 0.04
_JITTER = 4
_TOTAL_VARIATION = 0.3
_BLUR_EVERY = 8


def excite(
    model: keras.Model, layer: str, channels: Sequence[int], *, steps: int, seed: int = 0
) -> np.ndarray:
    """Search one picture for each channel that makes its mean activation large.

    Args:
      model: images float32 [B, S, S, 3] in [0, 1] to anything, computing in float32.
      layer: name of a layer with output [B, h, w, K].
      channels: K' of its channels.
      steps: of the ascent.
      seed: of the noise to start with and of the jitter; the same for every model, so that
        two models are compared from the same start.

    Returns:
      float32 [K', S, S, 3] in [0, 1].
    """
    network = keras.Model(model.inputs[0], _before_activation(model.get_layer(layer)))
    selected = tf.constant(np.asarray(channels, np.int32))
    rng = np.random.default_rng(seed)
    start = rng.normal(0.5, 0.02, [1, *model.inputs[0].shape[1:]])
    start = np.repeat(start, len(channels), axis=0)

    @tf.function
    def climb(images: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
        images = tf.roll(images, shift, axis=(1, 2))
        with tf.GradientTape() as tape:
            tape.watch(images)
            features = network(images, training=False)
            mean = tf.reduce_mean(features, axis=(1, 2))
            score = tf.reduce_sum(tf.gather(mean, selected, axis=1, batch_dims=1))
        gradient = _blur(tape.gradient(score, images))
        ascent = _unit(gradient) + _TOTAL_VARIATION * _unit(_smoothing(images))
        return tf.roll(tf.clip_by_value(images + _STEP * ascent, 0.0, 1.0), -shift, axis=(1, 2))

    images = tf.constant(start, tf.float32)
    with _linear(model.get_layer(layer)):
        climb = climb.get_concrete_function(images, tf.zeros([2], tf.int32))
    for step in range(steps):
        images = climb(images, tf.constant(rng.integers(-_JITTER, _JITTER + 1, 2), tf.int32))
        # Not at the end, where it would take the contrast away.
        if step % _BLUR_EVERY == _BLUR_EVERY - 1 and step < steps - _BLUR_EVERY:
            images = _blur(images)
    return images.numpy()


def _before_activation(layer: keras.layers.Layer) -> keras.KerasTensor:
    """Return what a layer puts out, or what goes into it if it is nothing but an activation function."""
    return layer.input if isinstance(layer, keras.layers.ReLU | keras.layers.Activation) else layer.output


@contextlib.contextmanager
def _linear(layer: keras.layers.Layer) -> Iterator[None]:
    """Take the activation function out of a convolution that has one of its own (VGG16)."""
    activation = getattr(layer, "activation", None)
    if activation is None or isinstance(layer, keras.layers.Activation):
        yield
        return
    layer.activation = keras.activations.linear
    try:
        yield
    finally:
        layer.activation = activation


def liveliest_channels(model: keras.Model, layer: str, images: np.ndarray, count: int) -> list[int]:
    """Return the `count` channels of `layer` with the largest mean activation on `images`.

    A channel that is silent on real images has no gradient to follow either.
    """
    network = keras.Model(model.inputs[0], model.get_layer(layer).output)
    mean = np.asarray(network(images, training=False)).mean(axis=(0, 1, 2))
    return [int(channel) for channel in np.argsort(-mean, kind="stable")[:count]]


def _unit(gradient: tf.Tensor) -> tf.Tensor:
    """Scale each picture's gradient to a root mean square of 1; 0 stays 0."""
    power = tf.reduce_mean(tf.square(gradient), axis=(1, 2, 3), keepdims=True)
    return tf.math.divide_no_nan(gradient, tf.sqrt(power))


def _smoothing(images: tf.Tensor) -> tf.Tensor:
    """Return the direction in which the total variation (squared, hence its Laplacian) falls fastest."""
    padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="SYMMETRIC")
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return around - 4 * images


def _blur(images: tf.Tensor) -> tf.Tensor:
    """Return the Gaussian blur by the binomial kernel 1-2-1, edges mirrored."""
    padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="SYMMETRIC")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
