"""Exports a run's best model for use without this project.

    python -m cxr_train.export --run_dir=RUN_DIR --format=savedmodel|tflite|onnx --output=PATH

`savedmodel` takes image bytes and is ready for TensorFlow Serving: signature `serving_default`,
input `image_bytes` (string [B], JPEG or 8-bit PNG), outputs `probabilities` (float32 [B, C]) and
`class_names` (string [C]). `tflite` and `onnx` take `pixels`, float32 [B, S, S, 3] in [0, 1], and give
`probabilities`; the images are to be made as `cxr_train.predict` makes them.

An export that does not say the same as the Keras model, on images of the run's data, is refused.
"""

import pathlib

from absl import flags

from cxr_data.commands import command
from cxr_data.core import storage
from cxr_data.core.errors import UsageError
from cxr_data.core.runtime import start
from cxr_train.flags.output_place import prepare_output
from cxr_train.flags.run_directory import with_local_run
from cxr_train.inference import export_formats
from cxr_train.inference.export_formats import FORMATS
from cxr_train.inference.exporter import export_model, is_export
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout


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
    export_model(config, run_dir, values.format, output, values.images)
    if values.format == "savedmodel":
        print("it takes JPEG and 8-bit PNG, and refuses CMYK, other depths and what is to be turned")
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
