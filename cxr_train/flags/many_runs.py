"""The flags of the runs that a command starts: those for all, and each run's, checked before it starts."""

import contextlib
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence

from absl import flags
from absl.testing import flagsaver

from cxr_data.commands.command import flag_error_in_words
from cxr_data.core import storage
from cxr_data.core.errors import UsageError
from cxr_data.core.settings import check_folder, check_local
from cxr_data.core.shown import KEYS_ELSEWHERE, holds_key
from cxr_data.core.wording import typed
from cxr_data.records.folds import count_images
from cxr_data.records.manifest import Manifest
from cxr_train.ablation.runner import GridRun
from cxr_train.flags.own_flags import flags_text, own_flags
from cxr_train.flags.run_directory import refuse_flags_of_another_run
from cxr_train.flags.training import check_network, config_from_flags
from cxr_train.models.backbones import check_input
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import ManyRunsLayout

_NOT_FOR_MANY = ("resume", "plan", "memory_gb", "emulate_step_ms", "emulate_images_per_second")


def parse_numbers(flag: str, texts: Sequence[str]) -> tuple[int, ...]:
    """Parse different whole numbers of a flag of that name. Raise UsageError."""
    try:
        numbers = tuple(int(text) for text in texts)
    except ValueError as error:
        raise UsageError(f"--{flag}={','.join(texts)}: must be whole numbers, such as 0,1,2") from error
    if len(set(numbers)) < len(numbers) or any(number < 0 for number in numbers):
        raise UsageError(f"--{flag}={','.join(texts)}: must be different numbers, none below 0")
    return numbers


def flags_of_runs(own: Collection[str]) -> dict[str, flags.Flag]:
    """Return the flags that a command shares with `cxr_train.main`, by name; `own` are its own ones."""
    return {name: flag for name, flag in own_flags().items() if name not in own}


def flags_for_all_runs(own: Collection[str]) -> dict[str, str]:
    """Return what the command line gives `cxr_train.main`, as text.

    Args:
      own: names of the flags that are the command's own.

    Raises:
      UsageError: one that makes no sense for several runs.
    """
    given = {}
    for name, flag in flags_of_runs((*own, "data", "run_dir", "seed")).items():
        if not flag.present:
            continue
        if name in _NOT_FOR_MANY and flag.value:
            raise UsageError(f"--{name}: is for one run of cxr_train.main, not for a grid")
        given[name] = flag_text(flag, flag.value)
    return given


def flag_text(flag: flags.Flag, value: object) -> str:
    """Return a value of a flag as a command line has it."""
    return str(value).lower() if flag.boolean else str(value)


def check_place(run_dir: str) -> None:
    """Check that a command can start runs below a directory, which was not taken from flags of another.

    Raises:
      UsageError: it is remote, or a file.
      DataError: as `refuse_flags_of_another_run`.
    """
    check_local("run_dir", run_dir)  # while that of one run may be remote
    check_folder("run_dir", run_dir)
    refuse_flags_of_another_run(sys.argv[1:], run_dir)


def keep_flags(layout: ManyRunsLayout, command: str) -> str:
    """Write the flags of a command that starts runs into its directory, and return the line that repeats it.

    Args:
      layout: of its directory.
      command: its module.

    Raises:
      UsageError: a flag holds what a line of a flag file cannot.
    """
    not_given = {name for name, flag in own_flags().items() if not flag.present}
    text = flags_text(leave_out=not_given, resolved={"run_dir": str(layout.directory)})
    storage.replace(layout.flags, text.encode())
    return f"python -m {command} {typed(flagfile=layout.flags)}"


def data_of(values: Mapping[str, str], data: Mapping[int, Manifest]) -> Manifest:
    """Return the data of a run with these flags, of what `grid.find_data` found by image size."""
    if "image_size" in values:
        return data[int(values["image_size"])]
    return next(iter(data.values()))


def config_of(name: str, values: Mapping[str, str], manifest: Manifest) -> TrainConfig:
    """Return the configuration of a run, as `cxr_train.main` would make it of these flags and check it.

    Args:
      name: of the run, for errors.
      values: all that it is given, as text.
      manifest: of its data, or of what that is a part of.

    Raises:
      UsageError: no run could use them.
      DataError: the file of weights is not there.
    """
    with flagsaver.flagsaver(), _named(name):
        for flag, value in values.items():
            if holds_key(value):  # of a file, which nobody has looked at before
                raise UsageError(f"--{flag}: {KEYS_ELSEWHERE}")
        flags.FLAGS(["run", *(f"--{flag}={value}" for flag, value in values.items())])
        config = config_from_flags()
        check_network(config, explain=flags.FLAGS.explain)
        check_input(config.backbone, manifest)
        return config


def checked_run(name: str, values: dict[str, str], manifest: Manifest) -> GridRun:
    """Return the run of these flags, checked as `cxr_train.main` will check it.

    Args:
      name: of its configuration.
      values: all that it is given, as text.
      manifest: of its data.

    Raises:
      UsageError: it could not be started with them.
      DataError: as `config_of`, or its data has no such split.
    """
    run = GridRun(name, values, config_of(name, values, manifest))
    with _named(name):
        images = count_images(manifest, run.config.train_split)
        if images < run.config.batch_size and values.get("batch_size") != "auto":
            raise UsageError(f"--batch_size={run.config.batch_size}: there are {images} training images")
    return run


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the run in what is wrong with its flags."""
    try:
        yield
    except (flags.Error, UsageError) as error:
        raise UsageError(f"run {name!r}: {flag_error_in_words(error)}") from error
