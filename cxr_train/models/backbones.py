"""The ten ImageNet backbones, by name, and their pretrained weights."""

import dataclasses
import hashlib
import os
import pathlib
import warnings
from collections.abc import Callable

import h5py
import keras
import numpy as np

from cxr_data.core.errors import DataError, UsageError
from cxr_train.models.input_range import to_trained_range

_BUCKET = "https://storage.googleapis.com"
_APPLICATIONS = f"{_BUCKET}/tensorflow/keras-applications"
_KERNELS = "weights_tf_dim_ordering_tf_kernels_notop.h5"


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A convolutional network without its classification top.

    Attributes:
      name: the value of `--backbone`.
      build: the constructor in `keras.applications`.
      weights_url: where Keras publishes the ImageNet weights without the top.
      smallest_image: the smallest height and width in pixels that it accepts.
      trained_on: the input that its ImageNet weights expect, one of `input_range.TRAINED_ON`.
    """

    name: str
    build: Callable[..., keras.Model]
    weights_url: str
    smallest_image: int = 32
    trained_on: str = "-1..1"

    @property
    def cached_weights(self) -> pathlib.Path:
        """Where Keras looks for the ImageNet weights before it downloads them."""
        return pathlib.Path(_keras_home()) / "models" / self.weights_url.rsplit("/", 1)[-1]


_ALL = (
    Backbone(
        "mobilenet_v2",
        keras.applications.MobileNetV2,
        f"{_APPLICATIONS}/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    ),
    Backbone(
        "vgg16", keras.applications.VGG16, f"{_APPLICATIONS}/vgg16/vgg16_{_KERNELS}", trained_on="caffe"
    ),
    Backbone(
        "densenet201",
        keras.applications.DenseNet201,
        f"{_APPLICATIONS}/densenet/densenet201_{_KERNELS}",
        trained_on="torch",
    ),
    Backbone("xception", keras.applications.Xception, f"{_APPLICATIONS}/xception/xception_{_KERNELS}", 71),
    Backbone(
        "inception_resnet_v2",
        keras.applications.InceptionResNetV2,
        f"{_APPLICATIONS}/inception_resnet_v2/inception_resnet_v2_{_KERNELS}",
        75,
    ),
    Backbone(
        "resnet152_v2", keras.applications.ResNet152V2, f"{_APPLICATIONS}/resnet/resnet152v2_{_KERNELS}"
    ),
    Backbone(
        "nasnet_large", keras.applications.NASNetLarge, f"{_APPLICATIONS}/nasnet/NASNet-large-no-top.h5"
    ),
    Backbone(
        "inception_v3",
        keras.applications.InceptionV3,
        f"{_APPLICATIONS}/inception_v3/inception_v3_{_KERNELS}",
        75,
    ),
    Backbone(
        "efficientnet_b1",
        keras.applications.EfficientNetB1,
        f"{_BUCKET}/keras-applications/efficientnetb1_notop.h5",
        trained_on="0..255",
    ),
    Backbone(
        "efficientnet_b7",
        keras.applications.EfficientNetB7,
        f"{_BUCKET}/keras-applications/efficientnetb7_notop.h5",
        trained_on="0..255",
    ),
)

BACKBONES: dict[str, Backbone] = {backbone.name: backbone for backbone in _ALL}


def find_backbone(name: str) -> Backbone:
    """Returns the backbone called `name`.

    Raises:
      UsageError: there is none; the message lists the ten names.
    """
    if name not in BACKBONES:
        raise UsageError(f"--backbone={name}: unknown backbone; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name]


def build_backbone(name: str, image_size: int, weights: str, input_range: str = "unit") -> keras.Model:
    """Builds a backbone under the dtype policy in force and loads its weights.

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
    if image_size < backbone.smallest_image:
        raise UsageError(
            f"--image_size={image_size}: {name} needs at least {backbone.smallest_image}x"
            f"{backbone.smallest_image} pixels"
        )
    images = keras.Input((image_size, image_size, 3), name="image")
    pixels = images if input_range == "unit" else to_trained_range(images, backbone.trained_on)
    network = backbone.build(include_top=False, weights=None, input_tensor=pixels)
    if weights != "none":
        path = _imagenet_file(backbone) if weights == "imagenet" else pathlib.Path(weights)
        _load_weights(network, name, path)
    return network


def _imagenet_file(backbone: Backbone) -> pathlib.Path:
    """Returns Keras' cached ImageNet file, after downloading it where it is not there."""
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


def _load_weights(network: keras.Model, name: str, path: pathlib.Path) -> None:
    if not path.is_file():
        raise DataError(f"--weights={path}: no such file")
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
    """Says which variable of `network` holds values that are not in the file; empty if none."""
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
    """Whether a variable comes from training, unlike the state of a random generator."""
    return "seed_generator" not in variable.path


def _fingerprint(values: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    content = np.ascontiguousarray(values, np.float32)
    return content.shape, hashlib.sha256(content.tobytes()).digest()


def _keras_home() -> str:
    """Keras' own rule for its cache, which it does not publish."""
    return os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
