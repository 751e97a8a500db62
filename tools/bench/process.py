"""A process of a benchmark's own: it gets ready beside the others, and works when it is its turn."""

import contextlib
import multiprocessing.util
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cxr_data.core.child_process import begin_worker
from cxr_data.core.errors import CxrError, DataError

# For a process to end once it may: the trainer saves its state.
_PATIENCE_S = 60


class Process:
    """Runs a function that says over its connection what it chose, and None when it is ready.

    Then it answers each True, until a False. A `CxrError` is an answer too, and its last one.

    Args:
      label: its name in messages.
      run: the function; it gets `arguments`, its end of the connection, and the path of its log.
      arguments: can be pickled, as `run` can.
      log: file that receives what it prints.
      environment: variables that it has beside those of this process, or in their place.

    Attributes:
      connection: to it.
      choices: what it said that it chose, once it is ready.
    """

    def __init__(
        self,
        label: str,
        run: Callable[..., None],
        arguments: tuple[Any, ...],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._label = label
        self._log = log
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=run, args=(*arguments, theirs, str(log)))
        with _environment(environment or {}):
            self._process.start()
        # It starts processes itself, so it is no daemon, which would end with this one.
        multiprocessing.util.Finalize(self, self._process.kill, exitpriority=1)
        theirs.close()
        self.choices: list[str] = []

    def wait_until_ready(self) -> None:
        """Return once it waits for its first turn. Raise CxrError as `receive`."""
        self.choices = self.receive()
        self.receive()

    def turn(self, within: float | None = None) -> Any:
        """Let it work, while the others wait, and return its answer.

        Raises:
          CxrError: as `receive`, or that it did not answer `within` so many seconds.
        """
        self.connection.send(True)
        if within is not None and not self.connection.poll(max(within, 0)):
            raise CxrError("the time limit came before the end of its turn")
        return self.receive()

    def receive(self) -> Any:
        """Return what it says next. Raise CxrError: its own, or that it ended without a word."""
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join()
            text = self._log.read_text(errors="replace") if self._log.exists() else ""
            raise DataError(
                f"{self._label} ended with exit code {self._process.exitcode}: "
                f"{' '.join(text.strip().splitlines()[-1:])[:300]}"
            ) from error
        if isinstance(answer, CxrError):
            raise answer
        return answer

    def end(self, patience: float = _PATIENCE_S) -> None:
        """End it within `patience` seconds, whatever it does."""
        with contextlib.suppress(OSError):
            self.connection.send(False)
        self._process.join(patience)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Hold variables of this process's environment while the context is open."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def begin(log: str) -> None:
    """Prepare the process that this is called in: it ends with its parent, and prints into its log."""
    begin_worker()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
