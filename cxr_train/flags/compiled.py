"""What commands share that compute batches with a saved model: they keep compilations; memory may lack."""

import functools
from collections.abc import Callable
from typing import TypeVar

from absl import flags

from cxr_data.commands.setting_flags import from_flags
from cxr_train.engine.compilation_cache import CompilationOptions, kept_compilations
from cxr_train.engine.memory_errors import clear_memory_errors

Result = TypeVar("Result")

_TOO_LARGE = "--batch_size: the device has too little memory; give fewer images in a step"


def computing_batches(main: Callable[..., Result]) -> Callable[..., Result]:
    """Make a command keep what it compiles, and say in one line that a batch does not fit the device.

    Args:
      main: of a command that has the flags of `CompilationOptions`, `--xla` and `--batch_size`.
    """

    @functools.wraps(main)
    def run(*arguments: object) -> Result:
        options = from_flags(CompilationOptions)
        with kept_compilations(options, xla=flags.FLAGS.xla), clear_memory_errors(_TOO_LARGE):
            return main(*arguments)

    return run
