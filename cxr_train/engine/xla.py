"""What to do where XLA cannot compile a network on a device."""

import dataclasses

import tensorflow as tf

from cxr_data.core.choice import Choice
from cxr_data.core.errors import CxrError
from cxr_train.engine.memory_errors import is_out_of_memory
from cxr_train.engine.strategy import Placement

# What TensorFlow says of an operation or a function that XLA cannot take.
_MARKS = ("on XLA_", "tf2xla", "not compilable", "XLA compilation")


def go_on_uncompiled(error: tf.errors.OpError, placement: Placement) -> tuple[Placement, Choice]:
    """Answer the failure of a compiled step: no weight has changed, since nothing ran.

    Args:
      error: what the step raised.
      placement: of the run.

    Returns:
      The placement without XLA, and the line to print, where XLA was the choice of `auto`.

    Raises:
      CxrError: XLA cannot compile the step, and the user asked for it, or there are several workers.
      tf.errors.OpError: `error`, if it is about something else.
    """
    reason = _reason(error)
    if not placement.compile or not reason:
        raise error
    chosen = placement.choice("xla")
    # After a failure, TensorFlow's workers cannot reach each other any more.
    several = placement.cluster.size > 1
    if several or not chosen.why:
        advice = "start all workers again with --xla=off" if several else "use --xla=auto or off"
        raise CxrError(
            f"--xla=on: XLA cannot compile this network on this device ({reason}); {advice}"
        ) from error
    without = Choice("xla", "off", f"XLA cannot compile this network on this device: {reason}")
    choices = tuple(without if choice is chosen else choice for choice in placement.choices)
    return dataclasses.replace(placement, compile=False, choices=choices), without


def _reason(error: tf.errors.OpError) -> str:
    """Return the line about the compilation; empty if there is none, as for a lack of memory."""
    if is_out_of_memory(error):
        return ""
    lines = (line.strip() for line in error.message.splitlines())
    return next((line[:300] for line in lines if any(mark in line for mark in _MARKS)), "")
