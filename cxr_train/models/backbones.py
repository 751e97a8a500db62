"""The ImageNet backbones, by name: what is known of them before Keras is imported."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cxr_data.core.errors import DataError, UsageError
from cxr_data.records.manifest import Manifest

if TYPE_CHECKING:
    import keras

NO_BACKBONE = "none"
"""The value of `--backbone` for a head on embeddings."""

INPUT_RANGES = ("unit", "imagenet")
TRAINED_ON = ("-1..1", "0..255", "caffe", "torch")

_BUCKET = "https://storage.googleapis.com"
_APPLICATIONS = f"{_BUCKET}/tensorflow/keras-applications"
_KERNELS = "weights_tf_dim_ordering_tf_kernels_notop.h5"


def _keras_home() -> str:
    """Return the folder of Keras' cache, by its own rule, which it does not publish."""
    return os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A convolutional network without its classification top.

    Attributes:
      name: the value of `--backbone`.
      build: its constructor, with the arguments of those in `keras.applications`.
      weights_url: where Keras publishes the ImageNet weights without the top.
      smallest_image: the smallest height and width in pixels that it accepts.
      trained_on: the input that its ImageNet weights expect, one of `TRAINED_ON`.
      has_se: whether its blocks have squeeze and excitation of their own.
      has_batch_norm: whether it normalises by statistics of batches.
      stored_as: the constructor of the network whose weights files it takes, where that is another: of the
        same weights in the same order, each of as many numbers.
    """

    name: str
    build: "Callable[..., keras.Model]"
    weights_url: str
    smallest_image: int = 32
    trained_on: str = "-1..1"
    has_se: bool = False
    has_batch_norm: bool = True
    stored_as: "Callable[..., keras.Model] | None" = None

    def sees_black(self, input_range: str) -> bool:
        """Return whether all pixels of an `--input_range` are next to 0 for it: it scales them by itself."""
        return self.trained_on == "0..255" and input_range == "unit"

    @property
    def cached_weights(self) -> pathlib.Path:
        """Where Keras looks for the ImageNet weights before it downloads them."""
        return pathlib.Path(_keras_home()) / "models" / self.weights_url.rsplit("/", 1)[-1]


def _of_keras(name: str) -> "Callable[..., keras.Model]":
    """Return a constructor of `keras.applications`; Keras is imported when it is called."""

    def build(**options: Any) -> "keras.Model":
        import keras

        return getattr(keras.applications, name)(**options)

    return build


def _convnext(name: str, keras_name: str, depths: tuple[int, ...]) -> Backbone:
    def build(*, include_top: bool, weights: None, input_tensor: "keras.KerasTensor") -> "keras.Model":
        from cxr_train.models.convnext import build_convnext

        return build_convnext(name, depths, input_tensor)

    url = f"{_APPLICATIONS}/convnext/{name}_notop.h5"
    stored_as = _of_keras(keras_name)
    return Backbone(name, build, url, trained_on="0..255", has_batch_norm=False, stored_as=stored_as)


_ALL = (
    Backbone(
        "mobilenet_v2",
        _of_keras("MobileNetV2"),
        f"{_APPLICATIONS}/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    ),
    Backbone("vgg16", _of_keras("VGG16"), f"{_APPLICATIONS}/vgg16/vgg16_{_KERNELS}", trained_on="caffe"),
    Backbone(
        "densenet201",
        _of_keras("DenseNet201"),
        f"{_APPLICATIONS}/densenet/densenet201_{_KERNELS}",
        trained_on="torch",
    ),
    Backbone("xception", _of_keras("Xception"), f"{_APPLICATIONS}/xception/xception_{_KERNELS}", 71),
    Backbone(
        "inception_resnet_v2",
        _of_keras("InceptionResNetV2"),
        f"{_APPLICATIONS}/inception_resnet_v2/inception_resnet_v2_{_KERNELS}",
        75,
    ),
    Backbone("resnet152_v2", _of_keras("ResNet152V2"), f"{_APPLICATIONS}/resnet/resnet152v2_{_KERNELS}"),
    Backbone("nasnet_large", _of_keras("NASNetLarge"), f"{_APPLICATIONS}/nasnet/NASNet-large-no-top.h5"),
    Backbone(
        "inception_v3",
        _of_keras("InceptionV3"),
        f"{_APPLICATIONS}/inception_v3/inception_v3_{_KERNELS}",
        75,
    ),
    Backbone(
        "efficientnet_b1",
        _of_keras("EfficientNetB1"),
        f"{_BUCKET}/keras-applications/efficientnetb1_notop.h5",
        trained_on="0..255",
        has_se=True,
    ),
    Backbone(
        "efficientnet_b7",
        _of_keras("EfficientNetB7"),
        f"{_BUCKET}/keras-applications/efficientnetb7_notop.h5",
        trained_on="0..255",
        has_se=True,
    ),
    Backbone(
        "efficientnet_v2_s",
        _of_keras("EfficientNetV2S"),
        f"{_APPLICATIONS}/efficientnet_v2/efficientnetv2-s_notop.h5",
        trained_on="0..255",
        has_se=True,
    ),
    _convnext("convnext_tiny", "ConvNeXtTiny", (3, 3, 9, 3)),
    _convnext("convnext_small", "ConvNeXtSmall", (3, 3, 27, 3)),
)

BACKBONES: dict[str, Backbone] = {backbone.name: backbone for backbone in _ALL}


def check_input(name: str, manifest: Manifest) -> None:
    """Check that a backbone takes the records of a data set: pictures that are large enough, or with `none`
    embeddings.

    Raises:
      UsageError: it does not.
    """
    if manifest.embedding and name != NO_BACKBONE:
        raise UsageError(
            f"--backbone={name}: {manifest.directory} holds embeddings ({manifest.embedding}): give "
            f"--backbone={NO_BACKBONE}, or data that holds pictures"
        )
    if name == NO_BACKBONE:
        if not manifest.embedding:
            raise UsageError(
                f"--backbone={NO_BACKBONE}: {manifest.directory} holds pictures: choose a backbone, or make "
                f"embeddings of them with python -m cxr_train.embed"
            )
        return
    check_image_size(name, manifest.size)


def check_image_size(name: str, image_size: int) -> None:
    """Raise UsageError for images, of `image_size` pixels each way, that are too small for a backbone."""
    smallest = find_backbone(name).smallest_image
    if image_size < smallest:
        raise UsageError(f"--image_size={image_size}: {name} needs at least {smallest}x{smallest} pixels")


def check_weights_file(weights: str) -> None:
    """Raise DataError where `--weights` names a file that is not there."""
    if weights not in ("none", "imagenet") and not pathlib.Path(weights).is_file():
        raise DataError(f"--weights={weights}: no such file")


def find_backbone(name: str) -> Backbone:
    """Return the backbone called `name`.

    Raises:
      UsageError: there is none; the message lists the names.
    """
    if name == NO_BACKBONE:
        raise UsageError(f"--backbone={name}: is for embeddings; choose one of {', '.join(BACKBONES)}")
    if name not in BACKBONES:
        raise UsageError(f"--backbone={name}: unknown backbone; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name]
