"""The door that every command goes through: flags in, one clear line out.

absl's own `app.run` answers a bad flag with exit code 1 and a page of help, and
shows a traceback for any exception. Users get one line instead: exit code 2 for
a wrong command line, 1 for a failure, 130 after Ctrl-C, 141 where nobody reads
what it prints any more, as in `| head`.
"""

import contextlib
import errno
import gc
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from absl import app, flags

from cxr_data.commands.loading import said_before_loading
from cxr_data.commands.messages import shown_messages
from cxr_data.core.chatter import wait_until_copied
from cxr_data.core.errors import CxrError, OutOfMemoryError
from cxr_data.core.releases import check_releases
from cxr_data.core.shown import KEYS_ELSEWHERE, holds_key, shown_streams

_OF_THE_DISK = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "name another place",
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
}
"""What to do about errors of the system that are no defect of ours, wherever they are met."""

# What Python and absl say of flags, in words that say what to write.
_IN_WORDS = (
    (r"invalid literal for int\(\).*", "must be a whole number"),
    (r"could not convert string to float.*", "must be a number, such as 0.5"),
    (r"\('Non-boolean argument to boolean flag', .*\)", "must be true or false"),
    (r"ERROR:: Unable to open flagfile: (?:\[Errno \d+\] )?(.*): '(.*)'", r"--flagfile=\2: \1"),
)


def own_flags() -> dict[str, flags.Flag]:
    """Return the flags that modules of this project have defined, by name: TensorFlow and absl define many
    more.
    """
    found: dict[str, flags.Flag] = {}
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        # absl knows a module that is run with -m by its path.
        if module.startswith(("cxr_", "tools.")) or module == sys.argv[0]:
            found |= {flag.name: flag for flag in defined}
    return found


def _parse_flags(
    argv: Sequence[str],
    main: Callable[..., int | None],
    takes_arguments: bool = False,
    passes_on: bool = False,
) -> list[str]:
    """Parse `argv` into absl FLAGS and return the other arguments; `--help` prints and exit with 0."""
    if _wants_help(argv):
        _describe_to_absl(main)
        # absl prints the help while it parses, and exits with 1.
        try:
            app.parse_flags_with_usage(list(argv))
        except SystemExit:
            sys.exit(0)
    try:
        rest = flags.FLAGS(list(argv), known_only=passes_on)
    except UnicodeDecodeError as error:
        _fail(argv, f"--flagfile: is no text ({error})", exit_code=2)
    except flags.Error as error:
        # absl: "flag --data=None: Flag --data must have a value other than None."
        missing = ", ".join(
            f"--{name} is missing" for name in re.findall(r"flag --(\w+)=None: Flag", str(error))
        )
        _fail(argv, f"{missing or flag_error_in_words(error)} (--help lists the flags)", exit_code=2)
    if len(rest) > 1 and not takes_arguments:
        _fail(argv, f"unexpected argument {rest[1]!r} (--help lists the flags)", exit_code=2)
    _refuse_keys(argv, rest[1:])
    return list(rest[1:])


def flag_error_in_words(error: Exception) -> str:
    """Return what absl says of a flag, in words that say what to write."""
    said = str(error)
    for pattern, words in _IN_WORDS:
        said = re.sub(pattern, words, said)
    return said


def _refuse_keys(argv: Sequence[str], arguments: Sequence[str]) -> None:
    """Fail if a key or password is in a flag or argument: flags are written into files, and shown to all."""
    given = {f"--{name}": str(flag.value) for name, flag in own_flags().items() if flag.present}
    for name, text in [*given.items(), *((word.partition("=")[0], word) for word in arguments)]:
        if holds_key(text):
            _fail(argv, f"{name}: {KEYS_ELSEWHERE}", exit_code=2)


def _describe_to_absl(main: Callable[..., int | None]) -> None:
    """Have `--help` show the docstring of `main`'s module and all flags of this project.

    absl shows those of the module that was started: no flag that another module defines, and nothing at all
    of an installed console command.
    """
    for flag in own_flags().values():
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    sys.modules["__main__"].__doc__ = sys.modules[main.__module__].__doc__


