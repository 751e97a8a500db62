"""Forks in place of the interpreters that `core.isolated` starts: a try does not wait for their imports."""

import os
import signal
import subprocess
import types
from collections.abc import Sequence
from typing import Any

from cxr_data.core import isolated


def fork_workers() -> None:
    """Let `isolated`, in this process, fork its workers; they end with it as those that it starts do."""
    isolated.subprocess = types.SimpleNamespace(Popen=_Forked, PIPE=subprocess.PIPE)


class _Forked:
    """What `isolated` uses of `subprocess.Popen`."""

    def __init__(self, line: Sequence[str], *, pass_fds: Sequence[int], **_: Any) -> None:
        read, write = os.pipe()
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.dup2(read, 0)
                (kept,) = pass_fds
                # The lock of the output among them, which must not outlive the process that holds it.
                os.closerange(3, kept)
                os.closerange(kept + 1, 4096)
                isolated.serve(kept)
            finally:
                os._exit(0)
        os.close(read)
        self.stdin = os.fdopen(write, "wb", buffering=0)

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self) -> int:
        code = self._ended(0)
        assert code is not None
        return code

    def kill(self) -> None:
        if self._ended(os.WNOHANG) is None:
            os.kill(self.pid, signal.SIGKILL)

    def _ended(self, options: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, options)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code
