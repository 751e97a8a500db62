"""The stages of a network, one for each resolution: where it is explained, and where gates are added."""

import difflib
import math
from collections.abc import Sequence

import keras

from cxr_data.core.errors import UsageError
from cxr_train.models.order import own_order

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
_MERGES = (keras.layers.Add, keras.layers.Concatenate)


def stage_outputs(model: keras.Model) -> tuple[str, ...]:
    """Name one layer for each depth: the first convolution, then the end of each resolution stage.

    Args:
      model: as of `stage_ends`.

    Returns:
      Names in the order of the computation, each once; for VGG16 at 360 px: block1_conv1,
      block1_conv2, block2_conv2, block3_conv3, block4_conv3, block5_conv3.
    """
    ends = stage_ends(model)
    return tuple(dict.fromkeys((_convolutions(model)[0].name, *ends)))


def stage_ends(model: keras.Model) -> tuple[str, ...]:
    """Name the end of each resolution stage, in the order of the computation.

    The end of a stage is the last layer in which its paths come together: a merge of branches, or
    a layer that everything behind it is computed from alone. Stages without a convolution (a last
    pooling) and of one pixel, where nothing can be located, are left out. So are gates that were added.

    Args:
      model: from images [B, S, S, 3], all layers its own (see `classifier.build_model`).
    """
    convolutions = _convolutions(model)
    if not convolutions:
        raise UsageError(f"{model.name} has no convolution on more than one pixel: nothing can be located")
    image_size = model.inputs[0].shape[1]
    layers = [layer for layer in own_order(model) if _is_map(layer)]
    layers = layers[layers.index(convolutions[0]) :]
    bottlenecks = _bottlenecks(model)
    names = []
    for stage in sorted({_stage(layer, image_size) for layer in convolutions}):
        members = [layer for layer in layers if _stage(layer, image_size) == stage]
        members = members[next(i for i, layer in enumerate(members) if layer in convolutions) :]
        # Their frames would shift the map against the image.
        members = [layer for layer in members if not isinstance(layer, keras.layers.ZeroPadding2D)]
        together = [
            layer for layer in members if layer.name in bottlenecks or isinstance(layer, _MERGES)
        ] or [layer for layer in members if layer in convolutions]
        names.append(together[-1].name)
    return tuple(names)


def check_layers(model: keras.Model, names: Sequence[str], flag: str = "layers") -> tuple[str, ...]:
    """Return `names` after checking that each is a layer of `model` with an image-like output.

    Raises:
      UsageError: it is not; the message names the most similar ones, or those chosen by default.
    """
    known = {layer.name for layer in own_order(model) if _is_map(layer)}
    for name in names:
        if name not in known:
            similar = difflib.get_close_matches(name, known, n=3) or stage_outputs(model)
            raise UsageError(
                f"--{flag}={name}: {model.name} has no such layer with an image-like output; "
                f"try {', '.join(similar)}"
            )
    return tuple(names)


def _convolutions(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in own_order(model) if isinstance(layer, _CONVOLUTIONS) and _is_map(layer)]


def _is_map(layer: keras.Operation) -> bool:
    """Return whether a layer puts out [B, h, w, C] with more than one pixel."""
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.layers.InputLayer):
        return False
    shape = layer.output.shape
    return len(shape) == 4 and shape[1] > 1


def _stage(layer: keras.layers.Layer, image_size: int) -> int:
    """Return how often the resolution was halved before; unpadded convolutions cost a few pixels more."""
    return round(math.log2(image_size / layer.output.shape[1]))


def _bottlenecks(model: keras.Model) -> set[str]:
    """Name the operations whose output is all that the later ones see.

    In an order of computation, an output is a bottleneck if no earlier output is used later.
    """
    operations = list(model.operations)
    last_use: dict[int, int] = {}
    for number, operation in enumerate(operations):
        if not isinstance(operation, keras.layers.InputLayer):
            for tensor in keras.tree.flatten(operation.input):
                last_use[id(tensor)] = number
    names, open_until = set(), 0
    for number, operation in enumerate(operations):
        if open_until <= number:
            names.add(operation.name)
        for tensor in keras.tree.flatten(operation.output):
            open_until = max(open_until, last_use.get(id(tensor), number))
    return names
