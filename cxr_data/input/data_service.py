"""A tf.data service: a dispatcher, and input workers in processes of their own, on any machines.

They read for a trainer's `served.ServedReader`.
"""

import contextlib
import logging
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import tensorflow as tf

from cxr_data.core import object_store, open_ports, runtime
from cxr_data.core.child_process import begin_worker
from cxr_data.core.errors import CxrError, UsageError, one_line
from cxr_data.core.tensorflow_private import workers_of
from cxr_data.core.wording import tool

logger = logging.getLogger(__name__)

_SPAWN = multiprocessing.get_context("spawn")
_CONNECT_SECONDS = 5.0
_HEARTBEAT_MS = 1000
_POLL_SECONDS = 0.5
_MOST_TEXT = 500
# A worker that ends so often within so few seconds each will not do better.
_MOST_QUICK_DEATHS, _QUICK_SECONDS = 3, 30.0


def target_of(address: str) -> str:
    """Return `HOST:PORT` or `grpc://HOST:PORT` as the latter. Raises UsageError if nothing answers there."""
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--data_service={address}: write grpc://HOST:PORT")
    try:
        connect(address)
    except OSError as error:
        raise UsageError(
            f"--data_service={address}: {error.strerror or error}; start "
            f"python -m {tool('data_service')} there"
        ) from error
    return f"grpc://{host}:{port}"


def connect(address: str) -> None:
    """Connect to an address and leave again. Raises OSError if nothing answers there."""
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()


class Restarts:
    """Whether a worker that has ended is started again."""

    def __init__(self) -> None:
        self._quick_deaths = 0

    def count(
        self, what: str, exit_code: int | None, reason: str, seconds: float, *, has_worked: bool
    ) -> None:
        """Count an end of the worker.

        Args:
          what: worker has ended, and how, in words.
          exit_code: of its process.
          reason: that it gave; "" for none.
          seconds: that it lived.
          has_worked: whether it worked before, under the same flags: then these are not what is wrong.

        Raises:
          UsageError: it cannot work as it was asked to, with its reason.
          CxrError: it ends again and again.
        """
        if reason and exit_code == UsageError.exit_code and not has_worked:
            raise UsageError(reason)
        self._quick_deaths = self._quick_deaths + 1 if seconds < _QUICK_SECONDS else 0
        if self._quick_deaths == _MOST_QUICK_DEATHS:
            raise CxrError(f"{what}, {_MOST_QUICK_DEATHS} times within {_QUICK_SECONDS:.0f} s each")


