"""ConvNeXt without its top (Liu et al., CVPR 2022), of plain layers that have the names of Keras' own.

Keras' network has two things that do not suit a model of one level: layers nested in models of their own,
which `get_layer` does not find, and convolutions with a group for each channel, which TensorFlow computes on
a CPU with XLA only. Here the same layers stand side by side, and the convolutions are depthwise: the same
products. Weights files are those of Keras' network; `pretrained` copies them.
"""

from collections.abc import Sequence

import keras

_WIDTHS = (96, 192, 384, 768)
_EPSILON = 1e-6
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build_convnext(name: str, depths: Sequence[int], input_tensor: keras.KerasTensor) -> keras.Model:
    """Build the network under the dtype policy in force.

    Args:
      name: of the model; its layers' names begin with it.
      depths: blocks in each of the four stages.
      input_tensor: pixels [B, S, S, 3] in [0, 255].

    Returns:
      A model from the input of `input_tensor` to features [B, S // 32, S // 32, 768].
    """
    # It keeps its constants in its own dtype: in 16 bits, those of a model that explains in float32 are off.
    x = keras.layers.Normalization(
        mean=[255 * mean for mean in _MEAN],
        variance=[(255 * std) ** 2 for std in _STD],
        dtype="float32",
        name=f"{name}_prestem_normalization",
    )(input_tensor)
    for stage, (depth, width) in enumerate(zip(depths, _WIDTHS, strict=True)):
        if stage == 0:
            x = keras.layers.Conv2D(width, 4, strides=4, name=f"{name}_stem_conv")(x)
            x = _normalized(x, f"{name}_stem_layernorm")
        else:
            x = _normalized(x, f"{name}_downsampling_layernorm_{stage - 1}")
            x = keras.layers.Conv2D(width, 2, strides=2, name=f"{name}_downsampling_conv_{stage - 1}")(x)
        for block in range(depth):
            x = _block(x, f"{name}_stage_{stage}_block_{block}")
    # Of the input itself: a model from a tensor within a graph would leave out what comes before it.
    (source,) = keras.utils.get_source_inputs(input_tensor)
    return keras.Model(source, _normalized(x, f"{name}_layernorm"), name=name)


def _block(inputs: keras.KerasTensor, name: str) -> keras.KerasTensor:
    width = inputs.shape[-1]
    x = keras.layers.DepthwiseConv2D(7, padding="same", name=f"{name}_depthwise_conv")(inputs)
    x = _normalized(x, f"{name}_layernorm")
    x = keras.layers.Dense(4 * width, name=f"{name}_pointwise_conv_1")(x)
    x = keras.layers.Activation("gelu", name=f"{name}_gelu")(x)
    x = keras.layers.Dense(width, name=f"{name}_pointwise_conv_2")(x)
    x = LayerScale(name=f"{name}_layer_scale")(x)
    return keras.layers.Add(name=f"{name}_add")([inputs, x])


def _normalized(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return keras.layers.LayerNormalization(epsilon=_EPSILON, name=name)(x)


@keras.saving.register_keras_serializable("cxr")
class LayerScale(keras.layers.Layer):
    """x times a learned number for each channel, from 1e-6 on. Input and output [..., C]."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the weights, float32 [C]."""
        start = keras.initializers.Constant(1e-6)
        self.gamma = self.add_weight(name="gamma", shape=input_shape[-1:], initializer=start)
        super().build(input_shape)

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Return the products."""
        return x * self.gamma

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input."""
        return input_shape
