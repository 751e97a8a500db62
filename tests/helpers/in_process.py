"""Commands in this process: what they print, without a start of Python and TensorFlow for each."""

import contextlib
import importlib
import io
import sys
from typing import NamedTuple

import pytest
from absl import flags


class Done(NamedTuple):
    """What a command came to."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def output(self) -> str:
        return (self.stdout + self.stderr).decode(errors="replace")


def run_command(module: str, *arguments: object) -> Done:
    """Runs `module` as a command; its flags are gone afterwards, so that the next may have the same."""
    before = set(flags.FLAGS)
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape") for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *map(str, arguments)])
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            with pytest.raises(SystemExit) as ended:
                importlib.import_module(module).console_main()
            for name in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, name)
    for stream in streams:
        stream.flush()
    return Done(ended.value.code, *(stream.buffer.getvalue() for stream in streams))
