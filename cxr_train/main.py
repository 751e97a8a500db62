"""Trains a classifier on shards.

    python -m cxr_train.main --backbone=xception --data=DIR --run_dir=DIR

Without `--data` it trains on a small synthetic sample that it makes itself.
"""

import dataclasses
import datetime
import pathlib
import shlex
from collections.abc import Sequence

import tensorflow as tf
from absl import flags

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core.choice import Choice
from cxr_data.core.errors import CxrError, UsageError
from cxr_data.core.runtime import start
from cxr_data.input import emulate
from cxr_data.input.data_errors import clear_data_errors
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_data.synthetic.embedded import make_embedded_sample
from cxr_train.after_training import conclude, evaluate_best
from cxr_train.engine.cluster import clear_cluster_errors, only_the_chief_speaks
from cxr_train.engine.strategy import (
    PRECISIONS,
    STRATEGIES,
    XLA,
    Placement,
    check_logical_devices,
    choose_placement,
    make_deterministic,
    split_cpu,
)
from cxr_train.flags.own_flags import flags_text, refuse_other_flags
from cxr_train.flags.read_flags import read_options_from_flags
from cxr_train.flags.run_directory import with_local_run
from cxr_train.loop.batch_size import (
    UNKNOWN_GB,
    check_memory_gb,
    choose_batch_size,
    device_memory_gb,
    plan_table,
    setting_of,
    trace_of,
)
from cxr_train.loop.checkpoint import newest_checkpoint
from cxr_train.loop.stop import Stopped, StopRequest
from cxr_train.loop.trainer import Trainer
from cxr_train.models.backbones import BACKBONES, INPUT_RANGES
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig, parse_head
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.mirror import published
from cxr_train.runs.monitor import MONITORS
from cxr_train.runs.run_dir import check_resumed, check_shared, keep_run, open_run_dir

_BACKBONE = flags.DEFINE_string("backbone", "xception", f"One of {', '.join(BACKBONES)}.")
_DATA = flags.DEFINE_string("data", None, "Folder of shards; without it, the embedded sample.")
_RUN_DIR = flags.DEFINE_string("run_dir", None, "Where the run writes; by default runs/BACKBONE-TIME.")
_RESUME = flags.DEFINE_bool("resume", False, "Go on with the run in --run_dir.")
_EPOCHS = flags.DEFINE_integer("epochs", TrainConfig.epochs, "Passes over the training split.")
_BATCH_SIZE = flags.DEFINE_string(
    "batch_size",
    str(TrainConfig.batch_size),
    "Global batch over all replicas; auto: the largest that fits --memory_gb.",
)
_PLAN = flags.DEFINE_bool("plan", False, "Prints which batches fit --memory_gb, and ends.")
_MEMORY_GB = flags.DEFINE_float(
    "memory_gb",
    None,
    f"GB of a device, for --plan and --batch_size=auto; its own by default, {UNKNOWN_GB:g} where unknown.",
)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", TrainConfig.learning_rate, "After the warm-up.")
_HEAD = flags.DEFINE_string("head", "128-32", "Widths of the hidden dense layers.")
_DROPOUT = flags.DEFINE_float("dropout", TrainConfig.dropout, "Rate of the one dropout layer; 0 for none.")
_DROPOUT_AFTER = flags.DEFINE_string(
    "dropout_after", TrainConfig.dropout_after, "What it follows: pooling, or head_1 for the first of --head."
)
_WEIGHTS = flags.DEFINE_string(
    "weights",
    "auto",
    "imagenet, none, or a file of the backbone's weights without top; "
    "auto: imagenet, but none on the embedded sample.",
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "Height and width in pixels; the shards' own by default. The embedded sample is made in it.",
)
_INPUT_RANGE = flags.DEFINE_enum(
    "input_range",
    TrainConfig.input_range,
    INPUT_RANGES,
    "Pixels in [0, 1] as the study, or as the pretrained weights know them.",
)
_BATCH_NORM_MOMENTUM = flags.DEFINE_float(
    "batch_norm_momentum", None, "Of BatchNorm's moving statistics; the network's own by default."
)
_PRECISION = flags.DEFINE_enum("precision", "auto", PRECISIONS, "Keras dtype policy.")
_XLA = flags.DEFINE_enum("xla", "auto", XLA, "Whether XLA compiles the step.")
_STRATEGY = flags.DEFINE_enum(
    "strategy", "auto", STRATEGIES, "One device, all of this machine, or of all machines in TF_CONFIG."
)
_LOGICAL_DEVICES = flags.DEFINE_integer(
    "logical_devices",
    1,
    "Splits the CPU into so many devices, to try --strategy=mirrored without GPUs.",
    lower_bound=1,
)
_SEED = flags.DEFINE_integer("seed", TrainConfig.seed, "Of all that is drawn at random.", lower_bound=0)
_TRAIN_SPLIT = flags.DEFINE_string(
    "train_split", TrainConfig.train_split, "Split to train on, or several joined by +, as train+validation."
)
flags.DEFINE_alias("train_on", "train_split")
_VALIDATION_SPLIT = flags.DEFINE_string(
    "validation_split", TrainConfig.validation_split, "Split that picks the best."
)
_EXPLAIN = flags.DEFINE_bool("explain", False, "Explain the best model for the report; takes minutes.")
_MONITOR = flags.DEFINE_enum(
    "monitor", TrainConfig.monitor, MONITORS, "The validation metric that picks the best epoch."
)
_EARLY_STOPPING = flags.DEFINE_integer(
    "early_stopping",
    TrainConfig.early_stopping,
    "Ends the run after so many epochs in a row without a better one; 0 for never.",
)
_SAVE_MINUTES = flags.DEFINE_float(
    "save_minutes", TrainConfig.save_minutes, "Minutes between two saved states, at most."
)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", TrainConfig.deterministic, "Two runs on the same device end with the same bits."
)
_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps",
    TrainConfig.profile_steps,
    "Writes a TensorBoard trace of these steps of the run, counted from 0, such as 10:20.",
)

