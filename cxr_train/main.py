"""Trains a classifier on shards.

    python -m cxr_train.main --backbone=xception --data=DIR --run_dir=DIR

Without `--data` it trains on a small synthetic sample that it makes itself.
"""

from cxr_data.commands import command
from cxr_data.commands.setting_flags import from_flags
from cxr_train.flags.run_directory import with_local_run
from cxr_train.flags.training import (
    StartOptions,
    check_memory_gb,
    check_start,
    config_from_flags,
    define_training_flags,
    emulated_step_seconds,
)


def main() -> int:
    """Train, evaluate the best model, and say where everything is."""
    options = from_flags(StartOptions)
    if options.plan:
        check_memory_gb(options.memory_gb, used=True)
        from cxr_train.flags.start import print_plan

        print_plan(options)
        return 0
    config = config_from_flags()
    step_seconds = emulated_step_seconds(
        options.emulate_step_ms, options.emulate_images_per_second, config.batch_size
    )
    check_start(options, config, emulated=step_seconds is not None)
    from cxr_train.flags.start import begin, feed_emulated  # which need TensorFlow

    if step_seconds is not None:
        feed_emulated(options, config, step_seconds)
    else:
        begin(options, config)
    return 0


def console_main() -> None:
    """Run the command."""
    define_training_flags()
    command.run(with_local_run(main, trains=True))


if __name__ == "__main__":
    console_main()
