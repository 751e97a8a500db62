"""Words for people: lines of the terminal's width, the right plural, a capital letter."""

import pathlib
import shlex
import shutil
import textwrap
from collections.abc import Sequence

from cxr_data.core.shown import one_line

WIDEST = 100
"""Columns of a line where there is no terminal, and the most that one has."""

_UNBROKEN = "\0"  # no blank for textwrap


def terminal_width() -> int:
    """Return the columns that a line may have: those of the terminal, at most `WIDEST`."""
    return min(shutil.get_terminal_size((WIDEST, 24)).columns or WIDEST, WIDEST)


def wrapped(text: str, first: str = "", rest: str | None = None) -> str:
    """Break a text at blanks into lines of the terminal's width; a longer word stays whole.

    Args:
      text: one paragraph; a line break in it is part of a name, and is shown as such. A command at its
        end, from `python -m` on, stays whole, so that it can be pasted.
      first: what the first line begins with.
      rest: what each further line begins with; as many blanks as `first` has by default.
    """
    rest = " " * len(first) if rest is None else rest
    width = max(terminal_width(), len(rest) + 20)
    before, command, after = one_line(text).partition("python -m ")
    text = before + (command + after).replace(" ", _UNBROKEN)
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(_UNBROKEN, " ") or first.rstrip()


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number and its noun: `1 picture`, `2,000 pictures`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def byte_size(count: float) -> str:
    """Return a number of bytes with its unit, a power of 1000: `950 bytes`, `48.2 MB`, `1.56 GB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{count:.0f} bytes"


def listed(names: Sequence[str], most: int = 8) -> str:
    """Return the first names, and how many more there are: `a, b and 12 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def capitalized(text: str, kept: Sequence[str] = ()) -> str:
    """Return a sentence with a capital at its head, unless it begins with a name that is `kept` as it is."""
    return text if text.startswith(tuple(kept)) else f"{text[:1].upper()}{text[1:]}"


def typed(**flags: object) -> str:
    """Return flags as they are typed after a command: `--data='my shards' --split=test`."""
    return " ".join(f"--{name}={shlex.quote(str(value))}" for name, value in flags.items())


def tool(name: str) -> str:
    """Return the module of a command of the data engine, for `python -m`.

    Args:
      name: as `make_tfrecords`. In a checkout it is a module of `tools`, which is not installed.
    """
    checkout = pathlib.Path(__file__).parents[2]
    in_checkout = checkout.resolve() == pathlib.Path.cwd() and (checkout / "tools" / f"{name}.py").is_file()
    return f"tools.{name}" if in_checkout else f"cxr_data.commands.{name}"