_EMULATE_STEP_MS = flags.DEFINE_float(
    "emulate_step_ms", None, "Trains nothing: sleeps so many ms a step, and reports the accelerator's use."
)
_EMULATE_IMAGES_PER_SECOND = flags.DEFINE_float(
    "emulate_images_per_second", None, "As --emulate_step_ms, by the rate of the accelerator."
)
define_flags(Recipe)
define_flags(ReadOptions)

_EMBEDDED_IMAGE_SIZE = 96


def config_from_flags() -> TrainConfig:
    """Reads the parsed flags into a checked configuration.

    Raises:
      UsageError: a flag has a value that no run could use.
    """
    if _RESUME.value and not _RUN_DIR.value:
        raise UsageError("--resume: say by --run_dir which run is to go on")
    name = f"{_BACKBONE.value}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    run_dir = pathlib.Path(_RUN_DIR.value or pathlib.Path("runs") / name)
    weights = _WEIGHTS.value
    if weights == "auto":
        weights = "imagenet" if _DATA.value else "none"
    return TrainConfig(
        backbone=_BACKBONE.value,
        data=_DATA.value or str(RunLayout(run_dir).sample_shards),
        run_dir=str(run_dir),
        epochs=_EPOCHS.value,
        batch_size=_batch_size_from_flags(),
        learning_rate=_LEARNING_RATE.value,
        head=parse_head(_HEAD.value),
        dropout=_DROPOUT.value,
        dropout_after=_DROPOUT_AFTER.value,
        weights=weights,
        input_range=_INPUT_RANGE.value,
        batch_norm_momentum=_BATCH_NORM_MOMENTUM.value,
        precision=_PRECISION.value,
        xla=_XLA.value,
        strategy=_STRATEGY.value,
        seed=_SEED.value,
        train_split=_TRAIN_SPLIT.value,
        validation_split=_VALIDATION_SPLIT.value,
        recipe=from_flags(Recipe),
        read=read_options_from_flags(),
        monitor=_MONITOR.value,
        early_stopping=_EARLY_STOPPING.value,
        save_minutes=_SAVE_MINUTES.value,
        deterministic=_DETERMINISTIC.value,
        profile_steps=_PROFILE_STEPS.value,
    )


