"""Calls in processes of their own: whatever becomes of a call, this process goes on.

For what need not come back: the decoder of a stranger's file may hang, crash or ask for all memory. A worker
is a fresh interpreter that imports what it is to call, never the program's main module. It ends with this
process, or when its time is over where C code holds the interpreter lock. One that is idle is kept for the
next call, since a start takes half a second.
"""

import atexit
import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from cxr_data.core.child_process import PATIENCE_SECONDS, WORKER_ENVIRONMENT, cause_of_end, ends_after
from cxr_data.core.errors import CxrError, DataError

Argument = TypeVar("Argument")
Result = TypeVar("Result")

TIMEOUT = "timeout"
_POLL_SECONDS = 0.1
# A call ends a worker twice before it is given up: the first time may be another program's fault.
_TRIES = 2
# Workers that end, one after the other, before they could begin.
_MOST_FALSE_STARTS = 3
# Results that wait for that of an earlier argument.
_MOST_AHEAD = 32
_PROGRAM = f"from {__name__} import serve; serve(%d)"


@dataclass(frozen=True)
class Lost:
    """The result of a call that ended its worker at each try.

    Attributes:
      cause: `TIMEOUT`, or how the process ended, as "signal SIGSEGV".
    """

    cause: str


def call_each(
    function: Callable[[Argument], Result], arguments: Iterable[Argument], *, seconds: float, count: int = 1
) -> Iterator[Result | Lost]:
    """Yield `function(argument)` of each argument, in their order.

    Args:
      function: of a module, or a `functools.partial` of one; it and all it takes and gives can be pickled.
      arguments: of the calls.
      seconds: that a call may take.
      count: of the processes.

    Raises:
      CxrError: what a call raises.
      DataError: the processes end before they could begin.
      RuntimeError: a call raises something else, which is a defect of ours.
    """
    calls = _Calls(_Function(function, seconds, pickle.dumps((function, seconds))), count)
    try:
        yield from calls.results(arguments)
    finally:
        calls.close()


# -- the worker --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Function:
    """A function to call and the seconds that a call may take; two are the same if `pickled` is."""

    function: Callable[[Any], Any]
    seconds: float
    pickled: bytes


@dataclass(frozen=True)
class _Raised:
    error: Exception


def serve(descriptor: int) -> None:
    """Work as a process of its own: take a function, then its arguments, and answer each.

    Args:
      descriptor: of a socket; standard input ends when the other process does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the parent decides
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    connection: Connection[Any, Any] = Connection(descriptor)
    function: Callable[[Any], Any] | None = None
    seconds = 0.0
    with contextlib.suppress(EOFError, OSError):
        while True:
            content = connection.recv()
            if function is None or isinstance(content, _Function):
                function, seconds = content.function, content.seconds
                connection.send(None)  # from now on the time of a call counts
                continue
            try:
                with ends_after(seconds + PATIENCE_SECONDS):
                    answer = function(content)
            except CxrError as error:
                answer = _Raised(error)
            except Exception:  # noqa: BLE001 - a defect of ours, which the parent shows
                answer = _Raised(RuntimeError(traceback.format_exc()))
            connection.send(answer)
            content = answer = None  # nothing of this call takes memory from the next


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


# -- the caller --------------------------------------------------------------------------------


class _Worker:
    """One process, and what it was given."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.begun_with = _surroundings()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM % theirs.fileno()],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env=self.begun_with,
            )
        self.connection: Connection[Any, Any] = Connection(ours.detach())
        self.task: tuple[int, Any] | None = None
        self.since = 0.0
        self._function: _Function | None = None
        self.is_ready = False

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def give(self, function: _Function, task: tuple[int, Any]) -> None:
        """Send a call, or first its function where it has another one."""
        self.task = task
        self.is_ready = self._function is not None and self._function.pickled == function.pickled
        self._function = function
        self._send(task[1] if self.is_ready else function)

    def go_on(self) -> None:
        """Send the call, since the function is there now."""
        assert self.task is not None
        self.is_ready = True
        self._send(self.task[1])

    def _send(self, content: Any) -> None:
        self.since = time.monotonic()
        with contextlib.suppress(OSError):  # that it ended is seen when its answer is awaited
            self.connection.send(content)

    def wait_for_end(self) -> str:
        """Return how it ended."""
        return cause_of_end(self._process.wait())

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self.connection.close()


