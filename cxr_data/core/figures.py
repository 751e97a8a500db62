"""Figures of matplotlib as files; whoever draws imports matplotlib, this file does not."""

import io
import warnings
from typing import Any


def plain(text: str) -> str:
    """Escape in a name what matplotlib would interpret: a dollar sign begins a formula."""
    return text.replace("$", r"\$")


def figure_bytes(figure: Any, **options: Any) -> bytes:
    """Return a figure as the bytes of a file.

    Args:
      figure: a `matplotlib.figure.Figure`.
      options: those of its `savefig`, such as `format="png"`.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that matplotlib's font lacks: a box in a PNG, and of an SVG the browser has it.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, **options)
    return buffer.getvalue()