class DataService:
    """A dispatcher in this process and workers in processes of their own, as a context.

    A worker that ends is named and started again at its old address, which its clients try again
    until it answers.

    Args:
      port: of the dispatcher; 0 for a free one.
      workers: processes; 0 for none.
      host: under which other machines reach this one.
      dispatcher: `HOST:PORT` of another machine's, to which the workers here belong; "" for an own one.
      listen: `host`, to answer at the loopback and the addresses that `host` stands for only; `all`, at all
        of this machine.

    Raises:
      UsageError: the dispatcher does not answer, its port is taken, or this machine cannot keep the ports
        to the addresses of `host`.
    """

    def __init__(
        self, port: int, workers: int, host: str, dispatcher: str = "", listen: str = "host"
    ) -> None:
        self._host = host
        self._answers_at = open_ports.addresses_of(host) if listen == "host" else None
        self._server: Any = None
        if dispatcher:
            self.address = target_of(dispatcher).removeprefix("grpc://")
        else:
            self._server = _dispatch_server(port, self._answers_at)
            self.address = f"{host}:{_port_of(self._server)}"
        self._ports = [_free_port() for _ in range(workers)]
        self._opened = [_SPAWN.Event() for _ in self._ports]
        self._workers: list[Any] = []
        self._reasons: list[Any] = []
        self._started: list[float] = []
        self._restarts = [Restarts() for _ in self._ports]

    def __enter__(self) -> "DataService":
        for number in range(len(self._ports)):
            process, reason = self._start(number)
            self._workers.append(process)
            self._reasons.append(reason)
            self._started.append(time.monotonic())
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._workers:
            process.terminate()
        for process in self._workers:
            process.join(_CONNECT_SECONDS)
            process.kill()
        self._server = None

    @property
    def workers_reported(self) -> int:
        """Number of workers, of any machine, that have reported to the dispatcher of this one."""
        return workers_of(self._server)

    def open_ports(self) -> str:
        """Return in words at which ports and addresses this machine answers."""
        listening = open_ports.listening_at([os.getpid(), *(process.pid for process in self._workers)])
        ports = ", ".join(map(str, listening))
        if self._answers_at is None:
            return f"{ports} at all addresses of this machine"
        addresses = ", ".join(sorted(map(str, self._answers_at | open_ports.LOOPBACK)))
        return f"{ports} at {addresses}, and at no other address"

    def wait_until_ready(self) -> None:
        """Wait until every worker has reported to the dispatcher of this machine, and its port is kept to
        the addresses of `host`. Raises CxrError if one cannot.
        """

        def is_ready() -> bool:
            has_reported = self._server is None or self.workers_reported >= len(self._ports)
            return has_reported and all(event.is_set() for event in self._opened)

        while not is_ready():
            self.look()
            time.sleep(_POLL_SECONDS)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Serve until `stopped`. Raises as `look`."""
        while not stopped():
            self.look()
            time.sleep(_POLL_SECONDS)

    def look(self) -> None:
        """Start again the workers that have ended.

        Raises:
          UsageError, CxrError: as `Restarts.count`.
        """
        for number, process in enumerate(self._workers):
            if process.is_alive():
                continue
            lived = time.monotonic() - self._started[number]
            reason = _said_by(self._reasons[number])
            what = f"input worker {number} (pid {process.pid}) ended with exit code {process.exitcode}"
            what += f" ({reason})" if reason else ""
            has_worked = self._opened[number].is_set()
            self._restarts[number].count(what, process.exitcode, reason, lived, has_worked=has_worked)
            logger.info("%s after %.0f s; it is started again", what, lived)
            self._workers[number], self._reasons[number] = self._start(number)
            self._started[number] = time.monotonic()

    def _start(self, number: int) -> tuple[Any, Any]:
        """Return a new process, and the end of the pipe through which it says why it ends."""
        reason, said = _SPAWN.Pipe(duplex=False)
        port = self._ports[number]
        arguments = (self.address, self._host, port, self._answers_at, self._opened[number], said)
        process = _SPAWN.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        said.close()
        return process, reason


def _said_by(reason: Any) -> str:
    """Return why a worker that has ended could not work; "" where it did not say it."""
    with contextlib.closing(reason), contextlib.suppress(EOFError, OSError):
        return one_line(reason.recv_bytes().decode()) if reason.poll() else ""
    return ""


def _dispatch_server(port: int, answers_at: Collection[open_ports.Address] | None) -> Any:
    service = tf.data.experimental.service
    try:
        server = service.DispatchServer(service.DispatcherConfig(port=port))
    except tf.errors.OpError as error:
        raise UsageError(f"--port={port}: {error.message.splitlines()[0][:200]}") from error
    if answers_at is not None:
        open_ports.keep_to(_port_of(server), answers_at)
    return server


def _port_of(dispatch_server: Any) -> int:
    return int(dispatch_server.target.rpartition(":")[2])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _serve(
    dispatcher: str,
    host: str,
    port: int,
    answers_at: Collection[open_ports.Address] | None,
    opened: Any,
    said: Any,
) -> None:
    """Work as an input worker, until the parent ends; set the event `opened` when the port is as it stays.

    What a user can cause is no traceback: it is sent through `said`, for the parent to show.
    """
    begin_worker()
    try:
        server = _worker_server(dispatcher, host, port, answers_at)
    except (CxrError, OSError, tf.errors.OpError) as error:
        text = error.message if isinstance(error, tf.errors.OpError) else str(error)
        said.send_bytes(text.strip().partition("\n")[0][:_MOST_TEXT].encode())
        sys.exit(error.exit_code if isinstance(error, CxrError) else CxrError.exit_code)
    opened.set()
    server.join()


def _worker_server(
    dispatcher: str, host: str, port: int, answers_at: Collection[open_ports.Address] | None
) -> Any:
    runtime.keep_large_allocations()
    object_store.register_where_possible()  # the graph of a dataset may name remote shards
    service = tf.data.experimental.service
    config = service.WorkerConfig(
        dispatcher_address=dispatcher,
        worker_address=f"{host}:{port}",
        port=port,
        heartbeat_interval_ms=_HEARTBEAT_MS,
    )
    server = service.WorkerServer(config)
    if answers_at is not None:
        open_ports.keep_to(port, answers_at)
    return server


@contextlib.contextmanager
def served_here(workers: int) -> Iterator[str]:
    """Run a service whose workers are threads of this process, for tests and trials; yield its target."""
    service = tf.data.experimental.service
    answers_at = open_ports.addresses_of("localhost")
    dispatcher = _dispatch_server(0, answers_at)
    address = dispatcher.target.removeprefix("grpc://")
    servers = []
    for _ in range(workers):
        port = _free_port()
        config = service.WorkerConfig(
            dispatcher_address=address,
            worker_address=f"localhost:{port}",
            port=port,
            heartbeat_interval_ms=_HEARTBEAT_MS,
        )
        servers.append(service.WorkerServer(config))
        open_ports.keep_to(port, answers_at)
    yield dispatcher.target
    del servers
