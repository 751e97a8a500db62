"""Input workers in processes of their own, on any machines: the tf.data service.

    shards -> input workers: read, shuffle, parse -> trainer: batch, and read what did not come

In an epoch the dispatcher gives each stretch of a shard to one worker, the next one that is free
(`ShardingPolicy.DYNAMIC`): every example comes once, in an order that depends on the workers'
speed. What a worker that dies had in hand is lost to the service, which says nothing of it, and for
one that does not come back its client waits for an hour. So the trainer notes what came, and when no more
comes it reads the rest of the epoch itself.
"""

import contextlib
import multiprocessing
import queue
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from cxr_data.core.child_process import begin_worker
from cxr_data.core.errors import CxrError, UsageError
from cxr_data.core.tensorflow_private import call_cancellable, cancellation_manager, workers_of

EXAMPLES_TOGETHER = 8
"""So many examples travel in one message: 12 MB of 360 px float32 images."""

PATIENCE_SECONDS = 60.0
"""So long nothing may come before the trainer reads the rest of an epoch itself. A worker that is started
anew needs about ten."""

_END_SECONDS = 2.0  # for the end of an epoch of which all came; a worker that is gone never says it
_MESSAGES_AHEAD = 2
_CONNECT_SECONDS = 5.0
_HEARTBEAT_MS = 1000
_POLL_SECONDS = 0.5
# A worker that ends so often within so few seconds each will not do better.
_MOST_QUICK_DEATHS, _QUICK_SECONDS = 3, 30.0


# -- the trainer's side ------------------------------------------------------------------------


def target_of(address: str) -> str:
    """`HOST:PORT` or `grpc://HOST:PORT` as the latter. Raises UsageError if nothing answers there."""
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--data_service={address}: write grpc://HOST:PORT")
    try:
        _connect(address)
    except OSError as error:
        raise UsageError(
            f"--data_service={address}: {error.strerror or error}; start python -m tools.data_service there"
        ) from error
    return f"grpc://{host}:{port}"


def _connect(address: str) -> None:
    """Raises OSError if nothing answers at an address."""
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()


def distributed(examples: tf.data.Dataset, target: str) -> tf.data.Dataset:
    """The same elements, each once and in any order, made by the workers of the service at `target`."""
    service = tf.data.experimental.service
    return examples.apply(service.distribute(service.ShardingPolicy.DYNAMIC, target, compression=None))


