"""Writes the pooled features of every picture of a data set, as a data set with the same records otherwise.

    python -m tools.embed --data=SHARDS --output=FOLDER --backbone=mobilenet_v2 --weights=FILE

A head on them is trained by `cxr_train.main --backbone=none`. Besides a backbone, `--run_dir` takes the best
model of a run, and `--saved_model` any SavedModel; a SavedModel holds code, so give one that you trust.
Stopped at any moment, the same command finishes the rest.
"""

import dataclasses
import pathlib

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.runtime import keep_large_allocations
from cxr_data.core.settings import check_settings, required, setting
from cxr_data.core.shown import say
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_train.engine.placement_names import PRECISIONS, XLA, CompilationOptions
from cxr_train.evaluation.class_map import refuse_other_records
from cxr_train.flags.compiled import kept_by_flags
from cxr_train.flags.output_place import prepare_output
from cxr_train.flags.run_directory import with_local_run
from cxr_train.models.backbones import BACKBONES, TRAINED_ON, check_input, check_weights_file
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.notice import NOTICE
from cxr_train.runs.saved_run import find_best_model, refuse_embeddings


@dataclasses.dataclass(frozen=True)
class EmbedOptions:
    """Whose features are written, of which pictures, and where to."""

    data: str = required("Folder of shards that hold pictures.", path=True)
    output: str = required("Folder for the embeddings.", path=True, local=True)
    backbone: str = setting("", f"Network without its top: one of {', '.join(BACKBONES)}.")
    weights: str = setting(
        "imagenet",
        "Weights of --backbone: imagenet, none, or a file of weights without top.",
        path=True,
        local=True,
    )
    run_dir: str = setting("", "Directory of a training run whose best model is taken.", path=True)
    saved_model: str = setting("", "Folder of a SavedModel that is taken.", path=True, local=True)
    signature: str = setting("serving_default", "Signature of --saved_model.")
    saved_model_output: str = setting("", "Output of the signature, where it has several.")
    input_range: str = setting(
        "auto",
        "Range of the pixels that the network gets: unit is [0, 1]; imagenet is the range that the weights "
        "of --backbone were trained on, the default there; the others are for --saved_model.",
        choices=("auto", "unit", "imagenet", *TRAINED_ON),
    )
    image_size: int | None = setting(
        None, "Height and width in pixels that the pictures must have; any by default."
    )
    dtype: str = setting("float32", "Type of the stored features.", choices=("float32", "float16"))
    batch_size: int = setting(32, "Images in a step.", at_least=1)
    precision: str = setting("float32", "Keras dtype policy of the network.", choices=PRECISIONS)
    xla: str = setting("auto", "Whether XLA compiles the network.", choices=XLA)
    overwrite: bool = setting(False, "Whether to replace embeddings that are there.")

    def __post_init__(self) -> None:
        check_settings(self)
        given = [flag for flag in ("backbone", "run_dir", "saved_model") if getattr(self, flag)]
        if len(given) != 1:
            raise UsageError(
                f"--{' and --'.join(given or ['backbone', 'run_dir', 'saved_model'])}: give one of them"
            )
        for flag, owner in (
            ("weights", "backbone"),
            ("signature", "saved_model"),
            ("saved_model_output", "saved_model"),
        ):
            if getattr(self, flag) != getattr(EmbedOptions, flag) and given != [owner]:
                raise UsageError(f"--{flag}={getattr(self, flag)}: is for --{owner}")
        allowed = {"backbone": ("unit", "imagenet"), "run_dir": (), "saved_model": ("unit", *TRAINED_ON)}
        if self.input_range not in ("auto", *allowed[given[0]]):
            fits = ", ".join(("auto", *allowed[given[0]]))
            raise UsageError(f"--input_range={self.input_range}: must be {fits} with --{given[0]}")


def main() -> int:
    """Write the embeddings that the flags name."""
    options = from_flags(EmbedOptions)
    output = pathlib.Path(options.output)
    prepare_output("output", output, overwrite=options.overwrite, replaces=_is_embedding)
    manifest = read_manifest(options.data)
    _check(options, manifest)
    keep_large_allocations()
    with kept_by_flags():
        made = _embed(options, manifest)
    say(f"written: {made.directory}: {made.embedding}, {made.dtype}")
    say(NOTICE)
    return 0


def _is_embedding(path: pathlib.Path) -> bool:
    """Return whether a folder is what this command writes."""
    try:
        return bool(read_manifest(str(path), check_shards=False).embedding)
    except DataError:
        return False


def _check(options: EmbedOptions, manifest: Manifest) -> None:
    """Check what is known without the network. Raises UsageError, DataError."""
    if storage.is_within(options.output, options.data):
        raise UsageError(f"--output={options.output}: lies in --data={options.data}; choose another folder")
    if manifest.embedding:
        raise UsageError(f"--data={options.data}: holds embeddings ({manifest.embedding}); give pictures")
    if options.image_size not in (None, manifest.size):
        raise UsageError(
            f"--image_size={options.image_size}: {options.data} holds images of {manifest.size} px"
        )
    if options.backbone:
        check_input(options.backbone, manifest)
        check_weights_file(options.weights)
    elif options.run_dir:
        refuse_embeddings(pathlib.Path(options.run_dir), "embed")
        refuse_other_records(pathlib.Path(options.run_dir), manifest)
        find_best_model(pathlib.Path(options.run_dir))
    elif not (pathlib.Path(options.saved_model) / "saved_model.pb").is_file():
        raise UsageError(f"--saved_model={options.saved_model}: is not the folder of a SavedModel")


def _embed(options: EmbedOptions, manifest: Manifest) -> Manifest:
    """Write what was checked; TensorFlow is loaded."""
    import tensorflow as tf

    from cxr_train.engine.strategy import choose_placement
    from cxr_train.inference import encoder
    from cxr_train.inference.embedder import embed_dataset

    is_saved = bool(options.saved_model)
    several = not is_saved and len(tf.config.list_physical_devices("GPU")) > 1
    # A SavedModel may hold what XLA cannot compile, and its variables are of one device.
    xla = "off" if is_saved and options.xla == "auto" else options.xla
    placement = choose_placement("mirrored" if several else "one", options.precision, xla)
    with placement.strategy.scope():
        if options.backbone:
            chosen = encoder.backbone_encoder(
                options.backbone,
                manifest.size,
                weights=options.weights,
                input_range="imagenet" if options.input_range == "auto" else options.input_range,
                policy=placement.policy,
            )
        elif options.run_dir:
            run_dir = pathlib.Path(options.run_dir)
            trained = TrainConfig.load(RunLayout(run_dir).config)
            chosen = encoder.run_encoder(run_dir, trained.input_range, placement.policy)
        else:
            chosen = encoder.saved_model_encoder(
                pathlib.Path(options.saved_model),
                manifest,
                signature=options.signature,
                output=options.saved_model_output,
                input_range="unit" if options.input_range == "auto" else options.input_range,
            )
    for choice in placement.choices:
        say(str(choice))
    return embed_dataset(
        manifest, chosen, placement, options.output, dtype=options.dtype, batch_size=options.batch_size
    )


def console_main() -> None:
    """Run the command."""
    define_flags(EmbedOptions, CompilationOptions)
    command.run(with_local_run(main))


if __name__ == "__main__":
    console_main()