def _batch_size_from_flags() -> int:
    """The number; the default stands in for `auto` until data and device are known."""
    text = _BATCH_SIZE.value
    if text == "auto":
        return TrainConfig.batch_size
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"--batch_size={text}: give a whole number or auto") from error


def _choose_batch_size(
    config: TrainConfig, manifest: Manifest, placement: Placement, before: TrainConfig | None
) -> Choice:
    """What `--batch_size` comes to on these data and this device. Raises UsageError: nothing fits."""
    if _BATCH_SIZE.value != "auto":
        return Choice("batch_size", str(config.batch_size))
    if before:
        return Choice("batch_size", str(before.batch_size), "as the run began")
    choice = choose_batch_size(
        trace_of(config, classes=len(manifest.class_names), image_size=manifest.size),
        setting_of(config.recipe, placement),
        memory_gb=_memory_gb(),
        replicas=placement.replicas,
        accumulation=config.recipe.gradient_accumulation,
        images=manifest.count(config.train_split),
    )
    return dataclasses.replace(choice, value=str(int(placement.smallest(int(choice.value)))))


def _read_data(config: TrainConfig) -> Manifest:
    """Reads the manifest, making the embedded sample first where no data is given.

    Raises:
      UsageError: the images are of another size than `--image_size`.
      DataError: the data is not whole.
    """
    if not _DATA.value:
        layout = config.layout
        make_embedded_sample(
            layout.sample_images, layout.sample_shards, _IMAGE_SIZE.value or _EMBEDDED_IMAGE_SIZE
        )
    manifest = read_manifest(config.data, check_shards=config.read.on_bad_record == "fail")
    if _IMAGE_SIZE.value not in (None, manifest.size):
        raise UsageError(
            f"--image_size={_IMAGE_SIZE.value}: {config.data} holds {manifest.size} px images; "
            f"convert again with python -m tools.make_tfrecords --size={_IMAGE_SIZE.value}"
        )
    return manifest


def main() -> int:
    """Trains, evaluates the best model, and says where everything is."""
    check_memory_gb(_MEMORY_GB.value, used=_PLAN.value or _BATCH_SIZE.value == "auto")
    if _PLAN.value:
        return _print_plan()
    config = config_from_flags()
    start()
    if _LOGICAL_DEVICES.value > 1:
        split_cpu(_LOGICAL_DEVICES.value)
    step_seconds = emulate.step_seconds(
        _EMULATE_STEP_MS.value, _EMULATE_IMAGES_PER_SECOND.value, config.batch_size
    )
    if step_seconds is not None:
        return _emulate(config, step_seconds)
    xla = config.xla
    if config.deterministic:
        xla, deterministic = make_deterministic(xla)
        print(deterministic)
    placement = choose_placement(config.strategy, config.precision, xla)
    check_logical_devices(_LOGICAL_DEVICES.value, placement)
    with clear_cluster_errors(placement.cluster), only_the_chief_speaks(placement.cluster):
        _run(config, placement)
        # A worker that has ended is lost to those that have not.
        placement.wait()
    return 0


def _run(config: TrainConfig, placement: Placement) -> None:
    """This worker's part of a run, or all of it."""
    config, pipeline, choices = _open_run(config, placement)
    for choice in choices:
        print(choice)
    with StopRequest(lambda: _last_words(config), placement.any).listening() as stop:
        try:
            trainer = Trainer(config, pipeline, placement)
            _keep_run(config, placement, choices)
            _train(config, pipeline, trainer, stop)
        except Stopped:
            print(f"stopped and saved; go on with: {_resume_command(config)}")
            return
        except tf.errors.ResourceExhaustedError as error:
            raise CxrError(
                f"--batch_size={config.batch_size}: the device has too little memory; --batch_size=auto "
                "chooses one that fits, --gradient_accumulation=2 halves what is computed at once"
            ) from error
    if placement.cluster.is_chief:
        conclude(config, trainer, explain=_EXPLAIN.value)


