"""A device without enough memory: how TensorFlow says so, and one clear line for it."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from cxr_data.core.errors import OutOfMemoryError

# These are RESOURCE_EXHAUSTED too.
_OF_FILES = ("No space left", "Disk quota", "File too large", "Too many open files")
# CUDA's own refusal comes as an internal error; cuDNN's as NOT_FOUND: none of its algorithms had room.
_OF_CUDA = ("out of memory", "alloc_failed", "resource_exhausted")
_ASKED = re.compile(r"allocate ([\d.]+) ?(bytes|[KMGT]i?B)")
_UNITS = {"b": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def is_out_of_memory(error: tf.errors.OpError) -> bool:
    """Tell whether an error says that a device's memory did not suffice."""
    if any(mark in error.message for mark in _OF_FILES):
        return False
    said = error.message.lower()
    return isinstance(error, tf.errors.ResourceExhaustedError) or any(mark in said for mark in _OF_CUDA)


def bytes_asked(error: tf.errors.OpError) -> int | None:
    """Return the size of the allocation that failed; None where the error does not say."""
    found = _ASKED.search(error.message)
    return int(float(found[1]) * _UNITS[found[2][0]]) if found else None


# For whoever only predicts.
FEWER_IMAGES = "--batch_size: the device has too little memory; give fewer images in a step"


@contextlib.contextmanager
def clear_memory_errors(advice: str) -> Iterator[None]:
    """Turn a lack of device memory into one line.

    Args:
      advice: the flag that is to blame, and the way out.

    Raises:
      OutOfMemoryError: in place of `tf.errors.OpError`.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(advice) from error
