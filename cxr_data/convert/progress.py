"""The progress of a conversion, for users on the terminal and for programs by `--log_json`."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tqdm import tqdm

from cxr_data.convert.workers import Counters
from cxr_data.core.errors import UsageError
from cxr_data.core.progress_bar import progress_bar
from cxr_data.core.shown import one_line, without_keys
from cxr_data.core.wording import terminal_width, wrapped


class Progress:
    """Lines, a bar, and JSON lines.

    Args:
      log_json: a file for JSON lines, "-" for stdout, "" for none.
      quiet: no bar and no lines.
    """

    def __init__(self, log_json: str = "", quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None
        self._started = time.monotonic()
        self._logged = 0.0
        self._log: IO[str] | None = None
        if log_json == "-":
            self._log = sys.stdout
        elif log_json:
            try:
                self._log = Path(log_json).open("a", encoding="utf-8")  # noqa: SIM115 - closed in __exit__
            except OSError as error:
                raise UsageError(f"--log_json={log_json}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.event("failed", error=str(error) or type(error).__name__)
        self._close_bar()
        if self._log is not None and self._log is not sys.stdout:
            self._log.close()

    def say(self, line: str, rest: str = "  ") -> None:
        """Show a line, above the bar if there is one; what is too wide goes on below, after `rest`."""
        if not self._quiet:
            shown = one_line(line)
            is_wide = len(shown) > terminal_width()
            tqdm.write(wrapped(shown, rest=rest) if is_wide else shown, file=sys.stderr)

    def event(self, name: str, **values: object) -> None:
        """Log an event for programs."""
        if self._log is not None:
            seconds = round(time.monotonic() - self._started, 3)
            self._log.write(without_keys(json.dumps({"event": name, "seconds": seconds, **values})) + "\n")
            self._log.flush()

    def start(self, images: int) -> None:
        """Begin the bar."""
        self._started = time.monotonic()
        self._bar = progress_bar("convert", "images", images, shown=not self._quiet)

    def tick(self, counters: Counters) -> None:
        """Move the bar to the number of images that the workers have finished."""
        seconds = time.monotonic() - self._started
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"{counters.written / 1e6 / max(seconds, 1e-9):.0f} MB/s, {counters.quarantined} quarantined",
                refresh=False,
            )
            self._bar.update(counters.images - self._bar.n)
        if seconds - self._logged >= 1:
            self._logged = seconds
            self.event("progress", **vars(counters))

    def finish(self, rows: Sequence[tuple[str, str]]) -> None:
        """End the bar and show the final table."""
        self._close_bar()
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            self.say(f"{name:{width}}  {value}", rest=" " * (width + 2))

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
