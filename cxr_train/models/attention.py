"""Attention at the ends of a network's stages: gates on its channels (SE, ECA) and its pixels too (CBAM).

A gate is 2 * sigmoid(z), and the last layer of z is zero at the start. Then the gate is exactly 1, and the
network with gates puts out what the network without them does, bit for bit: pretrained weights stay what
they were. (With the sigmoid alone every gate would begin at one half.) The published formulas hold otherwise:

    se    z = W2 relu(W1 mean(x)), no biases; width C / 16, at least 8   Hu et al., CVPR 2018
    eca   z = convolution of mean(x) along the channels, no bias   Wang et al., CVPR 2020
    cbam  se of mean and of maximum, with biases; then over the pixels
          z = BatchNorm(conv 7x7 [max, mean over the channels])    Woo et al., ECCV 2018
"""

import contextlib
import random
from collections.abc import Callable, Iterator

import keras

from cxr_data.core.errors import UsageError
from cxr_data.core.tensorflow_private import is_abstract
from cxr_train.models.added import GATE, SPATIAL_KERNEL, Attention, eca_kernel, excite_width
from cxr_train.models.stages import stage_ends

Gate = Callable[[keras.KerasTensor, str], keras.KerasTensor]


def add_attention(network: keras.Model, attention: Attention) -> keras.Model:
    """Return the network with gates at the ends of its stages; its values are copied.

    Args:
      network: from images [B, S, S, 3] to features [B, h, w, C], no layer called twice.
      attention: which gates, and where.

    Raises:
      UsageError: a stage is not there.
    """
    if attention.kind == "none":
        return network
    gate, ends = GATES[attention.kind], stage_ends(network)
    if attention.stages and attention.stages[-1] > len(ends):
        raise UsageError(
            f"--attention={attention.kind}:{'+'.join(map(str, attention.stages))}: must name stages from 1 "
            f"to {len(ends)} at this image size; they end at {', '.join(ends)}"
        )
    stages = attention.stages or range(1, len(ends) + 1)
    prefixes = {ends[stage - 1]: f"{GATE}_{stage}" for stage in stages}

    def call(layer: keras.Layer, *inputs: keras.KerasTensor, **options: object) -> keras.KerasTensor:
        output = layer(*inputs, **options)
        return gate(output, prefixes[layer.name]) if layer.name in prefixes else output

    with own_draws():
        gated = keras.models.clone_model(network, call_function=call)
    if not is_abstract():
        for layer in network.layers:
            for old, new in zip(layer.variables, gated.get_layer(layer.name).variables, strict=True):
                new.assign(old)
    return gated


def se_gate(x: keras.KerasTensor, prefix: str) -> keras.KerasTensor:
    """Return [B, h, w, C] with each channel times its gate: squeeze and excitation."""
    mean = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{prefix}_mean")(x)
    return _times_gate(x, _excite(mean, prefix, use_bias=False), prefix)


def eca_gate(x: keras.KerasTensor, prefix: str, kernel: int | None = None) -> keras.KerasTensor:
    """Return [B, h, w, C] with each channel times its gate, which its neighbours among the channels decide.

    Args:
      kernel: channels that decide; None for those of `eca_kernel`.
    """
    channels = x.shape[-1]
    z = keras.layers.GlobalAveragePooling2D(name=f"{prefix}_mean")(x)
    z = keras.layers.Reshape((channels, 1), name=f"{prefix}_row")(z)
    z = keras.layers.Conv1D(
        1,
        kernel or eca_kernel(channels),
        padding="same",
        use_bias=False,
        kernel_initializer="zeros",
        name=f"{prefix}_neighbours",
    )(z)
    return _times_gate(x, keras.layers.Reshape((1, 1, channels), name=f"{prefix}_column")(z), prefix)


def cbam_gate(x: keras.KerasTensor, prefix: str) -> keras.KerasTensor:
    """Return [B, h, w, C] with each channel times its gate, and then each pixel times its own."""
    height, width, channels = x.shape[1:]
    mean = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{prefix}_mean")(x)
    most = keras.layers.GlobalMaxPooling2D(keepdims=True, name=f"{prefix}_max")(x)
    # One network for both, and the sum of what it says: twice the mean.
    both = keras.layers.Concatenate(axis=1, name=f"{prefix}_both")([mean, most])
    said = _excite(both, prefix, use_bias=True)
    said = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{prefix}_half")(said)
    x = _times_gate(x, keras.layers.Rescaling(2.0, name=f"{prefix}_sum")(said), prefix)

    prefix = f"{prefix}_spatial"
    row = keras.layers.Reshape((height * width, channels), name=f"{prefix}_row")(x)
    # "channels_first" is what makes these layers pool the last axis.
    options = {"data_format": "channels_first", "keepdims": True}
    most = keras.layers.GlobalMaxPooling1D(name=f"{prefix}_max", **options)(row)
    mean = keras.layers.GlobalAveragePooling1D(name=f"{prefix}_mean", **options)(row)
    z = keras.layers.Concatenate(name=f"{prefix}_both")([most, mean])
    z = keras.layers.Reshape((height, width, 2), name=f"{prefix}_maps")(z)
    z = keras.layers.Conv2D(1, SPATIAL_KERNEL, padding="same", use_bias=False, name=f"{prefix}_neighbours")(z)
    # A gamma and a beta of zero: the gate is 1 whatever the convolution says.
    z = keras.layers.BatchNormalization(
        gamma_initializer="zeros", beta_initializer="zeros", name=f"{prefix}_bn"
    )(z)
    return _times_gate(x, z, prefix)


GATES: dict[str, Gate] = {"se": se_gate, "eca": eca_gate, "cbam": cbam_gate}


def _excite(x: keras.KerasTensor, prefix: str, *, use_bias: bool) -> keras.KerasTensor:
    channels = x.shape[-1]
    reduce = keras.layers.Dense(
        excite_width(channels), activation="relu", use_bias=use_bias, name=f"{prefix}_reduce"
    )
    excite = keras.layers.Dense(
        channels, use_bias=use_bias, kernel_initializer="zeros", name=f"{prefix}_excite"
    )
    return excite(reduce(x))


def _times_gate(x: keras.KerasTensor, z: keras.KerasTensor, prefix: str) -> keras.KerasTensor:
    """Return x * 2 sigmoid(z)."""
    half = keras.layers.Activation("sigmoid", name=f"{prefix}_sigmoid")(z)
    gate = keras.layers.Rescaling(2.0, name=f"{prefix}_gate")(half)
    return keras.layers.Multiply(name=f"{prefix}_gated")([x, gate])


@contextlib.contextmanager
def own_draws() -> Iterator[None]:
    """Let the layers that are made here draw seeds of their own: those made later get what they would have.

    Keras draws the seeds of initializers and dropout from Python's generator. So the head of a network
    begins with the same weights, whatever is added before it.
    """
    state = random.getstate()
    random.seed(random.random())
    try:
        yield
    finally:
        random.setstate(state)
