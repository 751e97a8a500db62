"""The flag of every command that compiles: where compiled steps stay."""

import contextlib

from absl import flags

from cxr_data.commands.setting_flags import from_flags
from cxr_train.engine.placement_names import CompilationOptions


def kept_by_flags() -> contextlib.AbstractContextManager[None]:
    """Keep what is compiled in the context, as `CompilationOptions` and `--xla` say; TensorFlow is loaded."""
    from cxr_train.engine.compilation_cache import kept_compilations

    return kept_compilations(from_flags(CompilationOptions), xla=flags.FLAGS.xla)
