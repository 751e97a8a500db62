"""The flags of this project among all that are defined: TensorFlow and absl define many more."""

import sys
from collections.abc import Collection, Mapping

from absl import flags


def own_flags() -> dict[str, flags.Flag]:
    """The flags that modules of this project have defined, by name."""
    found: dict[str, flags.Flag] = {}
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        # absl knows a module that is run with -m by its path.
        if module.startswith("cxr_") or module == sys.argv[0]:
            found |= {flag.name: flag for flag in defined}
    return found


def flags_text(*, leave_out: Collection[str], resolved: Mapping[str, str]) -> str:
    """A flag file that repeats this command.

    Args:
      leave_out: names of flags that are not to be repeated.
      resolved: what flags came to, by name, in place of what was given.
    """
    lines = [
        flag.serialize()
        for name, flag in own_flags().items()
        if flag.value is not None and name not in leave_out and name not in resolved
    ]
    lines += [f"--{name}={value}" for name, value in resolved.items()]
    return "\n".join(line for line in lines if line) + "\n"