def _open_run(config: TrainConfig, placement: Placement) -> tuple[TrainConfig, Pipeline, Sequence[Choice]]:
    """Opens the run directory and the data, and settles what `auto` stands for.

    Raises:
      UsageError: the flags fit neither the data nor the run to be resumed, or differ between workers.
      DataError: there is no such run or data.
    """
    if placement.cluster.size > 1:
        if _RUN_DIR.value is None:
            raise UsageError("--run_dir: give all workers the same directory, on storage that they share")
        refuse_other_flags(placement)
    before = open_run_dir(pathlib.Path(config.run_dir), resume=_RESUME.value)
    with placement.chief_first():  # which makes the embedded sample
        manifest = _read_data(config)
    pipeline = Pipeline(manifest, dataclasses.replace(config.read, worker=placement.cluster.input_worker))
    batch_size = _choose_batch_size(config, manifest, placement, before)
    config = dataclasses.replace(config, batch_size=int(batch_size.value))
    if before:
        check_resumed(config, before)
    weights = Choice("weights", config.weights, _weights_reason())
    return config, pipeline, (*placement.choices, *pipeline.choices, weights, batch_size)


def _keep_run(config: TrainConfig, placement: Placement, choices: Sequence[Choice]) -> None:
    """Writes what was started. Raises DataError: the workers do not share the run directory."""
    with placement.chief_first():
        if not placement.cluster.is_chief:
            check_shared(config)
            return
        # It says that a run has ended, and this one goes on.
        config.layout.throughput.unlink(missing_ok=True)
        # Of --batch_size=auto a run keeps what it came to, which --memory_gb was for.
        resolved = {"run_dir": published(config.run_dir), "batch_size": str(config.batch_size)}
        keep_run(
            config, flags_text(leave_out=("resume", "train_on", "memory_gb"), resolved=resolved), choices
        )


def _train(config: TrainConfig, pipeline: Pipeline, trainer: Trainer, stop: StopRequest) -> None:
    """Trains, and evaluates the best model. Raises Stopped."""
    print(trainer.describe(), flush=True)
    if _RESUME.value:
        print("\n".join(trainer.resume()), flush=True)
    trainer.run(stop)
    evaluate_best(config, pipeline, trainer.placement, stop)


def _resume_command(config: TrainConfig) -> str:
    if published(config.run_dir) != config.run_dir:
        return "the same flags and --resume"
    flagfile = shlex.quote(str(config.layout.flags))
    return f"python -m cxr_train.main --flagfile={flagfile} --resume"


def _last_words(config: TrainConfig) -> str:
    """What is said when a second signal ends the process without saving."""
    saved = newest_checkpoint(config.layout.checkpoints)
    if saved is None:
        return "ended at once; nothing was saved yet"
    return f"ended at once; the last saved state is {saved}; go on with: {_resume_command(config)}"


def _print_plan() -> int:
    for line in plan_table(_memory_gb()):
        print(line, flush=True)
    return 0


def _memory_gb() -> float:
    return _MEMORY_GB.value or device_memory_gb() or UNKNOWN_GB


def _emulate(config: TrainConfig, step_seconds: float) -> int:
    """Feeds an emulated accelerator instead of a network. Raises UsageError: it has no memory to fill."""
    if _BATCH_SIZE.value == "auto":
        raise UsageError("--batch_size=auto: an emulated accelerator has no memory to fill; give a number")
    pipeline = Pipeline(_read_data(config), config.read)
    for choice in pipeline.choices:
        print(choice)
    dataset = pipeline.training_dataset(
        config.train_split, batch_size=config.batch_size, seed=config.seed, epoch=0, epochs=config.epochs
    )
    with clear_data_errors(pipeline.manifest):
        found = emulate.emulate_accelerator(dataset, batch_size=config.batch_size, step_seconds=step_seconds)
        print(found)
    return 0


def _weights_reason() -> str:
    if _WEIGHTS.value != "auto":
        return ""
    return "as the study" if _DATA.value else "the embedded sample needs no download"


def console_main() -> None:
    """The `cxr-train` command."""
    command.run(with_local_run(main, trains=True))


if __name__ == "__main__":
    console_main()
