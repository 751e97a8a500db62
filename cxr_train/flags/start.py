"""How a training run begins: its devices, its data, its batch. What `cxr_train.main` loads."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import tensorflow as tf

from cxr_data.commands.setting_flags import from_flags
from cxr_data.core.choice import Choice
from cxr_data.core.errors import UsageError
from cxr_data.core.runtime import keep_large_allocations
from cxr_data.core.shown import say
from cxr_data.core.wording import typed, wrapped
from cxr_data.input import emulate
from cxr_data.input.data_errors import clear_data_errors
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import Manifest
from cxr_data.synthetic.embedded import make_embedded_sample
from cxr_train.engine.cluster import clear_cluster_errors, only_the_chief_speaks
from cxr_train.engine.compilation_cache import kept_compilations
from cxr_train.engine.placement_names import UNKNOWN_GB, CompilationOptions
from cxr_train.engine.strategy import (
    Placement,
    check_logical_devices,
    choose_placement,
    hold_gpus,
    make_deterministic,
    split_cpu,
)
from cxr_train.flags.own_flags import flags_text, refuse_other_flags
from cxr_train.flags.training import StartOptions, check_memory_gb, read_run_data
from cxr_train.lifecycle.training import run_training
from cxr_train.loop.batch_size import choose_batch_size_of, device_memory_gb, plan_table
from cxr_train.loop.batch_trial import Trial, find_batch, try_in_a_process
from cxr_train.loop.checkpoint import newest_checkpoint
from cxr_train.loop.stop import Stopped
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.mirror import published
from cxr_train.runs.run_dir import check_resumed, held_run_dir, open_run_dir

_EMBEDDED_IMAGE_SIZE = 96


def begin(options: StartOptions, config: TrainConfig) -> None:
    """Train what was checked by `check_start`, and say where everything is.

    Raises:
      CxrError: as `training.run_training`, or the flags do not fit the devices.
    """
    keep_large_allocations()
    with kept_compilations(
        from_flags(CompilationOptions), xla=config.xla, deterministic=config.deterministic
    ):
        _place_and_run(options, config)


def _choose_batch_size(
    options: StartOptions,
    config: TrainConfig,
    pipeline: Pipeline,
    placement: Placement,
    before: TrainConfig | None,
    tried: Trial | None,
) -> Choice:
    """Return what `--batch_size` comes to on these data and this device. Raises UsageError: nothing fits."""
    if options.batch_size != "auto":
        return Choice("batch_size", str(config.batch_size))
    if before:
        return Choice("batch_size", str(before.batch_size), "as the run began")
    if tried:
        return _tried_batch_size(tried, config, pipeline, placement)
    choice = choose_batch_size_of(config, pipeline, placement, _memory_gb(options))
    return dataclasses.replace(choice, value=str(int(placement.smallest(int(choice.value)))))


def _tried_batch_size(tried: Trial, config: TrainConfig, pipeline: Pipeline, placement: Placement) -> Choice:
    """Return the batch that fits the device of every worker, as they have tried."""
    parts = placement.replicas * config.recipe.gradient_accumulation
    images = min(tried.images, max(len(pipeline.positions(config.train_split)) // parts, 1))
    return Choice("batch_size", str(int(placement.smallest(images)) * parts), f"tried, {tried}")


def _try_batches(options: StartOptions, config: TrainConfig) -> Trial | None:
    """Try the batch of `--batch_size=auto`, before this process takes a GPU's memory; None: no try."""
    if options.batch_size != "auto" or options.resume or not options.data or options.try_batch == "off":
        return None
    if options.try_batch == "auto" and not tf.config.list_physical_devices("GPU"):
        return None
    open_run_dir(pathlib.Path(config.run_dir), resume=False)  # what would be refused is refused at once
    return find_batch(
        functools.partial(
            try_in_a_process, config, memory_gb=options.memory_gb, logical_devices=options.logical_devices
        )
    )


def _read_data(options: StartOptions, config: TrainConfig) -> Manifest:
    """Read the manifest, making the embedded sample first where no data is given."""
    if not options.data:
        layout = config.layout
        make_embedded_sample(
            layout.sample_images, layout.sample_shards, options.image_size or _EMBEDDED_IMAGE_SIZE
        )
    return read_run_data(options, config)


def _place_and_run(options: StartOptions, config: TrainConfig) -> None:
    used = options.batch_size == "auto" or bool(tf.config.list_physical_devices("GPU"))
    check_memory_gb(options.memory_gb, used=used)
    if options.logical_devices > 1:
        split_cpu(options.logical_devices)
    tried = _try_batches(options, config)
    if options.memory_gb:
        hold_gpus(options.memory_gb)
    xla = config.xla
    if config.deterministic:
        xla, deterministic = make_deterministic(xla)
        print(wrapped(str(deterministic), rest="  "))
    placement = choose_placement(config.strategy, config.precision, xla)
    check_logical_devices(options.logical_devices, placement)
    with clear_cluster_errors(placement.cluster), only_the_chief_speaks(placement.cluster):
        _run(options, config, placement, tried)
        # A worker that has ended is lost to those that have not.
        placement.wait()


