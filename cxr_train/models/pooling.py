"""From the last map of a backbone to features: the mean, a generalized mean, or means that attention weighs.

The output is that of the layer `head.POOLING`, float32 or of 16 bits [B, F]. F is the number of channels C,
but for attention over findings: each finding looks at a place of its own, so that there is a map for each,
and the features of K findings stand one behind the other, F = K * C. The head reads those of one finding at
a time, with the same weights for each (`by_finding`), and gives the logit of that finding.
"""

import keras

from cxr_train.models.added import POOLING_WIDTH
from cxr_train.models.head import POOLING

_START = 3.0  # of Radenovic et al.
_SMALLEST = 1e-6  # of theirs too


def pool(features: keras.KerasTensor, kind: str, maps: int = 1) -> keras.KerasTensor:
    """Return the features [B, F] of a map [B, h, w, C].

    Args:
      kind: one of `added.POOLINGS`. With `gem` and `attention` they are float32 under every policy.
      maps: how many `attention` has, 1 or the number of findings; without effect on the others.
    """
    if kind == "gap":
        return keras.layers.GlobalAveragePooling2D(name=POOLING)(features)
    if kind == "gem":
        return GeneralizedMean(name=POOLING, dtype="float32")(features)
    return _by_attention(features, maps)


def _by_attention(features: keras.KerasTensor, maps: int) -> keras.KerasTensor:
    """Return sum(a x) over the pixels, with a = softmax(w tanh(V x)) over the pixels, for each w.

    Ilse et al., "Attention-based Deep Multiple Instance Learning", ICML 2018. w begins with zeros: all
    pixels count the same, and what comes out is their mean.
    """
    height, width, channels = features.shape[1:]
    options = {"use_bias": False, "dtype": "float32"}
    x = keras.layers.Reshape((height * width, channels), name=f"{POOLING}_pixels", dtype="float32")(features)
    hidden = keras.layers.Dense(POOLING_WIDTH, activation="tanh", name=f"{POOLING}_hidden", **options)(x)
    scores = keras.layers.Dense(maps, kernel_initializer="zeros", name=f"{POOLING}_scores", **options)(hidden)
    weights = keras.layers.Softmax(axis=1, name=f"{POOLING}_maps", dtype="float32")(scores)
    sums = keras.layers.Dot(axes=1, name=f"{POOLING}_sums", dtype="float32")([weights, x])
    return keras.layers.Reshape((maps * channels,), name=POOLING, dtype="float32")(sums)


def by_finding(features: keras.KerasTensor, maps: int) -> keras.KerasTensor:
    """Return the features of `maps` findings [B, maps * C], one behind the other, as [B, maps, C]."""
    return keras.layers.Reshape((maps, features.shape[-1] // maps), name="by_finding")(features)


def logits_by_finding(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Return float32 [B, K]: the logit of each finding from its own row of [B, K, H], by its own weights."""
    return keras.layers.EinsumDense(
        "bkh,hk->bk", output_shape=(x.shape[1],), bias_axes="k", dtype="float32", name=name
    )(x)


@keras.saving.register_keras_serializable("cxr")
class GeneralizedMean(keras.layers.Layer):
    """M(x) - M(-x) of each channel, M(x) = (mean of max(x, 1e-6)^p over the pixels)^(1/p): GeM of both signs.

    Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019, published M(x)
    for maps that end with a relu. EfficientNet and ConvNeXt end otherwise, and M(x) alone would lose what is
    negative. So the negative part is pooled in the same way and taken off. Without negative values the result
    is the published one (less 1e-6, which is M of nothing), and p = 1 is the mean. p >= 1 is one weight,
    learned from 3 on. Larger p weigh larger values more.

    Why not one mean of x |x|^(p - 1) and its root: where the signs cancel, the root's slope has no bound.
    Here it has. Let m = M(x) over n pixels. A value y above 1e-6 has the slope (y / m)^(p - 1) / n. It is one
    of the n whose mean power is m^p, so that y <= n^(1/p) m, and the slope is at most n^(-1/p), and so 1.
    A value belongs to one of the two parts. One of at most 1e-6 either way has the slope 0.

    Input [B, h, w, C], output [B, C].
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the one weight: p is 1 + |excess|, and so at least 1."""
        start = keras.initializers.Constant(_START - 1)
        self.excess = self.add_weight(name="excess", shape=(), initializer=start)
        super().build(input_shape)

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Return the mean of what is positive, less that of what is negative."""
        p = 1 + keras.ops.abs(self.excess)
        return _published(x, p) - _published(-x, p)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return [B, C]."""
        return input_shape[0], input_shape[-1]


def _published(x: keras.KerasTensor, p: keras.KerasTensor) -> keras.KerasTensor:
    """Return GeM as published, [B, C] of [B, h, w, C].

    The powers are of x over its maximum, on which the result does not depend: those of x itself would leave
    the range of float32, as 1e-6 to the 8th does.
    """
    x = keras.ops.maximum(x, _SMALLEST)
    largest = keras.ops.stop_gradient(keras.ops.max(x, axis=(1, 2), keepdims=True))
    mean = keras.ops.mean((x / largest) ** p, axis=(1, 2))
    return largest[:, 0, 0] * mean ** (1 / p)