def _surroundings() -> dict[str, str]:
    """Return the environment of a worker: this process's, whose imports it finds at the same places."""
    path = os.pathsep.join(place or os.getcwd() for place in sys.path)
    return {**os.environ, **WORKER_ENVIRONMENT, "PYTHONPATH": path}


_idle: list[_Worker] = []
os.register_at_fork(after_in_child=_idle.clear)


@atexit.register
def stop_idle() -> None:
    """End the processes that wait for a call; the next call starts another one."""
    while _idle:
        _idle.pop().stop()


def _take_worker() -> _Worker:
    with contextlib.suppress(IndexError):  # another thread may take it
        worker = _idle.pop()
        if worker.is_alive and worker.begun_with == _surroundings():
            return worker
        worker.stop()
    return _Worker()


class _Calls:
    def __init__(self, function: _Function, count: int) -> None:
        self._function, self._count = function, count
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []
        self._again: deque[tuple[int, Any]] = deque()
        self._ends: Counter[int] = Counter()
        self._false_starts = 0

    def results(self, arguments: Iterable[Any]) -> Iterator[Any]:
        numbered = enumerate(arguments)
        done: dict[int, Any] = {}
        shown = 0
        while True:
            while len(self._busy) < self._count and (self._again or len(done) < _MOST_AHEAD):
                task = self._again.popleft() if self._again else next(numbered, None)
                if task is None:
                    break
                self._give(task)
            if not self._busy:
                return
            done.update(self._answers())
            while shown in done:
                yield done.pop(shown)
                shown += 1

    def _give(self, task: tuple[int, Any]) -> None:
        worker = self._idle.pop() if self._idle else _take_worker()
        self._busy.append(worker)
        worker.give(self._function, task)

    def _answers(self) -> Iterator[tuple[int, Any]]:
        ready = wait([worker.connection for worker in self._busy], _POLL_SECONDS)
        for worker in list(self._busy):
            if worker.connection in ready:
                yield from self._answer(worker)
            elif worker.is_ready and time.monotonic() - worker.since > self._function.seconds:
                yield from self._bury(worker, TIMEOUT)

    def _answer(self, worker: _Worker) -> Iterator[tuple[int, Any]]:
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):
            yield from self._bury(worker)
            return
        if isinstance(answer, _Raised):
            raise answer.error
        assert worker.task is not None
        if not worker.is_ready:
            self._false_starts = 0
            worker.go_on()
            return
        self._busy.remove(worker)
        self._idle.append(worker)
        yield worker.task[0], answer

    def _bury(self, worker: _Worker, cause: str = "") -> Iterator[tuple[int, Any]]:
        """Give up a worker that ended or hangs; its call is tried again, or lost."""
        self._busy.remove(worker)
        cause = cause or worker.wait_for_end()
        worker.stop()
        assert worker.task is not None
        if worker.is_ready:
            self._ends[worker.task[0]] += 1
        else:
            self._false_starts += 1
            if self._false_starts >= _MOST_FALSE_STARTS:
                raise DataError(
                    f"{self._false_starts} worker processes ended before they began ({cause}): read their "
                    "own error above, or free memory, which they may lack"
                )
        if self._ends[worker.task[0]] < _TRIES:
            self._again.appendleft(worker.task)
        else:
            yield worker.task[0], Lost(cause)

    def close(self) -> None:
        for worker in self._busy:  # of a caller who wants no more results
            worker.stop()
        for worker in self._idle:
            _idle.append(worker) if not _idle else worker.stop()
