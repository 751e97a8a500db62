"""Exports a run's best model for use without this project.

    python -m cxr_train.export --run_dir=RUN_DIR --format=savedmodel|tflite|onnx --output=PATH

`savedmodel` takes image bytes and is ready for TensorFlow Serving: signature `serving_default`,
input `image_bytes` (string [B], JPEG or 8-bit PNG), outputs `probabilities` (float32 [B, C]) and
`class_names` (string [C]). `tflite` and `onnx` take `pixels`, float32 [B, S, S, 3] in [0, 1], and give
`probabilities`; the images are to be made as `cxr_train.predict` makes them.

An export that does not say the same as the Keras model, on images of the run's data, is refused.
"""

import io
import pathlib
import shutil
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from PIL import Image

from cxr_data.commands import command
from cxr_data.core import storage
from cxr_data.core.errors import CxrError, DataError, UsageError
from cxr_data.core.local_store import publish, temporary_of
from cxr_data.core.runtime import start
from cxr_data.images.harmonize import NONE
from cxr_data.images.preprocess import encode, small_image
from cxr_data.input.batch import expand_image
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_train.flags.output_place import prepare_output
from cxr_train.flags.run_directory import with_local_run
from cxr_train.inference import export_formats
from cxr_train.inference.export_formats import FORMATS
from cxr_train.inference.files import find_files
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.run_model import load_best_model
from cxr_train.runs.saved_run import trained_on

# What the largest probability may differ by, in float32; 16-bit models round more.
TOLERANCES = {"float32": 1e-5, "mixed_bfloat16": 2e-2, "mixed_float16": 5e-3}


def images_to_check(config: TrainConfig, manifest: Manifest, given: Sequence[str]) -> list[bytes]:
    """The bytes of image files to check an export on: those given, or some of the run's data.

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
    """What `cxr_train.predict` gives the model of image files: float32 [N, S, S, 3] in [0, 1].

    Raises:
      DataError: one cannot be decoded, and which.
    """
    options = manifest.pixel_options
    decoded = []
    for number, data in enumerate(images):
        try:
            decoded.append(small_image(data, options))
        except CxrError as error:
            raise DataError(f"image {number + 1} of {len(images)} to check with: {error}") from error
    stored = np.stack([encode(image, options) for image in decoded])
    pixels: np.ndarray = expand_image(tf.constant(stored)).numpy()
    return pixels


def export(
    config: TrainConfig, run_dir: pathlib.Path, form: str, output: pathlib.Path, images: Sequence[str]
) -> float:
    """Writes and checks an export; it has its final name only when the check has passed.

    Returns:
      The largest difference of a probability.

    Raises:
      CxrError: the export differs from the model.
      DataError: the run is not whole.
      UsageError: the graph of a SavedModel cannot do what was done to the run's images.
    """
    manifest, loaded = trained_on(run_dir), load_best_model(run_dir)
    # Keras' networks take a list of one input, and warn when they are given the input itself.
    model = keras.Model(loaded.inputs[0], loaded.output, name=loaded.name)
    if form == "savedmodel" and (manifest.crop_border != NONE or manifest.equalize_to):
        raise UsageError(
            f"--format=savedmodel: the run's images were made with --crop_border={manifest.crop_border} "
            f"--equalize_to={manifest.equalize_to}, which a graph cannot do: tflite and onnx take pixels"
        )
    checked = images_to_check(config, manifest, images)
    pixels = pixels_of(checked, manifest)
    expected = tf.nn.softmax(model(pixels, training=False)).numpy()
    tolerance = max(TOLERANCES.get(layer.dtype_policy.name, 0.0) for layer in model.layers)
    temporary = temporary_of(output, unique=True)
    try:
        export_formats.write(form, model, manifest, temporary)
        try:
            found = export_formats.run(form, temporary, checked, pixels)
        except tf.errors.InvalidArgumentError as error:
            raise DataError(
                "--images: a SavedModel takes JPEG and 8-bit PNG, not CMYK, 16 bits or DICOM, as one of "
                "them is; check it with others"
            ) from error
        difference = float(np.abs(found - expected).max())
        if not difference <= tolerance:
            raise CxrError(
                f"the export says something else than the model: a probability differs by {difference:.2g}, "
                f"more than {tolerance:g}; nothing was written"
            )
        if output.is_dir():
            shutil.rmtree(output)
        publish(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)
    print(f"checked on {len(checked)} images: probabilities differ by at most {difference:.2g}")
    return difference


def is_export(form: str) -> Callable[[pathlib.Path], bool]:
    """Tells of a path whether an export in that format is there, which another may replace."""
    if form == "savedmodel":
        return lambda path: (path / "saved_model.pb").is_file()
    return pathlib.Path.is_file


def main() -> int:
    """Exports what the flags name."""
    values = flags.FLAGS
    run_dir, output = pathlib.Path(values.run_dir), pathlib.Path(values.output)
    if not storage.store_of(values.output).is_local:
        raise UsageError(f"--output={values.output}: exports are written to a local path; copy it from there")
    prepare_output("output", output, overwrite=values.overwrite, replaces=is_export(values.format))
    export_formats.refuse_missing_extra(values.format)
    config = TrainConfig.load(RunLayout(run_dir).config)
    start()
    export(config, run_dir, values.format, output, values.images)
    if values.format == "savedmodel":
        print("it takes JPEG and 8-bit PNG, refuses CMYK and 16 bits, and does not apply EXIF orientation")
    print(f"written: {output}\nResearch software: nothing here is a diagnosis.")
    return 0


def console_main() -> None:
    """Defines the flags and runs; the entry point of `cxr-export`."""
    flags.DEFINE_string("run_dir", None, "Directory of a training run.", required=True)
    flags.DEFINE_string("output", None, "Folder (savedmodel) or file (tflite, onnx) to write.", required=True)
    flags.DEFINE_enum("format", "savedmodel", FORMATS, "What to write.")
    flags.DEFINE_list("images", [], "Images to check the export on; some of the run's data by default.")
    flags.DEFINE_bool("overwrite", False, "Replace an export that is there.")
    command.run(with_local_run(main))


if __name__ == "__main__":
    console_main()