def _wants_help(argv: Sequence[str]) -> bool:
    return any(word.lstrip("-").startswith(("help", "?")) for word in argv[1:] if word.startswith("-"))


def _fail(argv: Sequence[str], message: object, exit_code: int) -> NoReturn:
    _say_failure(argv, message)
    sys.exit(exit_code)


def _say_failure(argv: Sequence[str], message: object) -> None:
    # A package is started by its file __main__.py.
    program = argv[0].removesuffix("/__main__.py").rsplit("/", 1)[-1].removesuffix(".py")
    one_line = " ".join(str(message).split())
    wait_until_copied()
    print(f"{program}: error: {one_line}", file=sys.stderr, flush=True)


def run(
    main: Callable[[], int | None], argv: Sequence[str] | None = None, *, info_to: str = "stdout"
) -> None:
    """Parse the flags, call `main`, show what library code logs meanwhile, and exit with `main`'s code.

    Args:
      main: reads absl FLAGS into a frozen config and does the work; returns the
        exit code (None is 0).
      argv: the command line, program name first; `sys.argv` by default.
      info_to: where messages go, `stdout` or `stderr`; see `messages.shown_messages`.
    """
    argv = list(sys.argv if argv is None else argv)
    with shown_streams(), ending_as_a_program(argv):
        app.define_help_flags()
        _parse_flags(argv, main)
        _exit_with(main, argv, info_to)


def run_with_arguments(
    main: Callable[[Sequence[str]], int | None],
    argv: Sequence[str] | None = None,
    *,
    info_to: str = "stdout",
    passes_on: bool = False,
) -> None:
    """Do as `run`, for a command that takes file names besides its flags: `main` gets them.

    With `passes_on`, `main` also gets the flags that this command does not have.
    """
    argv = list(sys.argv if argv is None else argv)
    with shown_streams(), ending_as_a_program(argv):
        app.define_help_flags()
        arguments = _parse_flags(argv, main, takes_arguments=True, passes_on=passes_on)
        _exit_with(lambda: main(arguments), argv, info_to)


def _exit_with(main: Callable[[], int | None], argv: Sequence[str], info_to: str) -> NoReturn:
    try:
        check_releases()
        with shown_messages(info_to), said_before_loading():
            code = main()
    except OutOfMemoryError as error:
        _say_failure(argv, error)
        sys.stdout.flush()
        os._exit(error.exit_code)
    except CxrError as error:
        _say_failure(argv, error)
        code = error.exit_code
        _let_go(error)
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        place = f"{error.filename}: " if error.filename else ""
        way_out = _OF_THE_DISK[error.errno]
        _say_failure(argv, f"{place}{error.strerror}; {way_out}, and run the same command again")
        code = CxrError.exit_code
        _let_go(error)
    sys.exit(code or 0)


def _let_go(error: BaseException | None) -> None:
    """Drop what the functions that an error went through still hold.

    An error that is kept, as in a future, keeps them in a circle, which would be collected when the
    interpreter ends. There, an iterator of TensorFlow waits for its threads, and these for the interpreter.
    """
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()


@contextlib.contextmanager
def ending_as_a_program(argv: Sequence[str]) -> Iterator[None]:
    """Exit with 130 after Ctrl-C in the block, and with 141 where nobody reads what it prints any more.

    Args:
      argv: the command line, program name first.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_DFL:  # by `interrupts.end_at_interrupt`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            yield
        finally:
            # Here, since the interpreter would show a traceback for what it cannot write as it ends.
            sys.stdout.flush()
    except KeyboardInterrupt as error:
        _say_failure(argv, "interrupted")
        _let_go(error)
        sys.exit(130)
    except BrokenPipeError:
        if not _discard_unread():
            raise
        sys.exit(128 + signal.SIGPIPE)
    finally:
        if before is signal.SIG_DFL:
            signal.signal(signal.SIGINT, before)  # also while the interpreter ends


def _discard_unread() -> bool:
    """Let what is still printed to a pipe without a reader go nowhere. Return whether there is one."""
    found = False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # it is none of the system's files
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
                found = True
    return found
