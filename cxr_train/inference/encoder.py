"""Encoders: what turns pictures into features, be it a backbone, the model of a run, or any SavedModel."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf

from cxr_data.core.errors import DataError, UsageError, one_line
from cxr_data.core.local_store import sha256_of
from cxr_data.records.manifest import Manifest
from cxr_train.models.classifier import build_model, in_float32
from cxr_train.models.head import POOLING
from cxr_train.models.pretrained import to_trained_range
from cxr_train.runs.run_model import load_best_model

_DIGEST_DIGITS = 12


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What makes features of pictures.

    Attributes:
      model: called as `model(images, training=False)`, from images float32 [B, S, S, 3] in [0, 1] to features
        float32 [B, F].
      features: F.
      description: what a manifest says of the features; two encoders of the same description give the same.
    """

    model: Callable[..., tf.Tensor]
    features: int
    description: str


def backbone_encoder(
    backbone: str, image_size: int, *, weights: str, input_range: str, policy: str = "float32"
) -> Encoder:
    """Return the backbone with its pooling; the arguments are those of `build_model`.

    Raises:
      UsageError, DataError: as `build_model`.
    """
    model = build_model(
        backbone,
        classes=1,
        image_size=image_size,
        head=(),
        weights=weights,
        input_range=input_range,
        dtype_policy=policy,
    )
    return _up_to_pooling(model, f"{backbone} pooled", image_size, input_range)


def run_encoder(run_dir: pathlib.Path, input_range: str, policy: str = "float32") -> Encoder:
    """Return the best model of a run, up to its pooling.

    Args:
      input_range: of the run.
      policy: float32, or else the model computes as it was trained.

    Raises:
      DataError: there is no such model.
    """
    model = load_best_model(run_dir)
    if policy == "float32":
        in_float32(model)
    size = model.inputs[0].shape[1]
    return _up_to_pooling(model, f"{model.name} of a run pooled", size, input_range)


def _up_to_pooling(model: keras.Model, name: str, image_size: int, input_range: str) -> Encoder:
    pooled = model.get_layer(POOLING).output
    features = int(pooled.shape[-1])
    pooled = keras.layers.Activation("linear", dtype="float32", name="features")(pooled)
    encoder = keras.Model(model.inputs[0], pooled)
    digest = _digest_of(np.asarray(variable).tobytes() for variable in encoder.weights)
    description = _describe(name, features, image_size, input_range, digest)
    in_16_bits = sorted({layer.compute_dtype for layer in model.layers} - {"float32"})
    if in_16_bits:
        description += f", computed in {' and '.join(in_16_bits)}"
    return Encoder(encoder, features, description)


def _describe(name: str, features: int, image_size: int, input_range: str, digest: str) -> str:
    return f"{name}, {features} features of {image_size} px, input {input_range}, weights {digest}"


def _digest_of(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:_DIGEST_DIGITS]


# -- any SavedModel ----------------------------------------------------------------------------


def saved_model_encoder(
    directory: pathlib.Path, manifest: Manifest, *, signature: str, output: str, input_range: str
) -> Encoder:
    """Return a signature of a SavedModel as an encoder. A SavedModel holds code: load none that you do not
    trust.

    Args:
      directory: of the SavedModel.
      manifest: of the pictures, whose size the signature must take.
      signature: from images [B, S, S, 3], or [B, S, S, 1] of gray pictures, to features [B, F], or to maps
        [B, h, w, F], of which the mean is taken.
      output: name of the signature's output; empty where it has one.
      input_range: `unit`, or one of `backbones.TRAINED_ON`.

    Raises:
      UsageError: the SavedModel has no such signature or output, or it does not take the pictures.
      DataError: it cannot be loaded.
    """
    flag = f"--saved_model={directory}"
    try:
        loaded = tf.saved_model.load(str(directory))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise DataError(
            f"{flag}: cannot be loaded: {one_line(str(error).partition(chr(10))[0][:200])}"
        ) from error
    signatures = dict(loaded.signatures)
    if signature not in signatures:
        names = ", ".join(signatures) or "none"
        raise UsageError(f"{flag}: has no signature {signature!r}, only {names}; choose one with --signature")
    call = signatures[signature]
    argument, spec = _only_input(flag, call)
    _check_takes(flag, spec, manifest)
    name, features = _chosen_output(flag, call, output)
    model = _SavedEncoder(loaded, call, argument, spec, name, features, input_range)
    folders = ("variables", "assets")
    files = [
        directory / "saved_model.pb",
        *(file for one in folders for file in sorted((directory / one).rglob("*"))),
    ]
    digest = _digest_of(sha256_of(file).encode() for file in files if file.is_file())
    title = f"SavedModel {directory.resolve().name}, signature {signature}, output {name}"
    return Encoder(model, features, _describe(title, features, manifest.size, input_range, digest))


