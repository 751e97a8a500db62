"""The flags of a training run, and what of them is checked before TensorFlow is loaded."""

import dataclasses
import datetime
import math
import os
import pathlib

from absl import flags

from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core.errors import UsageError
from cxr_data.core.folder_lock import locked
from cxr_data.core.settings import setting
from cxr_data.core.wording import tool, typed
from cxr_data.input.options import ReadOptions
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_data.records.split_names import SplitName, fold_splits, parse_split
from cxr_train.engine.placement_names import UNKNOWN_GB, CompilationOptions
from cxr_train.flags.read_flags import read_options_from_flags
from cxr_train.models.backbones import BACKBONES, NO_BACKBONE, check_input, check_weights_file
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.run_dir import check_resumed, open_run_dir


@dataclasses.dataclass(frozen=True)
class StartOptions:
    """How a command begins or continues a run: what is settled into a `TrainConfig`, or is no part of it."""

    backbone: str = setting(
        "xception",
        f"Network without its top: one of {', '.join(BACKBONES)}; none: the data holds embeddings, and only "
        "the head is trained.",
    )
    data: str | None = setting(None, "Folder of shards; the embedded sample by default.", path=True)
    run_dir: str | None = setting(
        None, "Folder that receives everything the run writes; runs/BACKBONE-TIME by default.", path=True
    )
    resume: bool = setting(False, "Whether to continue the run in --run_dir.")
    batch_size: str = setting(
        str(TrainConfig.batch_size),
        "Images in a global batch, over all replicas; auto: as many as fit --memory_gb.",
    )
    try_batch: str = setting(
        "auto",
        "Whether --batch_size=auto tries a step of its batch before the run, and other batches where it does "
        "not fit or much memory is free; auto: on a GPU.",
        choices=("auto", "on", "off"),
    )
    plan: bool = setting(False, "Whether to print the batches that fit --memory_gb, and train nothing.")
    memory_gb: float | None = setting(
        None,
        "Memory of a device in GB, for --plan and --batch_size=auto, and what the run may take of each GPU; "
        f"this machine's own by default, {UNKNOWN_GB:g} where it is unknown.",
    )
    weights: str = setting(
        "auto",
        "Weights that the backbone starts from: imagenet, none, or a file of weights without top; "
        "auto: imagenet, but none on the embedded sample.",
        path=True,
        local=True,
    )
    image_size: int | None = setting(
        None,
        "Height and width in pixels that the images of the shards must have; any by default. The "
        "embedded sample is made in this size.",
    )
    fold: str = setting(
        "",
        "Fold to validate on, such as 2of5; the run trains on the rest of --train_split and "
        "--validation_split "
        "together. Whole patients are in one fold.",
    )
    logical_devices: int = setting(
        1, "Number of devices to split the CPU into, to try --strategy=mirrored without GPUs.", at_least=1
    )
    explain: bool = setting(False, "Whether to explain the best model for the report, which takes minutes.")
    emulate_step_ms: float | None = setting(
        None,
        "Step time of an emulated accelerator in milliseconds: nothing is trained, the "
        "accelerator's use is reported.",
    )
    emulate_images_per_second: float | None = setting(
        None, "Rate of an emulated accelerator, in place of --emulate_step_ms."
    )


