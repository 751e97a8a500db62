"""Which layers are trained: always the head and what was added; the backbone whole, in part, later, or never.

A frozen layer behaves as in inference, as under `base(x, training=False)` in Keras' guide to transfer
learning: its weights are no part of the backward pass, its BatchNorm normalises with its moving
statistics and leaves them as they are (Keras' rule for `trainable = False`), and its dropout, which
EfficientNet has between its blocks, drops nothing (for which Keras has no such rule).
"""

import difflib
import itertools

import keras
import tensorflow as tf

from cxr_data.core.errors import UsageError
from cxr_data.core.tensorflow_private import replace_call
from cxr_train.models.head import POOLING
from cxr_train.models.order import own_order
from cxr_train.recipe.recipe import UNTIL


def backbone_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the backbone's own layers, in `own_order`: no gates, no pooling."""
    before = itertools.takewhile(lambda operation: operation.name != POOLING, own_order(model))
    return [layer for layer in before if isinstance(layer, keras.layers.Layer)]


def layers_to_freeze(model: keras.Model, rule: str) -> list[keras.layers.Layer]:
    """Return the layers that `--freeze=rule` names.

    Args:
      model: of `build_model`.
      rule: `none`, `backbone`, or `until:LAYER` for LAYER and all layers before it in `own_order`,
        in which a layer's inputs come before the layer. So it names the same layers with gates and without.

    Raises:
      UsageError: the backbone has no such layer; the message lists the nearest names.
    """
    layers = backbone_layers(model)
    if rule == "none":
        return []
    if rule == "backbone":
        return layers
    name = rule.removeprefix(UNTIL)
    names = [layer.name for layer in layers]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.0)
        raise UsageError(f"--freeze={rule}: the backbone has no layer {name!r}; near: {', '.join(near)}")
    return layers[: names.index(name) + 1]


def set_trainable(layers: list[keras.layers.Layer], trainable: bool) -> None:
    """Freeze or free layers. A function traced before must be traced again."""
    for layer in layers:
        layer.trainable = trainable
        if isinstance(layer, keras.layers.Dropout):
            # A rate of 0 would do, but be saved with the model.
            replace_call(layer, None if trainable else _pass_on)


def _pass_on(inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Return what dropout does in inference."""
    return inputs
