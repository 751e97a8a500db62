"""TensorFlow's errors about shards, as lines that name the damage and the way out."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.core.wording import tool, typed
from cxr_data.records.manifest import Manifest

_STORE_ERRORS = (
    tf.errors.InternalError,
    tf.errors.UnknownError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.NotFoundError,
)


@contextlib.contextmanager
def clear_data_errors(manifest: Manifest, *, can_skip: bool = True) -> Iterator[None]:
    """Turn TensorFlow's errors about damaged records into one line that says what to do.

    Args:
      manifest: of the data that is read.
      can_skip: whether the command has --on_bad_record.

    Raises:
      DataError: in place of the error of a reader that runs inside of tf.data, of
        `tf.errors.DataLossError`, and of a record that does not parse.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if "Too many open files" in error.message:
            raise DataError(
                "the shards cannot all be open at once; raise the limit with ulimit -n"
            ) from error
        reason = _reason(error, manifest)
        if not reason and not manifest.is_local:
            raise _of_the_store(manifest, error) from error
        if not reason:
            raise
        raise DataError(
            f"{reason}; `python -m {tool('verify_tfrecords')} {typed(data=manifest.directory)}` lists all "
            "damage" + (", --on_bad_record=skip goes on without these records" if can_skip else "")
        ) from error


def _of_the_store(manifest: Manifest, error: tf.errors.OpError) -> Exception:
    """Return the DataError that a remote read which failed for good means, or `error` if all can be read."""
    if not isinstance(error, _STORE_ERRORS):
        return error
    try:
        # The error does not say of which object it is.
        for shard in manifest.shards:
            with storage.opened_at(manifest.path(shard)) as read_at:
                read_at(1, 0)
    except DataError as found:
        return found
    return error


def _reason(error: tf.errors.OpError, manifest: Manifest) -> str:
    """Return what is wrong with the data; empty if `error` is not about the data."""
    # Inside of a compiled function, a headline and a traceback stand around the message.
    lines = [line for line in error.message.splitlines() if line and line != "Graph execution error:"]
    marker = f"{DataError.__name__}: "
    for line in lines:
        if marker in line:  # raised by a reader inside of tf.data
            return line.split(marker, 1)[1]
    if "dataset was expected to contain" in error.message:
        # No record is damaged: a shard was cut between two, is empty, or was replaced.
        return "a shard holds fewer or more records than the manifest says"
    first = next((line[:160] for line in lines if "record" in line), lines[0][:160])
    # A GPU's library that finds no algorithm, for want of memory, is NOT_FOUND too.
    is_lost = isinstance(error, tf.errors.NotFoundError) and any(
        s.name in error.message for s in manifest.shards
    )
    if is_lost or isinstance(error, tf.errors.DataLossError):
        return f"a record is damaged or missing ({first})"
    return f"a record has another schema ({first})" if "ParseExample" in error.message else ""
