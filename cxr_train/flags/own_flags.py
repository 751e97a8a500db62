"""The flags of a training command: as a file that repeats it, and the same on all workers."""

import zlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from cxr_data.commands.command import own_flags
from cxr_data.core.errors import UsageError

if TYPE_CHECKING:
    from cxr_train.engine.strategy import Placement

# A machine may have mounted them under another name.
_PLACES = ("run_dir", "cache_dir", "compilation_cache")


def flags_text(*, leave_out: Collection[str], resolved: Mapping[str, str]) -> str:
    """Return a flag file that repeats this command.

    Args:
      leave_out: names of flags that are not to be repeated.
      resolved: what flags came to, by name, in place of what was given.

    Raises:
      UsageError: a flag holds what a line of a flag file cannot.
    """
    lines = [
        flag.serialize()
        for name, flag in own_flags().items()
        if flag.value is not None
        and name not in {*leave_out, *resolved}
        and not (name in _PLACES and flag.using_default_value)  # which is in the home of whoever repeats it
    ]
    lines += [f"--{name}={value}" for name, value in resolved.items()]
    for line in lines:
        name, _, value = line.partition("=")
        if "\n" in value or "\r" in value or value != value.encode(errors="replace").decode():
            raise UsageError(
                f"{name}: holds a line break or bytes that are not UTF-8, which the run's file of flags "
                "would repeat as something else; rename what it names"
            )
    return "\n".join(line for line in lines if line) + "\n"


def refuse_other_flags(placement: "Placement") -> None:
    """Check that all workers of a cluster have the same flags; all must call it at the same point.

    Raises:
      UsageError: one differs, or its `auto` came to something else.
    """
    values = {name: flag.serialize() for name, flag in own_flags().items() if name not in _PLACES}
    values |= {choice.flag: f"--{choice.flag}={choice.value}" for choice in placement.choices}
    digests = placement.gather(np.array([zlib.crc32(text.encode()) for text in values.values()]))
    for text, of_workers in zip(values.values(), digests.T, strict=True):
        for other in np.flatnonzero(of_workers != of_workers[0]):
            raise UsageError(
                f"{text or 'a flag that is not given here'}: differs between worker 0 and "
                f"{placement.cluster.name(other)}; start all workers with the same flags"
            )
