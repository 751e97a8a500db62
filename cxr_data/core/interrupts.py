"""Ctrl-C while a command of this project starts: it ends the process without a traceback."""

import os
import signal
import sys
import threading

_COMMANDS = "cxr-"


def is_command(program: str) -> bool:
    """Return whether a process whose packages are being imported is a command, by its `sys.argv[0]`.

    `python -m` imports the packages above a module before it knows the module's path.
    """
    return program == "-m" or os.path.basename(program).startswith(_COMMANDS)


def end_at_interrupt() -> None:
    """Let Ctrl-C end this process at once, if it is a command, until `command.run` answers it.

    Python's own handler would show where the imports were interrupted.
    """
    is_pythons = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_pythons and is_command(sys.argv[0]) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
