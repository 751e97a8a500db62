"""The flag `--run_dir` of every command that works on a run: it may name an object store."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from absl import flags

from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.settings import required, setting
from cxr_data.core.wording import typed
from cxr_train.runs.layout import CHECKPOINTS_NAME, FLAGS_NAME, TENSORBOARD_NAME, RunLayout
from cxr_train.runs.mirror import mirrored

# What only a training run needs of an earlier one.
_OF_TRAINING = (CHECKPOINTS_NAME, TENSORBOARD_NAME)
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The run that a command works on."""

    run_dir: pathlib.Path = required("Directory of a training run.", parse=pathlib.Path, path=True)


@dataclasses.dataclass(frozen=True)
class RunDataOptions(RunOptions):
    """The run that a command works on, and the data."""

    data: str | None = setting(None, "Folder of shards; the run's own by default.", path=True)


def refuse_flags_of_another_run(arguments: Sequence[str], run_dir: str | None) -> None:
    """Check that the flags in a run directory are of that run: it may have been moved, or be somebody else's.

    Args:
      arguments: of the command, with `--flagfile`.
      run_dir: what they come to.

    Raises:
      DataError: such flags name another directory, and the command does not name one itself.
    """
    words = [word.lstrip("-") for word in arguments if word.startswith("-")]
    if any(word.partition("=")[0] == "run_dir" for word in words):
        return
    files = [word.partition("=")[2] for word in words if word.startswith("flagfile=")]
    files += [after for word, after in itertools.pairwise(arguments) if word in ("-flagfile", "--flagfile")]
    for path in map(pathlib.Path, files):
        layout = RunLayout(path.parent)
        # A command that starts runs leaves no configuration, but a lock of the same name.
        is_of_run = path.name == FLAGS_NAME and (layout.config.exists() or layout.lock.exists())
        if is_of_run and run_dir and storage.place(run_dir) != storage.place(str(path.parent)):
            raise DataError(
                f"{path}: --run_dir={run_dir}: is another directory; to continue the run in {path.parent}, "
                f"give {typed(run_dir=path.parent)} behind --flagfile, and --data if the shards were moved "
                "too"
            )


def with_local_run(main: Callable[..., Result], *, trains: bool = False) -> Callable[..., Result]:
    """Make a command whose `--run_dir` may be remote of one that needs a local one.

    Args:
      main: reads the flag.
      trains: whether it goes on with an earlier run's checkpoints.
    """

    @functools.wraps(main)
    def run(*arguments: object) -> Result:
        flag = flags.FLAGS["run_dir"]
        remote = flag.value
        if trains:
            refuse_flags_of_another_run(sys.argv[1:], remote)
        if not remote or storage.store_of(remote).is_local:
            return main(*arguments)
        if trains and "TF_CONFIG" in os.environ:
            raise UsageError(f"--run_dir={remote}: several workers need a directory that all have mounted")
        if trains and not flags.FLAGS["data"].value:
            raise UsageError(f"--run_dir={remote}: the embedded sample is local; give --data")
        with contextlib.ExitStack() as mirrors:
            flag.value = ",".join(
                str(mirrors.enter_context(mirrored(one, leave=() if trains else _OF_TRAINING)))
                for one in re.split(r",(?=\w+://)", remote)  # of a command that takes several runs
            )
            return main(*arguments)

    return run
