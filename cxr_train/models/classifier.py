"""The classifier: backbone, with gates if asked for -> pooling -> dense head -> logits.

The name of the last layer says what the logits are of: classes that exclude each other, or findings.
"""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

import cxr_train.models.convnext  # noqa: F401  registers a layer that saved models have
from cxr_train.models.added import parse_attention
from cxr_train.models.attention import add_attention, own_draws
from cxr_train.models.head import POOLING, layers_before_logits
from cxr_train.models.pooling import by_finding, logits_by_finding, pool
from cxr_train.models.pretrained import build_backbone

_LOGITS, _FINDING_LOGITS = "logits", "finding_logits"


def build_model(
    backbone: str,
    *,
    classes: int,
    image_size: int,
    features: int = 0,
    of_findings: bool = False,
    head: Sequence[int] = (128, 32),
    dropout: float = 0.0,
    dropout_after: str = "pooling",
    weights: str = "none",
    input_range: str = "unit",
    attention: str = "none",
    pooling: str = "gap",
    batch_norm_momentum: float | None = None,
    dtype_policy: str = "float32",
) -> keras.Model:
    """Build the study's classifier on one of the backbones.

    The backbone's layers are the model's own (it is not nested), so that any
    layer can be reached by name for freezing and for Grad-CAM.

    Args:
      backbone: a key of `backbones.BACKBONES`, or `backbones.NO_BACKBONE` for a head on embeddings.
      classes: number of outputs.
      of_findings: whether each output is of a finding that may be there or not, and not of one class.
      image_size: height and width of the input in pixels.
      features: of an embedding, which is then the input, float32 [B, 1, 1, features]; 0 for images.
      head: widths of the hidden dense layers, relu each.
      dropout: rate of the one dropout layer, in training only; 0 leaves it out.
      dropout_after: which of `head.layers_before_logits` it follows.
      weights: `none`, `imagenet` or a file, see `build_backbone`.
      input_range: `unit` or `imagenet`, see `pretrained.to_trained_range`.
      attention: gates at the ends of stages, see `added.parse_attention`.
      pooling: one of `added.POOLINGS`.
      batch_norm_momentum: of the moving statistics; None keeps each network's own
        (mostly 0.99: after 70 steps half of them is still the initial 0 and 1).
      dtype_policy: `float32`, `mixed_float16` or `mixed_bfloat16`. Variables
        and logits are float32 under all of them.

    Returns:
      A model from images float32 [B, S, S, 3] in [0, 1] to logits float32
      [B, classes]. There is no softmax or sigmoid: the loss, the metrics and Grad-CAM take logits.
      `with_probabilities` adds it for users.

    Raises:
      UsageError, DataError: as `build_backbone`; a stage of `attention` is not there.
    """
    maps = classes if of_findings and pooling == "attention" else 1
    with _dtype_policy(dtype_policy):
        if features:
            embeddings = keras.Input((1, 1, features), name="embedding")
            network = keras.Model(embeddings, embeddings)
        else:
            network = build_backbone(backbone, image_size, weights, input_range)
        network = add_attention(network, parse_attention(attention))
        if batch_norm_momentum is not None:
            _set_batch_norm_momentum(network, batch_norm_momentum)
        with own_draws():
            x = pool(network.output, pooling, maps)
        for name, width in zip(layers_before_logits(head), (None, *head), strict=True):
            if width:
                x = keras.layers.Dense(width, activation="relu", name=name)(x)
            if dropout and name == dropout_after:
                x = keras.layers.Dropout(dropout, name="dropout")(x)
            if name == POOLING and maps > 1:
                x = by_finding(x, maps)
        # A float16 logit of 12 has a resolution of 1/128: the loss needs float32.
        name = _FINDING_LOGITS if of_findings else _LOGITS
        if maps > 1:
            logits = logits_by_finding(x, name)
        else:
            logits = keras.layers.Dense(classes, dtype="float32", name=name)(x)
    return keras.Model(network.input, logits, name=backbone)


def to_probabilities(model: keras.Model, logits: tf.Tensor) -> tf.Tensor:
    """Return the probabilities float32 [B, C] of logits: softmax of classes, sigmoid of findings."""
    return (tf.nn.sigmoid if _is_of_findings(model) else tf.nn.softmax)(logits)


def with_probabilities(model: keras.Model) -> keras.Model:
    """Return the model that gives probabilities; it shares the layers and the weights.

    Args:
      model: images float32 [B, S, S, 3] in [0, 1] to logits float32 [B, C].

    Returns:
      A model from the same images to probabilities float32 [B, C] in [0, 1], whose rows sum to 1, unless
      they are of findings.
    """
    # In float16 a probability below 6e-8 would be 0.
    options = {"dtype": "float32", "name": "probabilities"}
    layer = keras.layers.Softmax(**options)
    if _is_of_findings(model):
        layer = keras.layers.Activation("sigmoid", **options)
    return keras.Model(model.inputs[0], layer(model.output), name=model.name)


def without_probabilities(model: keras.Model) -> keras.Model:
    """Return the model that gives logits; it shares the layers and the weights.

    Args:
      model: made by `with_probabilities`, or one that gives logits already, as older versions saved it.
    """
    last = model.layers[-1]
    gives_logits = not isinstance(last, keras.layers.Softmax | keras.layers.Activation)
    # Keras' networks take a list of one input, and warn when they are given the input itself.
    return keras.Model(model.inputs[0], model.output if gives_logits else last.input, name=model.name)


def _is_of_findings(model: keras.Model) -> bool:
    name: str = model.layers[-1].name
    return name == _FINDING_LOGITS


def in_float32(model: keras.Model) -> keras.Model:
    """Make a model compute in float32, whatever it was trained in; its variables are float32 already.

    Explanations need it: in float16 the gradients that reach the first layers vanish or overflow.

    Args:
      model: built by `build_model` under any dtype policy; it is changed.

    Returns:
      `model`.
    """
    for layer in model.layers:
        layer.dtype_policy = "float32"
    return model


def _set_batch_norm_momentum(network: keras.Model, momentum: float) -> None:
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum


@contextlib.contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    """Set the global dtype policy, the only one that `keras.applications` reads."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
