"""Exports a run's best model for use without this project.

    python -m cxr_train.export --run_dir=RUN_DIR --format=savedmodel|tflite|onnx --output=PATH

`savedmodel` takes image bytes and is ready for TensorFlow Serving: signature `serving_default`,
input `image_bytes` (string [B], JPEG or 8-bit PNG), outputs `probabilities` (float32 [B, C]) and
`class_names` (string [C]). `tflite` and `onnx` take `pixels`, float32 [B, S, S, 3] in [0, 1], and give
`probabilities`; the images are to be made as `cxr_train.predict` makes them.

An export that does not say the same as the Keras model, on images of the run's data, is refused.
"""

import dataclasses
import pathlib

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core.runtime import keep_large_allocations
from cxr_data.core.settings import required, setting
from cxr_data.core.shown import say
from cxr_train.flags.output_place import prepare_output
from cxr_train.flags.run_directory import RunOptions, with_local_run
from cxr_train.inference.export_names import FORMATS, is_export, refuse_missing_extra
from cxr_train.inference.files import find_files
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.notice import NOTICE
from cxr_train.runs.saved_run import find_best_model, refuse_embeddings


@dataclasses.dataclass(frozen=True)
class ExportOptions(RunOptions):
    """What to export, and where to."""

    output: str = required("Folder (savedmodel) or file (tflite, onnx) to write.", path=True, local=True)
    format: str = setting("savedmodel", "Format of the export.", choices=FORMATS)
    images: tuple[str, ...] = setting(
        (), "Image files to check the export on; some of the run's data by default.", path=True, local=True
    )
    overwrite: bool = setting(False, "Whether to replace an export that is there.")


def main() -> int:
    """Export what the flags name."""
    options = from_flags(ExportOptions)
    output = pathlib.Path(options.output)
    prepare_output("output", output, overwrite=options.overwrite, replaces=is_export(options.format))
    config = TrainConfig.load(RunLayout(options.run_dir).config)
    refuse_embeddings(options.run_dir, "export")
    if options.images:
        find_files(options.images)
    find_best_model(options.run_dir)
    refuse_missing_extra(options.format)
    keep_large_allocations()
    from cxr_train.inference.exporter import export_model  # which needs TensorFlow

    export_model(config, options.run_dir, options.format, output, options.images)
    if options.format == "savedmodel":
        print(
            "it takes JPEG and 8-bit PNG, and refuses CMYK, other depths and pictures with an EXIF rotation"
        )
    say(f"written: {output}")
    say(NOTICE)
    return 0


def console_main() -> None:
    """Run the command."""
    define_flags(ExportOptions)
    command.run(with_local_run(main))


if __name__ == "__main__":
    console_main()