def _run(options: StartOptions, config: TrainConfig, placement: Placement, tried: Trial | None) -> None:
    """Do this worker's part of a run, or all of it."""
    if placement.cluster.size > 1:
        if options.run_dir is None:
            raise UsageError("--run_dir: give all workers the same directory, on storage that they share")
        refuse_other_flags(placement)
    run_dir = pathlib.Path(config.run_dir)
    with held_run_dir(run_dir, placement, resume=options.resume) as before:
        _train(options, config, placement, tried, before)


def _train(
    options: StartOptions,
    config: TrainConfig,
    placement: Placement,
    tried: Trial | None,
    before: TrainConfig | None,
) -> None:
    config, pipeline, choices = _settle(options, config, placement, tried, before)
    for choice in choices:
        print(wrapped(str(choice), rest="  "), flush=True)
    # Of --batch_size=auto a run keeps what it came to. On a CPU that is all that --memory_gb was for.
    left_out = {"resume", "train_on", "try_batch"}
    if not tf.config.list_physical_devices("GPU"):
        left_out.add("memory_gb")
    resolved = {"run_dir": published(config.run_dir), "batch_size": str(config.batch_size)}
    try:
        run_training(
            config,
            pipeline,
            placement,
            choices,
            flags=flags_text(leave_out=left_out, resolved=resolved),
            resume=options.resume,
            explain=options.explain,
            last_words=lambda: _last_words(config),
        )
    except Stopped:
        say(f"stopped and saved; continue with: {_resume_command(config)}")


def _settle(
    options: StartOptions,
    config: TrainConfig,
    placement: Placement,
    tried: Trial | None,
    before: TrainConfig | None,
) -> tuple[TrainConfig, Pipeline, Sequence[Choice]]:
    """Open the data, and settle what `auto` stands for.

    Raises:
      UsageError: the flags fit neither the data nor `before`, the run to be resumed.
      DataError: there is no such data.
    """
    with placement.chief_first():  # which makes the embedded sample
        manifest = _read_data(options, config)
    pipeline = Pipeline(manifest, dataclasses.replace(config.read, worker=placement.cluster.input_worker))
    batch_size = _choose_batch_size(options, config, pipeline, placement, before, tried)
    config = dataclasses.replace(config, batch_size=int(batch_size.value))
    if before:
        check_resumed(config, before)
    weights = Choice("weights", config.weights, _weights_reason(options, manifest))
    return config, pipeline, (*placement.choices, *pipeline.choices, weights, batch_size)


def _resume_command(config: TrainConfig) -> str:
    if published(config.run_dir) != config.run_dir:
        return "the same flags and --resume"
    return f"python -m cxr_train.main {typed(flagfile=config.layout.flags)} --resume"


def _last_words(config: TrainConfig) -> str:
    """Return what is said when a second signal ends the process without saving."""
    saved = newest_checkpoint(config.layout.checkpoints)
    if saved is None:
        return "ended at once; nothing was saved yet"
    return f"ended at once; the last saved state is {saved}; continue with: {_resume_command(config)}"


def print_plan(options: StartOptions) -> None:
    """Print which batches fit the device."""
    for line in plan_table(_memory_gb(options)):
        print(line, flush=True)


def _memory_gb(options: StartOptions) -> float:
    return options.memory_gb or device_memory_gb() or UNKNOWN_GB


def feed_emulated(options: StartOptions, config: TrainConfig, step_seconds: float) -> None:
    """Feed an emulated accelerator instead of a network. Raises UsageError: it has no memory to fill."""
    check_memory_gb(options.memory_gb, used=options.batch_size == "auto")
    if options.batch_size == "auto":
        raise UsageError("--batch_size=auto: an emulated accelerator has no memory to fill; give a number")
    keep_large_allocations()
    pipeline = Pipeline(_read_data(options, config), config.read)
    for choice in pipeline.choices:
        print(choice)
    dataset = pipeline.training_dataset(
        config.train_split, batch_size=config.batch_size, seed=config.seed, epoch=0, epochs=config.epochs
    )
    with clear_data_errors(pipeline.manifest):
        found = emulate.emulate_accelerator(dataset, batch_size=config.batch_size, step_seconds=step_seconds)
        print(found)


def _weights_reason(options: StartOptions, manifest: Manifest) -> str:
    if options.weights != "auto":
        return ""
    if manifest.embedding:
        return "embeddings need no backbone"
    return "as the study" if options.data else "the embedded sample needs no download"
