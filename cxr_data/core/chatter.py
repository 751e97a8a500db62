"""Keep TensorFlow's chatter off the terminal of a command, and its errors on it.

TensorFlow's C++ side writes to file descriptor 2: dozens of lines on libraries, devices and compilations,
some of them as errors ("Unable to register cuFFT factory", on every start) and some past its own log level,
by absl's logging, before that is set up. No level tells these from a real error; their text does. So a
command hands descriptor 2 to a process of its own, this file run as a program, which copies everything but
the known chatter. It reads to the end whatever becomes of the command: what TensorFlow says as it aborts is
seen. Python's `sys.stderr`, with the messages and progress bars, goes to the terminal directly. Processes
that the command starts inherit descriptor 2, and are as quiet.

`--verbosity=0` (absl's flag; 1 for more) leaves out nothing, and neither does a TF_CPP_MIN_LOG_LEVEL of the
user's own. Control characters and keys are never copied, see `shown`.
"""

import atexit
import contextlib
import dataclasses
import importlib
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_FILTERED = "CXR_STDERR_IS_FILTERED"  # set for the processes that a command starts
_EVERYTHING = "everything"
_ALL, _ERRORS, _FATAL = "0", "2", "3"
_VERBOSE = re.compile(r"--?v(?:erbosity)?[= ]\d")
_CHATTER = re.compile(
    rb"""
      \d{4}-\d\d-\d\d\ [\d:.]+:\ [IW]\                  # information and warnings of TensorFlow's own log
    | [IW]\d{4}\ \d\d:\d\d:[\d.]+\                      # and of absl's
    | WARNING:\ All\ log\ messages\ before\ absl::InitializeLog
    | .*Unable\ to\ register\ cu(?:FFT|DNN|BLAS)\ factory
    | .*\ failed\ call\ to\ cuInit:.*\(303\)           # there is no driver: TensorFlow 2.21 without a GPU
    | .*\ gpu_timer\.cc:\d+\]\ Delay\ kernel\ timed\ out
    | .*/slow_operation_alarm\.cc:\d+\]                 # "Very slow compile?", in a frame of stars
    | .*Error\ parsing\ text-format\ tensorflow\.XlaSerializedCacheEntry  # it then reads the entry as binary
    | \*{32}$ | \[Compiling\ module\ .*Very\ slow\ compile\?
    """,
    re.VERBOSE,
)
_COPIED = b"\0copied\0\n"
# How long a line's end is waited for, and the copying of the last lines, in seconds.
_LINE_SECONDS, _END_SECONDS = 0.2, 2.0


def leave_out_chatter() -> None:
    """Begin to filter descriptor 2, if this process is a command; call it before TensorFlow is imported.

    A program that uses the packages as a library keeps its standard error as it is, and sees of TensorFlow's
    log only what ends the process, unless it says otherwise.
    """
    from cxr_data.core.interrupts import is_command  # here, since this file is run as a program too

    if _FILTERED in os.environ:  # this process was started by a command
        return
    if not is_command(sys.argv[0]):
        os.environ.setdefault(_LEVEL, _FATAL)
    elif _LEVEL in os.environ or _VERBOSE.search(" ".join(sys.argv[1:])):
        os.environ.setdefault(_LEVEL, _ALL)
        filter_stderr(_EVERYTHING)
    else:
        os.environ[_LEVEL] = _ERRORS
        filter_stderr()


@dataclasses.dataclass(frozen=True)
class _Filter:
    """The process that copies descriptor 2, and a descriptor of what that was before."""

    process: subprocess.Popen[bytes]
    terminal: int
    everything: bool


_filter: _Filter | None = None


def filter_stderr(*what: str) -> None:
    """Start a process that copies descriptor 2 without the chatter, until its last writer ends.

    Args:
      *what: `everything`, for the chatter too.
    """
    global _filter
    try:
        terminal = os.dup(2)
    except OSError:  # it is closed, and nothing is shown anyway
        return
    reading, writing = os.pipe()
    # In a session of its own: Ctrl-C is for the command.
    line = [sys.executable, "-I", "-S", __file__, *what]
    process = subprocess.Popen(line, stdin=reading, stdout=subprocess.PIPE, start_new_session=True)
    os.close(reading)
    os.dup2(writing, 2)
    os.close(writing)
    before = sys.stderr
    sys.stderr = open(  # noqa: SIM115  (open to the end)
        terminal, "w", buffering=1, encoding=before.encoding, errors=before.errors, closefd=False
    )
    _filter = _Filter(process, terminal, everything=bool(what))
    os.environ[_FILTERED] = "1"
    process.returncode = 0  # nobody waits for it: it ends with its last writer, maybe after this process
    atexit.register(wait_until_copied)


def wait_until_copied() -> None:
    """Return once all that was written to descriptor 2 is shown, and what is shown next comes after it."""
    if _filter is None:
        return
    assert _filter.process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # somebody has ended the process that copies
        os.write(2, _COPIED)
    if select.select([_filter.process.stdout], [], [], _END_SECONDS)[0]:
        os.read(_filter.process.stdout.fileno(), len(_COPIED))


def unfiltered() -> dict[str, Any]:
    """Return the arguments of `subprocess.Popen` for a command that is to show its own progress bars.

    It inherits the terminal, and leaves the chatter out itself.
    """
    if _filter is None:
        return {}
    ours = {_FILTERED} if _filter.everything else {_FILTERED, _LEVEL}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return {"stderr": _filter.terminal, "env": environment}


def without_chatter(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines, each with its end, that are not chatter, nor an empty line after it."""
    was_chatter = False
    for line in lines:
        was_chatter = bool(_CHATTER.match(line)) or (was_chatter and not line.strip())
        if not was_chatter:
            yield line


def _lines() -> Iterator[bytes]:
    """Yield the lines of standard input as they come; a line that is not ended is given up soon, as it is."""
    rest = b""
    while True:
        readable, _, _ = select.select([0], [], [], _LINE_SECONDS if rest else None)
        more = os.read(0, 1 << 16) if readable else b""
        *lines, rest = re.split(rb"(?<=\n)", rest + more) if more else (rest, b"")
        yield from filter(None, lines)
        if readable and not more:
            return


def _copy(everything: bool, shown: Callable[[str], str]) -> None:
    for line in _lines() if everything else without_chatter(_lines()):
        os.write(2, shown(line.removesuffix(_COPIED).decode(errors="surrogateescape")).encode())
        if line.endswith(_COPIED):
            os.write(1, _COPIED)


if __name__ == "__main__":
    sys.path.append(os.path.dirname(__file__))  # the module beside this one, and not the whole project
    _copy(_EVERYTHING in sys.argv, importlib.import_module("shown").shown)