def define_training_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of `cxr_train.main`, those of the command line by default."""
    define_flags(StartOptions, TrainConfig, Recipe, ReadOptions, CompilationOptions, flag_values=flag_values)
    flags.DEFINE_alias("train_on", "train_split", flag_values=flag_values)


def config_from_flags(flag_values: flags.FlagValues = flags.FLAGS) -> TrainConfig:
    """Make the checked configuration of a run from the parsed flags, those of the command line by default.

    Raises:
      UsageError: a flag has a value that no run could use.
    """
    options = from_flags(StartOptions, flag_values=flag_values)
    if options.resume and not options.run_dir:
        raise UsageError("--resume: name the run to continue with --run_dir")
    name = f"{options.backbone}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    run_dir = pathlib.Path(options.run_dir or pathlib.Path("runs") / name)
    weights = options.weights
    if weights == "auto":
        weights = "imagenet" if options.data and options.backbone != NO_BACKBONE else "none"
    return from_flags(
        TrainConfig,
        flag_values=flag_values,
        **(_splits_of_fold(options.fold, flag_values) if options.fold else {}),
        backbone=options.backbone,
        data=options.data or str(RunLayout(run_dir).sample_shards),
        run_dir=str(run_dir),
        batch_size=_parse_batch_size(options.batch_size),
        weights=weights,
        recipe=from_flags(Recipe, flag_values=flag_values),
        read=read_options_from_flags(flag_values),
    )


def _splits_of_fold(fold: str, flag_values: flags.FlagValues) -> dict[str, str]:
    """Return the splits to train and to validate on, of which `--fold` is a part.

    Raises:
      UsageError: it is no fold.
    """
    given = [parse_split(str(flag_values[flag].value)) for flag in ("train_split", "validation_split")]
    if any(one.fold or one.sources != given[0].sources for one in given):
        raise UsageError(f"--fold={fold}: --train_split and --validation_split must be of the same sources")
    splits = tuple(dict.fromkeys(name for one in given for name in one.splits))
    pool = SplitName(splits, given[0].sources).pool
    try:
        chosen = parse_split(f"{pool}@{fold}").fold
    except UsageError as error:
        raise UsageError(f"--fold={fold}: must be like 2of5; {error}") from error
    if chosen is None or chosen.is_rest:
        raise UsageError(f"--fold={fold}: must be like 2of5, the fold to validate on")
    train, validation = fold_splits(pool, chosen.number, chosen.count)
    return {"train_split": train, "validation_split": validation}


def _parse_batch_size(text: str) -> int:
    """Return the number; the default stands in for `auto` until data and device are known."""
    if text == "auto":
        return TrainConfig.batch_size
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"--batch_size={text}: must be a whole number or auto") from error


def check_network(config: TrainConfig, *, explain: bool) -> None:
    """Check that what a run's network needs is there: weights, and pictures where they are to be explained.

    Raises:
      UsageError: there is nothing to explain.
      DataError: the file of weights is not there.
    """
    if explain and config.backbone == NO_BACKBONE:
        raise UsageError(f"--explain: --backbone={NO_BACKBONE} sees no picture to explain; leave it out")
    check_weights_file(config.weights)


def check_start(options: StartOptions, config: TrainConfig, *, emulated: bool) -> None:
    """Check that what a run needs is there, as far as that is known without its devices.

    Args:
      options, config: of the run.
      emulated: whether nothing is trained, so that there is no run directory.

    Raises:
      UsageError: the run directory holds another run, or the flags fit neither that run nor the data.
      DataError: the data, the weights or the run to be resumed are not there.
    """
    check_memory_gb(options.memory_gb, used=True)
    before = None
    if not emulated:
        check_network(config, explain=options.explain)
        if "TF_CONFIG" not in os.environ:  # workers open theirs once they know each other
            before = open_run_dir(pathlib.Path(config.run_dir), resume=options.resume)
            with locked(config.layout.lock):
                pass  # said at once, before TensorFlow is loaded and a GPU's memory is taken
    if not options.data:
        return
    manifest = read_run_data(options, config)
    manifest.shards_of(config.train_split)
    if not emulated:
        check_input(config.backbone, manifest)
    if before and options.batch_size != "auto":
        check_resumed(config, before)


def read_run_data(options: StartOptions, config: TrainConfig) -> Manifest:
    """Read the manifest of a run's data.

    Raises:
      UsageError: the images are of another size than `--image_size`.
      DataError: the data is not whole.
    """
    manifest = read_manifest(config.data, check_shards=config.read.on_bad_record == "fail")
    if options.image_size not in (None, manifest.size):
        raise UsageError(
            f"--image_size={options.image_size}: {config.data} holds {manifest.size} px images; "
            f"convert again with python -m {tool('make_tfrecords')} {typed(size=options.image_size)}"
        )
    return manifest


def check_memory_gb(memory_gb: float | None, *, used: bool) -> None:
    """Raise UsageError for a `--memory_gb` that no device has, or that nothing asks for."""
    if memory_gb is None:
        return
    if not 0 < memory_gb < math.inf:
        raise UsageError(f"--memory_gb={memory_gb}: must be above 0 and finite")
    if not used:
        raise UsageError(f"--memory_gb={memory_gb}: is for --batch_size=auto, --plan and a GPU")


def emulated_step_seconds(
    step_ms: float | None, images_per_second: float | None, batch_size: int
) -> float | None:
    """Return the emulated step time from the two flags that can give it; None if neither does.

    Raises:
      UsageError: both are given, or one is not above 0 or infinite.
    """
    if step_ms is not None and images_per_second is not None:
        raise UsageError("--emulate_step_ms and --emulate_images_per_second: give one of them")
    for flag, value in (("emulate_step_ms", step_ms), ("emulate_images_per_second", images_per_second)):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{flag}={value}: must be above 0 and finite")
    if step_ms is not None:
        return step_ms / 1e3
    return None if images_per_second is None else batch_size / images_per_second