def completed(
    examples: tf.data.Dataset,
    expected: np.ndarray,
    read: Callable[[np.ndarray], tf.data.Dataset],
    target: str,
    say: Callable[[str], None] = print,
) -> tf.data.Dataset:
    """An epoch in which every expected example comes exactly once, whatever becomes of the service.

    Args:
      examples: (position int64 [b], image [b, S, S, C], label int32 [b]), for the workers to make.
      expected: int64 [N], the positions of the epoch.
      read: a dataset as `examples`, of positions int64 [n], that is read here.
      target: `grpc://HOST:PORT` of the service.
      say: is told how many examples did not come, and why.
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
            say(
                f"data service {target}: {len(left)} of {len(expected)} examples of this epoch did not come "
                f"({why}); they are read here"
            )
            yield from read(left).as_numpy_iterator()

    return tf.data.Dataset.from_generator(epoch, output_signature=examples.element_spec)


class _ServiceError(Exception):
    """The service cannot give more of an epoch."""


def _arriving(
    examples: tf.data.Dataset, target: str, patience: Callable[[], float]
) -> Generator[tuple[np.ndarray, ...], None, None]:
    """Yields what a service makes, as a thread asks and receives: TensorFlow's client waits for an hour.

    Raises:
      _ServiceError: nothing came for `patience()` seconds, or the client gave up.
    """
    try:
        _connect(target)
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
        except tf.errors.OpError as error:
            hand_over(error)

    threading.Thread(target=receive, name="data service", daemon=True).start()
    try:
        while (message := arrived.get(timeout=patience())) is not None:
            if isinstance(message, tf.errors.OpError):
                raise _ServiceError(message.message.splitlines()[0][:200]) from message
            yield message
    except queue.Empty as error:
        silence = f"nothing came for {patience():.0f} s: a worker or the dispatcher is gone or stopped"
        raise _ServiceError(silence) from error
    finally:
        given_up.set()
        asking.start_cancel()


# -- the service -------------------------------------------------------------------------------


class DataService:
    """A dispatcher in this process and workers in processes of their own, as a context.

    A worker that ends is named and started anew at its old address, which its clients try again
    until it answers.

    Args:
      port: of the dispatcher; 0 for a free one.
      workers: processes; 0 for none.
      host: under which other machines reach this one.
      dispatcher: `HOST:PORT` of another machine's, to which the workers here belong; "" for an own one.
      note: is given a line for everything a user should know.
    """

    def __init__(
        self, port: int, workers: int, host: str, dispatcher: str = "", note: Callable[[str], None] = print
    ) -> None:
        self._note = note
        self._host = host
        self._server: Any = None
        if dispatcher:
            self.address = target_of(dispatcher).removeprefix("grpc://")
        else:
            self._server = _dispatch_server(port)
            self.address = f"{host}:{self._server.target.rpartition(':')[2]}"
        self._ports = [_free_port() for _ in range(workers)]
        self._workers: list[Any] = []
        self._started: list[float] = []
        self._quick_deaths = [0] * workers

    def __enter__(self) -> "DataService":
        for port in self._ports:
            self._workers.append(self._start(port))
            self._started.append(time.monotonic())
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._workers:
            process.terminate()
        for process in self._workers:
            process.join(_CONNECT_SECONDS)
            process.kill()
        self._server = None

    def wait_until_ready(self) -> None:
        """Returns when every worker has reported to the dispatcher. Raises CxrError if one cannot."""
        while self._server is not None and workers_of(self._server) < len(self._ports):
            self.look()
            time.sleep(_POLL_SECONDS)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Serves until `stopped`. Raises CxrError if a worker ends again and again."""
        while not stopped():
            self.look()
            time.sleep(_POLL_SECONDS)

    def look(self) -> None:
        """Starts the workers anew that have ended."""
        for number, process in enumerate(self._workers):
            if process.is_alive():
                continue
            lived = time.monotonic() - self._started[number]
            self._quick_deaths[number] = self._quick_deaths[number] + 1 if lived < _QUICK_SECONDS else 0
            what = f"input worker {number} (pid {process.pid}) ended with exit code {process.exitcode}"
            if self._quick_deaths[number] == _MOST_QUICK_DEATHS:
                raise CxrError(f"{what}, {_MOST_QUICK_DEATHS} times within {_QUICK_SECONDS:.0f} s each")
            self._note(f"{what} after {lived:.0f} s; it is started anew")
            self._workers[number] = self._start(self._ports[number])
            self._started[number] = time.monotonic()

    def _start(self, port: int) -> Any:
        process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(self.address, self._host, port), daemon=True
        )
        process.start()
        return process


def _dispatch_server(port: int) -> Any:
    service = tf.data.experimental.service
    try:
        return service.DispatchServer(service.DispatcherConfig(port=port))
    except tf.errors.OpError as error:
        raise UsageError(f"--port={port}: {error.message.splitlines()[0][:200]}") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _serve(dispatcher: str, host: str, port: int) -> None:
    """An input worker's life, which ends with its parent's."""
    from cxr_data.core.runtime import start

    begin_worker()
    start()  # the graph of a dataset may name tensorflow-io's operations and file systems
    service = tf.data.experimental.service
    config = service.WorkerConfig(
        dispatcher_address=dispatcher,
        worker_address=f"{host}:{port}",
        port=port,
        heartbeat_interval_ms=_HEARTBEAT_MS,
    )
    service.WorkerServer(config).join()


@contextlib.contextmanager
def served_here(workers: int) -> Iterator[str]:
    """A service whose workers are threads of this process, for tests and trials; yields its target."""
    service = tf.data.experimental.service
    dispatcher = _dispatch_server(0)
    address = dispatcher.target.removeprefix("grpc://")
    servers = [
        service.WorkerServer(
            service.WorkerConfig(dispatcher_address=address, heartbeat_interval_ms=_HEARTBEAT_MS)
        )
        for _ in range(workers)
    ]
    yield dispatcher.target
    del servers
