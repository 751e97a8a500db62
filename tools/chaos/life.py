"""A process that does some work, and what can happen to it on the way.

It is a fork of this one, which has imported everything: a try does not wait for imports, and a random moment
falls into the work.
"""

import contextlib
import os
import random
import select
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from waiting import children_of, is_running

from cxr_data.core.errors import CxrError
from tools.chaos.forked import fork_workers

# Only ends a try that would hang: many times what a slow and busy machine needs.
_HANGS_SECONDS = 600
_CRASHED = 70


class Life:
    """Some work in a process of its own, which leads a process group.

    Args:
      work: what it does. A CxrError is its exit code, any other exception is a traceback and `_CRASHED`.
      log: receives what it prints; one line that names a log is in every failure.
    """

    def __init__(self, work: Callable[[], object], log: Path) -> None:
        self._log = log
        self._begun = time.monotonic()
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _live(work, log)
        # In both processes: whichever runs first, the group is there before it is first killed.
        with contextlib.suppress(ProcessLookupError):
            os.setpgid(self.pid, self.pid)
        self._ended = os.pidfd_open(self.pid)

    @property
    def seconds(self) -> float:
        """The time since it began."""
        return time.monotonic() - self._begun

    def wait(self, seconds: float = _HANGS_SECONDS) -> int | None:
        """Return its exit code, negative for a signal; None where it has not ended within so many seconds."""
        if self._code is not None:
            return self._code
        ended = select.poll()  # `select.select` takes no descriptor above 1,023
        ended.register(self._ended, select.POLLIN)
        if ended.poll(1000 * seconds):
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._ended)
        return self._code

    def succeed(self) -> None:
        """Wait for its end. Raise AssertionError where it fails or hangs."""
        code = self.wait()
        if code is None:
            self.end()
        assert code == 0, f"{'it hangs' if code is None else f'exit code {code}'}: {self.last_line()}"

    def last_line(self) -> str:
        """Return the last line that it printed."""
        return " ".join(self._log.read_text(errors="replace").splitlines()[-1:])

    def send(self, number: int, *, group: bool) -> None:
        """Send a signal to it, or to all processes of its group."""
        (os.killpg if group else os.kill)(self.pid, number)

    def children(self) -> list[int]:
        """Return the ids of its child processes."""
        return children_of(self)

    def end(self) -> None:
        """Kill what is left of its group."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.wait()


def _live(work: Callable[[], object], log: Path) -> None:
    """Do the work in the child process, which ends here."""
    code = _CRASHED
    try:
        os.setpgid(0, 0)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        fork_workers()
        work()
        code = 0
    except CxrError as error:
        code = error.exit_code
        os.write(2, f"error: {error}\n".encode())
    except BaseException:  # noqa: BLE001 - it must not go on in the code of its parent
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def strike(life: Life, rng: random.Random) -> bool:
    """Kill a process, or freeze it for a while, alone or with its children, or kill one child.

    Returns:
      Whether the process itself is to end of it.
    """
    kind = rng.choice(("kill", "kill", "terminate", "terminate", "freeze", "kill a child"))
    group = rng.random() < 0.5
    pause = rng.uniform(0.01, 0.3)
    pick = rng.random()
    try:
        if kind == "freeze":
            life.send(signal.SIGSTOP, group=group)
            time.sleep(pause)
            life.send(signal.SIGCONT, group=group)
        elif kind == "kill a child":
            children = life.children()
            if children:
                os.kill(children[int(pick * len(children))], signal.SIGKILL)
        else:
            life.send(signal.SIGKILL if kind == "kill" else signal.SIGTERM, group=group)
    except ProcessLookupError:
        return False  # it has just ended
    return kind in ("kill", "terminate")


def have_ended(children: list[int], within: float = 60.0) -> bool:
    """Return whether processes that have lost their parent end by themselves."""
    deadline = time.monotonic() + within
    while any(map(is_running, children)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
