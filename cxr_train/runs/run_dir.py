"""A run directory's beginning: whether a run may start there, and the proof of what was started.

`config.json` is written last, once everything that it names was found to be usable: a command
that failed before has left no run behind, and the corrected one needs no `--resume`.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cxr_data.core import storage
from cxr_data.core.choice import Choice
from cxr_data.core.errors import CxrError, DataError, UsageError
from cxr_data.core.folder_lock import locked
from cxr_data.core.wording import typed
from cxr_data.records.copies import digest_of_pairs
from cxr_data.records.layout import MANIFEST_NAME
from cxr_data.records.split_names import parse_split
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.environment import write_environment
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.mirror import published

if TYPE_CHECKING:
    from cxr_train.engine.strategy import Placement

# NFS may remember for a minute that a file was not there.
_SECONDS_TO_SEE = 60


def open_run_dir(run_dir: pathlib.Path, *, resume: bool) -> TrainConfig | None:
    """Make the directory of a new run, or read the configuration of the one to resume.

    Returns:
      None for a new run.

    Raises:
      UsageError: there is a run already and `resume` is off, or the directory cannot be made.
      DataError: `resume` is on and there is no run, or its configuration is damaged.
    """
    saved = RunLayout(run_dir).config
    if resume:
        if not saved.exists():
            raise DataError(f"--resume: {run_dir} holds no run (no {saved.name}); start it without --resume")
        return TrainConfig.load(saved)
    if saved.exists():
        raise UsageError(
            f"--run_dir={run_dir}: holds a run already; pass --resume to continue it, or choose another"
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--run_dir={run_dir}: cannot be made: {error.strerror}") from error
    return None


@contextlib.contextmanager
def held_run_dir(
    run_dir: pathlib.Path, placement: "Placement", *, resume: bool
) -> Iterator[TrainConfig | None]:
    """Open a run directory as `open_run_dir`, and keep other trainers out of it while the context is open.

    Of a cluster worker 0 holds it; all workers must call it at the same point.

    Raises:
      UsageError, DataError: as `open_run_dir`, or another process trains there.
    """
    before = open_run_dir(run_dir, resume=resume)
    with contextlib.ExitStack() as held:
        refused = None
        if placement.cluster.is_chief:
            try:
                held.enter_context(locked(RunLayout(run_dir).lock))
                before = open_run_dir(run_dir, resume=resume)  # again: another may have begun here since
            except CxrError as error:
                refused = error
        if placement.any(refused is not None):
            raise refused or DataError(f"--run_dir={run_dir}: worker 0 cannot train there, and says why")
        yield before


def check_resumed(config: TrainConfig, before: TrainConfig) -> None:
    """Check that `config` continues the run that was started with `before`, on the same data.

    Raises:
      UsageError: a flag that decides the result differs.
      DataError: the shards are other ones.
    """
    layout = config.layout
    kept = before.what_decides_the_result()
    for name, value in config.what_decides_the_result().items():
        # The data may have been moved, with the run or without; which it is, its manifest tells.
        if name != "data" and value != kept.get(name, value):
            raise UsageError(
                f"--resume: the run in {config.run_dir} has --{name}={kept[name]}, not {value}; "
                + (
                    f"repeat its flags with {typed(flagfile=layout.flags)}"
                    if layout.flags.exists()
                    else f"its configuration is {layout.config}"
                )
            )
    if not is_on_its_data(config):
        raise DataError(
            f"--resume: {config.data} is not the data that {config.run_dir} was started on: see "
            f"{layout.manifest}"
        )


def is_on_its_data(config: TrainConfig) -> bool:
    """Return whether the data of a run is that which its directory was started on, as far as both are there.

    Moved data is the same, and other records of the same path are not. Nor are the same records after an
    audit that found other copies, where the training leaves these out.
    """
    manifest, copies = config.layout.manifest, config.layout.copies
    if not manifest.exists() or storage.size(storage.join(config.data, MANIFEST_NAME)) is None:
        return True
    if copies.exists() and storage.read_bytes(str(copies)) != _copies(config):
        return False
    return storage.read_bytes(str(manifest)) == _manifest(config)


def keep_run(config: TrainConfig, flags: str | None, choices: Sequence[Choice]) -> None:
    """Write what was started: the manifest of its data, its machine, its flags and its configuration.

    Args:
      config: of the run.
      flags: lines for `--flagfile` that repeat it; None where no flags have started it.
      choices: the settings in force.
    """
    layout = config.layout
    storage.replace(layout.manifest, _manifest(config))
    sources = parse_split(config.train_split).sources
    if sources and sources.is_disjoint:
        storage.replace(layout.copies, _copies(config))
    write_environment(layout.directory, choices)
    if flags is None:
        layout.flags.unlink(missing_ok=True)  # of a command that began the run
    else:
        storage.replace(layout.flags, flags.encode())
    dataclasses.replace(config, run_dir=published(config.run_dir)).save(layout.config)


def _copies(config: TrainConfig) -> bytes:
    return f"{digest_of_pairs(config.data)}\n".encode()


def check_shared(config: TrainConfig) -> None:
    """Check that a worker which is not the chief sees what the chief has kept. Raises DataError."""
    saved = config.layout.config
    deadline = time.monotonic() + _SECONDS_TO_SEE
    while not saved.exists():
        if time.monotonic() > deadline:
            raise DataError(
                f"--run_dir={config.run_dir}: has no {saved.name} of worker 0's; "
                "it must be on storage that all workers share"
            )
        time.sleep(1)


def _manifest(config: TrainConfig) -> bytes:
    return storage.read_bytes(storage.join(config.data, MANIFEST_NAME))