class _SavedEncoder:
    """Calls a signature of a SavedModel as a Keras model is called."""

    def __init__(
        self,
        loaded: object,
        call: tf.types.experimental.GenericFunction,
        argument: str,
        spec: tf.TensorSpec,
        output: str,
        features: int,
        input_range: str,
    ) -> None:
        self._loaded = loaded  # a signature does not keep its variables alive
        self._call, self._argument, self._spec = call, argument, spec
        self._output, self._features, self._range = output, features, input_range

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        del training  # a signature is as it was saved
        if self._spec.shape[-1] == 1:
            images = images[..., :1]
        if self._range != "unit":
            images = to_trained_range(images, self._range)
        found = self._call(**{self._argument: tf.cast(images, self._spec.dtype)})[self._output]
        found = tf.cast(found, tf.float32)
        if found.shape.rank == 4:
            found = tf.reduce_mean(found, axis=[1, 2])
        return tf.ensure_shape(found, [None, self._features])


def _only_input(flag: str, call: tf.types.experimental.ConcreteFunction) -> tuple[str, tf.TensorSpec]:
    inputs = call.structured_input_signature[1]
    if len(inputs) != 1:
        raise UsageError(
            f"{flag}: its signature takes {', '.join(inputs) or 'nothing'}, not one tensor of images"
        )
    ((argument, spec),) = inputs.items()
    if spec.shape.rank != 4 or not spec.dtype.is_floating:
        raise UsageError(
            f"{flag}: its signature takes {argument} {spec.dtype.name} {spec.shape}, and must take floats "
            "[B, S, S, C]; save it with a signature that does"
        )
    return argument, spec


def _check_takes(flag: str, spec: tf.TensorSpec, manifest: Manifest) -> None:
    height, width, channels = spec.shape[1:]
    if {height, width} - {None, manifest.size}:
        raise UsageError(
            f"{flag}: takes images of {height} x {width} px, and {manifest.directory} holds {manifest.size}: "
            f"convert with --size={height}"
        )
    if channels not in (None, 3) and not (channels == 1 and manifest.channels == 1):
        raise UsageError(
            f"{flag}: takes images of {channels} channels, and must take 3, or 1 where the data set has "
            f"1 ({manifest.directory} has {manifest.channels})"
        )


def _chosen_output(flag: str, call: tf.types.experimental.ConcreteFunction, name: str) -> tuple[str, int]:
    outputs = call.structured_outputs
    if not name and len(outputs) == 1:
        (name,) = outputs
    if name not in outputs:
        raise UsageError(
            f"{flag}: choose its output with --saved_model_output, one of {', '.join(sorted(outputs))}"
        )
    shape = outputs[name].shape
    if shape.rank not in (2, 4) or shape[-1] is None or shape[-1] < 2:
        raise UsageError(
            f"{flag}: its output {name} is {shape}, and must be features [B, F] or maps [B, h, w, F], F from "
            "2 on"
        )
    return name, int(shape[-1])
