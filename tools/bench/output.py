"""What all benchmarks print alike: where they ran, and their tables."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

Row = TypeVar("Row")


def machine() -> str:
    """Core that this process may use, processor, load now, Python."""
    named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = named[0].partition(":")[2].strip() if named else platform.machine()
    return (
        f"{len(os.sched_getaffinity(0))} cores ({processor}), load {os.getloadavg()[0]:.1f} at the start, "
        f"Python {platform.python_version()}"
    )


def table(rows: Sequence[Row], columns: Mapping[str, Callable[[Row], str]]) -> str:
    """Return a line a row and its heading; columns are as wide as their widest cell, numbers stand to the
    right.

    Args:
      rows: the table's rows.
      columns: by heading, the text of a row's cell.
    """
    cells = [[heading, *map(text_of, rows)] for heading, text_of in columns.items()]
    widths = [max(map(len, column)) for column in cells]
    numeric = [all(cell[:1].isdigit() or cell in ("", "-") for cell in column[1:]) for column in cells]
    return "\n".join(
        "  ".join(
            f"{cell:>{width}}" if right else f"{cell:{width}}"
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in zip(*cells, strict=True)
    )
