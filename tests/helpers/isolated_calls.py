"""Functions for worker processes, which import them from here: they crash, hang, fail or take memory."""

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_data.core.errors import DataError
from cxr_data.core.memory_limit import memory_limit

if TYPE_CHECKING:
    from cxr_data.images.guarded import Limits


def double(number: int) -> int:
    """Slower for smaller numbers, so that the first call is not the first to end."""
    time.sleep(0.1 if number == 0 else 0)
    return 2 * number


def own_process(_: object) -> int:
    """The process that the call runs in."""
    return os.getpid()


def environment_of(name: str) -> str | None:
    """A variable of the process that the call runs in."""
    return os.environ.get(name)


def end(how: int | str) -> None:
    """Ends its process by a signal or, as "exit 3", by itself; "hang" does not end at all."""
    if how == "hang":
        time.sleep(60)
    elif isinstance(how, str):
        os._exit(int(how.split()[1]))
    os.kill(os.getpid(), how)


def end_once(mark: Path) -> str:
    """Ends its process the first time."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def fail(kind: str) -> None:
    """Raises an error of the user's or of ours."""
    raise DataError("a bucket that is away") if kind == "data" else ZeroDivisionError("a defect")


def taken(megabytes: int) -> int:
    """Takes memory under a limit of 100 MB and returns how much it got."""
    with memory_limit(100_000_000):
        try:
            return len(bytearray(megabytes * 1_000_000)) // 1_000_000
        except MemoryError:
            return 0


def take(megabytes: int, limits: "Limits") -> int:
    """Takes memory in parts, which its frame holds, within the limits of a file, and returns how much."""
    from cxr_data.images.guarded import guarded  # and all decoders of images, which the others do without

    parts = []
    with guarded(limits):
        while len(parts) * 20 < megabytes:
            parts.append(bytearray(20_000_000))
    return len(parts) * 20


class EndsWhereItIsImported:
    """Ends the process that it is sent to, before anything is called."""

    def __call__(self, _: object) -> None:
        """Does nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def end_behind_the_others(argument: tuple[Path, int]) -> int:
    """Makes a mark and returns the number; number 0 ends its process once no more marks appear."""
    directory, number = argument
    if number == 0:
        before = 0
        while before < (marks := len(os.listdir(directory))) or not marks:
            before = marks
            time.sleep(0.3)
        os.abort()
    (directory / str(number)).touch()
    return number
