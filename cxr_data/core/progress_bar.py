"""The progress of long work: a bar on a terminal, one line each minute elsewhere."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from cxr_data.core.shown import one_line, raw_stream
from cxr_data.core.wording import terminal_width

LINE_SECONDS = 60.0

_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
_LINE = "{desc}: {n_fmt} of {total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left{postfix}"


def progress_bar(
    work: str,
    unit: str,
    total: int | None,
    pieces: Iterable[Any] | None = None,
    *,
    initial: int = 0,
    shown: bool = True,
    has_begun: bool = False,
) -> "tqdm[Any]":
    """Return a progress bar on stderr, which disappears when the work ends.

    Its rate and its remaining time leave out the first piece, which takes what is done only once with it:
    to compile, to start processes, to open files. Where stderr is no terminal, it is a line a minute, and
    nothing for work that ends within a minute.

    Args:
      work: what is done, as `evaluate validation`.
      unit: plural of what is counted, as `images`; `B` for bytes.
      total: how many there are; None if nobody knows.
      pieces: what to iterate over. Without them, the caller calls `update` of what is returned.
      initial: how many were done before.
      shown: whether there is any progress to be seen.
      has_begun: whether the first piece is like the others, since what is done only once is done.
    """
    kind = _Bar if sys.stderr.isatty() else _Lines
    in_bytes = unit == "B"
    bar: tqdm[Any] = kind(
        pieces,
        total=total,
        initial=initial,
        desc=one_line(work),
        unit=unit if in_bytes else f" {unit}",
        unit_scale=in_bytes,
        disable=not shown,
        has_begun=has_begun,
    )
    return bar


class _Bar(tqdm):
    def __init__(
        self, pieces: Iterable[Any] | None, *, total: int | None, has_begun: bool, **options: Any
    ) -> None:
        self._has_begun = has_begun
        # Without a total, tqdm's own format says how many and how fast.
        options = {"bar_format": _BAR if total else None, "leave": False, **options}
        super().__init__(pieces, total=total, file=raw_stream(sys.stderr), ncols=terminal_width(), **options)

    def __iter__(self) -> Iterator[Any]:
        try:
            for piece in self.iterable:
                yield piece
                self.update()
        finally:
            self.close()

    def update(self, n: float | None = 1) -> bool | None:
        """Count `n` more; time is measured from the first call."""
        if self.disable or self._has_begun or not n:
            return super().update(n)
        self._has_begun = True
        self.n += n
        self.initial = self.last_print_n = self.n
        self.start_t = self.last_print_t = self._time()
        return self.refresh()


class _Lines(_Bar):
    """The same in a log, where a bar would be a line at each move."""

    def __init__(self, pieces: Iterable[Any] | None, **options: Any) -> None:
        super().__init__(pieces, bar_format=_LINE, mininterval=LINE_SECONDS, miniters=1, **options)

    def update(self, n: float | None = 1) -> bool | None:
        """Count `n` more, and log a line if the last one is a minute old."""
        had_begun = self._has_begun
        is_due = super().update(n)
        if had_begun and is_due:
            self.fp.write(f"{self}\n")
            self.fp.flush()
        return is_due

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw nothing: there is no place on a screen."""
        return False

    def clear(self, nolock: bool = False) -> None:
        """Remove nothing."""
