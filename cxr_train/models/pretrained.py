"""The backbones built, with their pretrained weights and the input that these expect."""

import hashlib
import pathlib
import warnings

import h5py
import keras
import numpy as np

from cxr_data.core.errors import DataError
from cxr_train.models.backbones import (
    TRAINED_ON,
    Backbone,
    check_image_size,
    check_weights_file,
    find_backbone,
)

# keras.applications' preprocess_input, for pixels in [0, 1] instead of [0, 255].
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
_TORCH_MEAN = (0.485, 0.456, 0.406)
_TORCH_STD = (0.229, 0.224, 0.225)


def build_backbone(name: str, image_size: int, weights: str, input_range: str = "unit") -> keras.Model:
    """Build a backbone under the dtype policy in force and load its weights.

    Args:
      name: a key of `BACKBONES`.
      image_size: height and width of the input in pixels.
      weights: `none` (random), `imagenet` (Keras' cache or download) or the path
        of a `.weights.h5` or legacy `.h5` file of the same network without top.
      input_range: `unit` gives the network the pixels as they are, as the study did;
        `imagenet` what its pretrained weights expect.

    Returns:
      A model from float images in [0, 1] [B, S, S, 3] to features [B, h, w, C].

    Raises:
      UsageError: unknown name, or an image too small for the network.
      DataError: the weights cannot be had, or are another network's.
    """
    backbone = find_backbone(name)
    check_image_size(name, image_size)
    check_weights_file(weights)
    images = keras.Input((image_size, image_size, 3), name="image")
    pixels = images if input_range == "unit" else to_trained_range(images, backbone.trained_on)
    network = backbone.build(include_top=False, weights=None, input_tensor=pixels)
    if weights != "none":
        path = _imagenet_file(backbone) if weights == "imagenet" else pathlib.Path(weights)
        _load_weights(network, backbone, path)
    return network


def to_trained_range(images: keras.KerasTensor, trained_on: str) -> keras.KerasTensor:
    """Map pixels to the numbers that a backbone's ImageNet weights were trained on.

    Part of the model's graph, so that a saved model takes pixels in [0, 1] whatever was chosen.

    The study fed [0, 1] to every network (`unit`). For most that is merely not what the weights
    know; Keras' EfficientNets, which divide by 255 themselves, then see an almost black image:
    the likely reason for the study's 72.96 % with EfficientNetB1.

    Args:
      images: [B, S, S, 3] in [0, 1].
      trained_on: one of `TRAINED_ON`.
    """
    name = "to_trained_range"
    match trained_on:
        case "-1..1":
            return keras.layers.Rescaling(2.0, -1.0, name=name)(images)
        case "0..255":
            return keras.layers.Rescaling(255.0, name=name)(images)
        case "caffe":
            offset = [-mean for mean in _CAFFE_MEAN_BGR]
            return keras.layers.Rescaling(255.0, offset, name=name)(keras.ops.flip(images, axis=-1))
        case "torch":
            scale = [1 / std for std in _TORCH_STD]
            offset = [-mean / std for mean, std in zip(_TORCH_MEAN, _TORCH_STD, strict=True)]
            return keras.layers.Rescaling(scale, offset, name=name)(images)
    raise ValueError(f"trained_on={trained_on!r} must be one of {TRAINED_ON}")


def _imagenet_file(backbone: Backbone) -> pathlib.Path:
    """Return Keras' cached ImageNet file, after downloading it where it is not there."""
    cached = backbone.cached_weights
    if cached.exists():
        return cached
    try:
        return pathlib.Path(keras.utils.get_file(cached.name, backbone.weights_url, cache_subdir="models"))
    except Exception as error:  # get_file raises bare Exception for every network failure
        raise DataError(
            f"--weights=imagenet: cannot download {backbone.weights_url}; fetch it elsewhere and put it at "
            f"{cached}, or pass --weights=FILE or --weights=none"
        ) from error


def _load_weights(network: keras.Model, backbone: Backbone, path: pathlib.Path) -> None:
    if backbone.stored_as is None:
        _load_file(network, backbone.name, path)
        return
    stored = backbone.stored_as(include_top=False, weights=None, input_shape=network.input_shape[1:])
    _load_file(stored, backbone.name, path)
    for mine, theirs in zip(network.weights, stored.weights, strict=True):
        mine.assign(np.reshape(theirs.numpy(), mine.shape))


def _load_file(network: keras.Model, name: str, path: pathlib.Path) -> None:
    try:
        with warnings.catch_warnings():
            # Keras warns of parts that the file lacks and goes on; what counts is
            # whether every variable got its values, and that is checked below.
            warnings.simplefilter("ignore")
            network.load_weights(path)
        problem = _not_loaded(network, path)
    except (ValueError, KeyError, OSError) as error:
        problem = _first_line(error)
    if problem:
        raise DataError(
            f"--weights={path}: these are not the weights of {name} without top ({problem}); "
            f"pass the file of the same backbone"
        )


def _not_loaded(network: keras.Model, path: pathlib.Path) -> str:
    """Say which variable of `network` holds values that are not in the file; empty if none."""
    stored = set()

    def collect(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            stored.add(_fingerprint(item[()]))

    with h5py.File(path) as file:
        file.visititems(collect)
    for variable in network.variables:
        if _is_weight(variable) and _fingerprint(variable.numpy()) not in stored:
            return f"it has no values for {variable.path}"
    return ""


def _is_weight(variable: keras.Variable) -> bool:
    """Return whether a variable comes from training, unlike the state of a random generator."""
    return "seed_generator" not in variable.path


def _fingerprint(values: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    content = np.ascontiguousarray(values, np.float32)
    return content.shape, hashlib.sha256(content.tobytes()).digest()


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
