"""The flag of every command that compiles: where compiled steps stay."""

import functools
from collections.abc import Callable
from typing import TypeVar

from absl import flags

from cxr_data.commands.setting_flags import from_flags
from cxr_train.engine.compilation_cache import CompilationOptions, kept_compilations

Result = TypeVar("Result")


def with_kept_compilations(main: Callable[..., Result]) -> Callable[..., Result]:
    """Make a command that has the flags of `CompilationOptions` and `--xla` keep what it compiles."""

    @functools.wraps(main)
    def run(*arguments: object) -> Result:
        with kept_compilations(from_flags(CompilationOptions), xla=flags.FLAGS.xla):
            return main(*arguments)

    return run
