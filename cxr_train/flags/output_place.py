"""Whether results can be written where the user wants them: checked before the work, not after it."""

import os
import pathlib
from collections.abc import Callable

from cxr_data.core.errors import UsageError


def prepare_output(
    flag: str,
    path: pathlib.Path,
    *,
    overwrite: bool,
    replaces: Callable[[pathlib.Path], bool] = pathlib.Path.is_file,
) -> None:
    """Make the folder of `path`, which will be written.

    Args:
      flag: that named it.
      overwrite: whether the user allowed what is there to be replaced.
      replaces: tells whether what is there is such a result, and not something else of the user's.

    Raises:
      UsageError: something is there that is not to be replaced, or nothing can be written there.
    """
    if path.exists():
        if not overwrite:
            raise UsageError(f"--{flag}={path}: is there already; pass --overwrite or choose another")
        if not replaces(path):
            raise UsageError(f"--{flag}={path}: is not what this command writes; choose another")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--{flag}={path}: {error.strerror}: {error.filename}") from error
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"--{flag}={path}: {path.parent} cannot be written in")
