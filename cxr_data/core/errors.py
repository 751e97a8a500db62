"""Errors that a user can cause, each one clear line and an exit code.

Library code raises these; `cxr_data.commands.command.run` turns them into one line on
stderr and the exit code. Anything else that escapes is a defect of ours and
keeps its traceback.
"""


class CxrError(Exception):
    """A failure that the user can act on: bad data, a full disk, a lost file.

    The message is one line that names the file, record or flag and the way out.
    """

    exit_code = 1


class UsageError(CxrError):
    """The command line is wrong: an unknown value, a missing or clashing flag."""

    exit_code = 2


class DataError(CxrError):
    """A file, shard, record or manifest is not what it should be."""


class OutOfMemoryError(CxrError):
    """A device has too little memory.

    TensorFlow may abort a process that ends in order after it, so that a command ends at once.
    """


def one_line(text: str) -> str:
    """Escape every character of a text that is not visible, such as those of the name of a file.

    These may be line breaks, the controls of a terminal, and bytes that are not UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
