"""A run's best model exported, and checked to give the same probabilities as the Keras model."""

import functools
import io
import logging
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from cxr_data.core import storage
from cxr_data.core.errors import CxrError, DataError, UsageError
from cxr_data.core.local_store import publish, temporary_of
from cxr_data.images.guarded import USUAL, decode_picture, read_one
from cxr_data.images.harmonize import NONE
from cxr_data.images.preprocess import encode
from cxr_data.input.batch import expand_image
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_train.inference import export_formats
from cxr_train.inference.files import find_files
from cxr_train.models.classifier import to_probabilities
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_model import load_best_model
from cxr_train.runs.saved_run import trained_on

logger = logging.getLogger(__name__)

# What the largest probability may differ by, in float32; 16-bit models round more.
TOLERANCES = {"float32": 1e-5, "mixed_bfloat16": 2e-2, "mixed_float16": 5e-3}


def images_to_check(config: TrainConfig, manifest: Manifest, given: Sequence[str]) -> list[bytes]:
    """Read image files to check an export on: those given, or some of the run's data.

    The records are enlarged to JPEG files of odd sizes, so that the resizing is checked as well.
    """
    if given:
        return [storage.read_bytes(file.path) for file in find_files(given)]
    try:
        data = read_manifest(config.data)
    except DataError as error:
        raise DataError(f"{error}; or name some image files to check with: --images=FILE,...") from error
    split = config.validation_split if config.validation_split in data.splits else data.splits[0]
    stored = Pipeline(data).reader(split).read(np.arange(min(8, data.count(split))))
    files = []
    for number, image in enumerate(stored):
        pixels = (
            image if image.dtype == np.uint8 else np.rint(image.astype(np.float32) * 255).astype(np.uint8)
        )
        picture = Image.fromarray(pixels[..., 0] if manifest.color == "gray" else pixels)
        buffer = io.BytesIO()
        picture.resize((manifest.size * 2 + 7 * number, manifest.size + 41)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def pixels_of(images: Sequence[bytes], manifest: Manifest) -> np.ndarray:
    """Return what `cxr_train.predict` gives the model of image files: float32 [N, S, S, 3] in [0, 1].

    Raises:
      DataError: one cannot be decoded, and which.
    """
    options, limits = manifest.pixel_options, USUAL
    decode = functools.partial(decode_picture, options=options, limits=limits)
    decoded = []
    for number, data in enumerate(images):
        try:
            decoded.append(read_one(decode, data, limits).pixels)
        except CxrError as error:
            raise DataError(f"image {number + 1} of {len(images)} to check with: {error}") from error
    stored = np.stack([encode(image, options) for image in decoded])
    pixels: np.ndarray = expand_image(tf.constant(stored)).numpy()
    return pixels


def export_model(
    config: TrainConfig, run_dir: pathlib.Path, form: str, output: pathlib.Path, images: Sequence[str]
) -> float:
    """Write and check an export; it has its final name only when the check has passed.

    Returns:
      The largest difference of a probability.

    Raises:
      CxrError: the export differs from the model.
      DataError: the run is not whole.
      UsageError: the graph of a SavedModel cannot do what was done to the run's images.
    """
    manifest, model = trained_on(run_dir), load_best_model(run_dir)
    if form == "savedmodel" and (manifest.crop_border != NONE or manifest.equalize_to):
        raise UsageError(
            f"--format=savedmodel: the run's images were made with --crop_border={manifest.crop_border} "
            f"--equalize_to={manifest.equalize_to}, which a graph cannot do: tflite and onnx take pixels"
        )
    checked = images_to_check(config, manifest, images)
    pixels = pixels_of(checked, manifest)
    expected = to_probabilities(model, model(pixels, training=False)).numpy()
    tolerance = max(TOLERANCES.get(layer.dtype_policy.name, 0.0) for layer in model.layers)
    temporary = temporary_of(output, unique=True)
    try:
        export_formats.write_export(form, model, manifest, temporary)
        try:
            found = export_formats.run_export(form, temporary, checked, pixels)
        except tf.errors.InvalidArgumentError as error:
            raise DataError(
                "--images: a SavedModel takes JPEG and 8-bit PNG, not CMYK, 16 bits or an EXIF rotation, "
                "as one of them is; check it with others"
            ) from error
        difference = float(np.abs(found - expected).max())
        if not difference <= tolerance:
            raise CxrError(
                f"--output={output}: the export differs from the model: a probability differs by "
                f"{difference:.2g}, more than {tolerance:g}; nothing was written"
            )
        if output.is_dir():
            shutil.rmtree(output)
        publish(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)
    logger.info("checked on %d images: probabilities differ by at most %.2g", len(checked), difference)
    return difference
