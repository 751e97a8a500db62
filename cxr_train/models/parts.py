"""A model's forward pass in training, with what a domain method looks at, or changes, on its way."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from cxr_data.core.errors import UsageError
from cxr_data.core.tensorflow_private import replace_call
from cxr_train.models.head import HIDDEN, POOLING
from cxr_train.models.stages import stage_ends
from cxr_train.recipe.augment import DRAWS
from cxr_train.recipe.domain.method import DomainMethod

Network = Callable[[tf.Tensor, tf.Tensor | None], tuple[tf.Tensor | None, tf.Tensor]]
"""From images float32 [B, S, S, 3] and draws [B, n] to the features [B, F], if needed, and the logits [B, C].

The draws are `DRAWS` of the augmentation, then those of the domain method, then of the adaptation.
"""

_EARLY = 4
"""How many times smaller than the image the maps of an early stage are."""


def feature_layer(model: keras.Model, frozen: Sequence[keras.layers.Layer] = ()) -> keras.layers.Layer:
    """Return the layer whose output [B, F] domain methods compare: the pooling.

    A head on embeddings, or on a frozen backbone, trains nothing up to its pooling, so that no penalty could
    change what that gives: there it is the last hidden layer.

    Args:
      model: of `build_model`.
      frozen: the layers that are never trained.

    Raises:
      UsageError: there is no hidden layer either.
    """
    pooling = model.get_layer(POOLING)
    before = model.layers[: model.layers.index(pooling) + 1]
    if any(layer.weights for layer in before if layer not in frozen):
        return pooling
    hidden = [layer for layer in model.layers if layer.name.startswith(HIDDEN)]
    if not hidden:
        raise UsageError(
            "--head=: below the logits nothing is trained, and --domain_method=coral|dann compares what is; "
            "give the head a hidden layer, such as --head=32"
        )
    return hidden[-1]


def network_of(model: keras.Model, domain: DomainMethod | None) -> Network:
    """Return the forward pass of a model in training.

    Raises:
      UsageError: the method changes an early stage, and the model has none.
    """
    if domain and domain.needs_features:
        both = keras.Model(model.inputs[0], [model.get_layer(domain.feature_layer).output, model.output])
        return lambda images, draws: tuple(both(images, training=True))
    if domain and domain.mixes_early:
        layer = model.get_layer(early_layer(model))

        def mixing(images: tf.Tensor, draws: tf.Tensor | None) -> tuple[None, tf.Tensor]:
            assert draws is not None
            with _followed_by(layer, lambda maps: domain.mix(maps, draws[:, len(DRAWS) :])):
                return None, model(images, training=True)

        return mixing
    return lambda images, draws: (None, model(images, training=True))


def early_layer(model: keras.Model) -> str:
    """Name the end of the last stage whose maps are not smaller than a quarter of the image.

    Raises:
      UsageError: there is none.
    """
    size = model.inputs[0].shape[1]
    ends = stage_ends(model) if size > _EARLY else ()
    early = [name for name in ends if model.get_layer(name).output.shape[1] * (_EARLY + 1) > size]
    if not early:
        raise UsageError(f"--domain_method=mixstyle: {model.name} has no early stage; choose another method")
    return early[-1]


@contextlib.contextmanager
def _followed_by(layer: keras.layers.Layer, change: Callable[[tf.Tensor], tf.Tensor]) -> Iterator[None]:
    """Let a layer of the model put out something else while the context is open."""
    own = layer.call
    replace_call(layer, lambda *inputs, **options: change(own(*inputs, **options)))
    try:
        yield
    finally:
        replace_call(layer, None)
