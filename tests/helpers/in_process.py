"""Commands in this process: what they print, without a start of Python and TensorFlow for each."""

import contextlib
import importlib
import io
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest
from absl import flags

_asked: list[tuple[object, ...]] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    """Notes who asks for the network: an audit hook sees all of Python, and cannot be taken away."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        _asked.append((event, *arguments))
    elif event in ("socket.connect", "socket.sendto") and not isinstance(arguments[1], str | bytes):
        _asked.append((event, *arguments[1:]))


sys.addaudithook(_note)


class Done(NamedTuple):
    """What a command came to.

    Attributes:
      network: what Python asked of the network meanwhile.
    """

    code: int
    stdout: bytes
    stderr: bytes
    network: list[tuple[object, ...]]

    @property
    def output(self) -> str:
        return (self.stdout + self.stderr).decode(errors="replace")

    @property
    def completed(self) -> subprocess.CompletedProcess[str]:
        """The same as of a process."""
        return subprocess.CompletedProcess([], self.code, self.stdout.decode(), self.stderr.decode())


def run_command(module: str, *arguments: object) -> Done:
    """Runs `module` as a command."""
    return run(lambda: importlib.import_module(module).console_main(), module, *arguments)


def run(begin: Callable[[], object], *words: object) -> Done:
    """Runs a function that ends as a command does; its flags are gone afterwards.

    Args:
      words: the command line, program name first.
    """
    _asked.clear()
    before = set(flags.FLAGS)
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape") for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*map(str, words)])
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            with pytest.raises(SystemExit) as ended:
                begin()
            for name in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, name)
    for stream in streams:
        stream.flush()
    said = (stream.buffer.getvalue() for stream in streams)
    return Done(ended.value.code, *said, list(_asked))
