"""The trainer's side of a tf.data service: every example of an epoch once, whatever becomes of its workers.

    shards -> input workers: read, shuffle, parse -> trainer: batch, and read what did not come

In an epoch the dispatcher gives each stretch of a shard to one worker, the next one that is free
(`ShardingPolicy.DYNAMIC`): every example comes once, in an order that depends on the workers'
speed. What a worker was reading when it died is lost to the service, which says nothing of it, and for
one that does not come back its client waits for an hour. So the trainer notes what came, and when no more
comes it reads the rest of the epoch itself.
"""

import contextlib
import dataclasses
import functools
import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from cxr_data.core.tensorflow_private import call_cancellable, cancellation_manager
from cxr_data.input.batch import as_batch
from cxr_data.input.data_service import connect, target_of
from cxr_data.input.order import Epochs
from cxr_data.input.streamed import StreamedReader
from cxr_data.records.manifest import Manifest

logger = logging.getLogger(__name__)

EXAMPLES_TOGETHER = 8
"""Examples in one message: 12 MB of 360 px float32 images."""

PATIENCE_SECONDS = 60.0
"""Seconds without any example after which the trainer reads the rest of an epoch itself. A worker that is
started again needs about ten."""

_END_SECONDS = 2.0  # for the end of an epoch of which all came; a worker that is gone never says it
_MESSAGES_AHEAD = 2
_POLL_SECONDS = 0.5


class ServedReader(StreamedReader):
    """A reader whose training batches come from the workers of a service, in an order of their own.

    It trains one process: there is one input worker.

    Args:
      manifest, split, shuffle_mb: as of `StreamedReader`; the workers must find the shards at the same place.
      address: `HOST:PORT` of the service. It must answer when the first epoch is asked for, and is done
        without when it no longer does.
    """

    is_repeatable = False

    def __init__(self, manifest: Manifest, split: str, *, shuffle_mb: int, address: str) -> None:
        super().__init__(manifest, split, shuffle_mb=shuffle_mb)
        self._address = address

    @functools.cached_property
    def _target(self) -> str:
        return target_of(self._address)

    def training_batches(self, epochs: Epochs) -> tf.data.Dataset:
        """Return the examples of `order.training_batches` as they come.

        Raises:
          UsageError: the service does not answer.
        """
        served = [self._served(epochs, number) for number in epochs.numbers]
        # What came before a stop is not known, as no two passes have the same order.
        served[0] = served[0].take(epochs.steps - epochs.first_step)
        return functools.reduce(tf.data.Dataset.concatenate, served).map(as_batch)

    def repeatable_batches(self, epochs: Epochs) -> tf.data.Dataset:
        """Return the batches that this process streams itself."""
        return super().training_batches(epochs)

    def _served(self, epochs: Epochs, number: int) -> tf.data.Dataset:
        """Return a whole epoch's batches: the columns of `as_batch`."""

        def examples(part: Epochs) -> tf.data.Dataset:
            return self._parsed(self._training_records(part, number), EXAMPLES_TOGETHER, drop_remainder=False)

        def read_here(left: np.ndarray) -> tf.data.Dataset:
            return examples(dataclasses.replace(epochs, positions=left, batch_size=1, first_step=0))

        made = examples(dataclasses.replace(epochs, first_step=0))
        whole = completed(made, epochs.batches_of(number).ravel(), read_here, self._target)
        return whole.rebatch(epochs.batch_size, drop_remainder=True)


def distributed(examples: tf.data.Dataset, target: str) -> tf.data.Dataset:
    """Return the same elements, each once and in any order, made by the workers of a service."""
    service = tf.data.experimental.service
    return examples.apply(service.distribute(service.ShardingPolicy.DYNAMIC, target, compression=None))


def completed(
    examples: tf.data.Dataset,
    expected: np.ndarray,
    read: Callable[[np.ndarray], tf.data.Dataset],
    target: str,
) -> tf.data.Dataset:
    """Return an epoch in which every expected example comes once, even if the service fails.

    Args:
      examples: the columns of `as_batch`, the position first, for the workers to make.
      expected: int64 [N], the positions of the epoch.
      read: a dataset as `examples`, of positions int64 [n], that is read here.
      target: `grpc://HOST:PORT` of the service.
    """

    def epoch() -> Iterator[tuple[np.ndarray, ...]]:
        waiting = np.zeros(int(expected.max()) + 1, bool)
        waiting[expected] = True
        why = "an input worker was lost"

        def patience() -> float:
            return PATIENCE_SECONDS if waiting.any() else _END_SECONDS

        try:
            with contextlib.closing(_arriving(examples, target, patience)) as arriving:
                for columns in arriving:
                    fresh = waiting[columns[0]]
                    waiting[columns[0]] = False
                    if fresh.any():
                        yield columns if fresh.all() else tuple(column[fresh] for column in columns)
        except _ServiceError as error:
            why = str(error)
        left = np.flatnonzero(waiting)
        if len(left):
            logger.info(
                "data service %s: %d of %d examples of this epoch did not come (%s); they are read here",
                target,
                len(left),
                len(expected),
                why,
            )
            yield from read(left).as_numpy_iterator()

    return tf.data.Dataset.from_generator(epoch, output_signature=examples.element_spec)


class _ServiceError(Exception):
    """The service cannot give more of an epoch."""


def _arriving(
    examples: tf.data.Dataset, target: str, patience: Callable[[], float]
) -> Generator[tuple[np.ndarray, ...], None, None]:
    """Yield what a service makes, as a thread asks and receives: TensorFlow's client waits for an hour.

    Raises:
      _ServiceError: nothing came for `patience()` seconds, or the client gave up.
    """
    try:
        connect(target)
    except OSError as error:
        raise _ServiceError(error.strerror or str(error)) from error
    arrived: queue.Queue[Any] = queue.Queue(_MESSAGES_AHEAD)
    given_up = threading.Event()
    # Without it, an abandoned client would stay, and warn every second of the dispatcher that it lacks.
    # It is no sign of `given_up`: TensorFlow cancels it too, when a call ends in an error.
    asking = cancellation_manager()

    def hand_over(message: Any) -> bool:
        while not given_up.is_set():
            with contextlib.suppress(queue.Full):
                arrived.put(message, timeout=_POLL_SECONDS)
                return True
        return False

    def receive() -> None:
        try:
            iterator = iter(distributed(examples, target))
            ask = tf.function(lambda: iterator.get_next()).get_concrete_function()
            while hand_over(tuple(np.asarray(column) for column in call_cancellable(ask, asking))):
                pass
        except tf.errors.OutOfRangeError:
            hand_over(None)
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            hand_over(error)

    threading.Thread(target=receive, name="data service", daemon=True).start()
    try:
        while (message := arrived.get(timeout=patience())) is not None:
            if isinstance(message, tf.errors.OpError):
                raise _ServiceError(message.message.splitlines()[0][:200]) from message
            if isinstance(message, Exception):
                raise message
            yield message
    except queue.Empty as error:
        silence = f"nothing came for {patience():.0f} s: a worker or the dispatcher is gone or stopped"
        raise _ServiceError(silence) from error
    finally:
        given_up.set()
        asking.start_cancel()
