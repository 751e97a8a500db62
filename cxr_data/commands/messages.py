"""How a command shows what library code logs.

Library code of this project never prints. It logs, through the standard library:

    logger = logging.getLogger(__name__)
    logger.info("cache: copying %d shards", count)  # a user sees: cache: copying 3 shards
    logger.warning("%s; tried again later", error)  # a user sees: warning: ...; tried again later

A name that breaks the line, as of a hostile file, is escaped where it is an argument; text of several lines
is the message itself.

Only a command shows these lines, by `shown_messages`, which `command.run` enters. A worker process and a
program that uses the packages as a library do not: there, messages go where that program's own logging
sends them. A module that is a command itself (`python -m cxr_train.main`) prints its own results.
"""

import contextlib
import logging
import numbers
import sys
from collections.abc import Iterator
from typing import Any

from cxr_data.core.shown import one_line

_PACKAGES = ("cxr_data", "cxr_train", "tools")


@contextlib.contextmanager
def shown_messages(info_to: str = "stdout") -> Iterator[None]:
    """Show what the packages log, for the length of a block: one flushed line a message.

    INFO is shown as the bare message, WARNING and above on stderr with the level before it. A progress bar is
    moved out of the way. No other handler, such as absl's, gets these messages as well.

    Args:
      info_to: `stdout`, or `stderr` for a command whose stdout is its result. The stream is looked up for
        each message, so that `contextlib.redirect_stdout` holds for messages too.
    """
    handler = _Lines(info_to)
    loggers = [logging.getLogger(name) for name in _PACKAGES]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


class _Lines(logging.Handler):
    def __init__(self, info_to: str) -> None:
        super().__init__()
        self._info_to = info_to

    def format(self, record: logging.LogRecord) -> str:
        if not isinstance(record.args, tuple) or not record.args:
            return super().format(record)
        arguments = tuple(map(_in_one_line, record.args))
        return super().format(logging.makeLogRecord(vars(record) | {"args": arguments}))

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # here, so that a command that prints nothing starts without it

        is_warning = record.levelno >= logging.WARNING
        level = f"{record.levelname.lower()}: " if is_warning else ""
        stream = getattr(sys, "stderr" if is_warning else self._info_to)
        tqdm.write(level + self.format(record), file=stream)
        stream.flush()


def _in_one_line(argument: Any) -> Any:
    return argument if isinstance(argument, numbers.Number) else one_line(str(argument))
