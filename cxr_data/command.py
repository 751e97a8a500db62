"""The door that every command goes through: flags in, one clear line out.

absl's own `app.run` answers a bad flag with exit code 1 and a page of help, and
shows a traceback for any exception. Users get one line instead: exit code 2 for
a wrong command line, 1 for a failure, 130 after Ctrl-C.
"""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags

from cxr_data.errors import CxrError


def _parse_flags(argv: Sequence[str]) -> None:
    """Parses `argv` into absl FLAGS; `--help` prints and exits with 0."""
    if _wants_help(argv):
        # absl prints the help while it parses, and exits with 1.
        try:
            app.parse_flags_with_usage(list(argv))
        except SystemExit:
            sys.exit(0)
    try:
        rest = flags.FLAGS(list(argv))
    except flags.Error as error:
        _fail(argv, f"{error} (--help lists the flags)", exit_code=2)
    if len(rest) > 1:
        _fail(argv, f"unexpected argument {rest[1]!r} (--help lists the flags)", exit_code=2)


def _wants_help(argv: Sequence[str]) -> bool:
    return any(word.lstrip("-").startswith(("help", "?")) for word in argv[1:] if word.startswith("-"))


def _fail(argv: Sequence[str], message: object, exit_code: int) -> NoReturn:
    program = argv[0].rsplit("/", 1)[-1].removesuffix(".py")
    one_line = " ".join(str(message).split())
    print(f"{program}: error: {one_line}", file=sys.stderr, flush=True)
    sys.exit(exit_code)


def run(main: Callable[[], int | None], argv: Sequence[str] | None = None) -> None:
    """Parses the flags, calls `main`, and exits the process with its code.

    Args:
      main: reads absl FLAGS into a frozen config and does the work; returns the
        exit code (None is 0).
      argv: the command line, program name first; `sys.argv` by default.
    """
    argv = list(sys.argv if argv is None else argv)
    app.define_help_flags()
    _parse_flags(argv)
    try:
        code = main()
    except CxrError as error:
        _fail(argv, error, error.exit_code)
    except KeyboardInterrupt:
        _fail(argv, "interrupted", exit_code=130)
    sys.exit(code or 0)
