"""A model's forward pass in training, with what a domain method looks at, or changes, on its way."""

from collections.abc import Callable

import keras
import tensorflow as tf

from cxr_train.models.head import POOLING
from cxr_train.recipe.domain.method import DomainMethod

Network = Callable[[tf.Tensor, tf.Tensor | None], tuple[tf.Tensor | None, tf.Tensor]]
"""From images float32 [B, S, S, 3] and draws [B, n] to the features [B, F], if needed, and the logits [B, C].

The draws are `DRAWS` of the augmentation, then those of the domain method.
"""


def network_of(model: keras.Model, domain: DomainMethod | None) -> Network:
    """Return the forward pass of a model in training."""
    if domain and domain.needs_features:
        both = keras.Model(model.inputs[0], [model.get_layer(POOLING).output, model.output])
        return lambda images, draws: tuple(both(images, training=True))
    return lambda images, draws: (None, model(images, training=True))
