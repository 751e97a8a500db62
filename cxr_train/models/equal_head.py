"""The head that costs as many parameters as what was added to a network: what the addition is compared with.

A network with gates may be better for what they do, or for being larger. Its counterpart is the same backbone
with the parameters in the head.
"""

import itertools
from collections.abc import Sequence

import keras

from cxr_train.models.added import is_added
from cxr_train.models.head import POOLING


def added_parameters(model: keras.Model) -> int:
    """Return the trained numbers of gates and pooling, frozen or not; see `classifier.build_model`."""
    layers = (layer for layer in model.layers if is_added(layer.name) or layer.name == POOLING)
    return sum(layer.count_params() - _statistics(layer) for layer in layers)


def _statistics(layer: keras.layers.Layer) -> int:
    is_normalization = isinstance(layer, keras.layers.BatchNormalization)
    return layer.moving_mean.shape[0] + layer.moving_variance.shape[0] if is_normalization else 0


def head_parameters(features: int, head: Sequence[int], outputs: int) -> int:
    """Return the numbers in the dense layers from `features` through `head` to `outputs`."""
    widths = [features, *head, outputs]
    return sum((before + 1) * after for before, after in itertools.pairwise(widths))


def equal_head(features: int, head: Sequence[int], outputs: int, added: int) -> tuple[int, ...]:
    """Return the head that has as nearly as possible `added` parameters more than `head`.

    Its first hidden layer is wider. A head without hidden layers gets one where it would be wider than the
    outputs: a narrower one has less to tell them with than the features, and would be the worse network.

    Args:
      features: channels of the backbone's last map.
      head: widths of the hidden dense layers.
      outputs: classes or findings.
      added: see `added_parameters`.

    Returns:
      Widths; `head` itself where `added` is too little for another unit, or for such a layer.
    """
    first, rest = (head[0], tuple(head[1:])) if head else (0, ())
    a_unit = features + 1 + (rest[0] if rest else outputs)
    # A new layer of width w takes the place of the one from the features to the outputs.
    wanted = added if head else added + features * outputs
    width = first + round(wanted / a_unit)
    return (width, *rest) if head or width > outputs else ()
