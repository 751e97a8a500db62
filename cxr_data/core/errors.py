"""Errors that a user can cause, each one clear line and an exit code.

Library code raises these; `cxr_data.commands.command.run` turns them into one line on
stderr and the exit code. Anything else that escapes is a defect of ours and
keeps its traceback.
"""

from cxr_data.core.shown import one_line as one_line  # for those that quote a name in an error


class CxrError(Exception):
    """A failure that the user can repair: bad data, a full disk, a missing file.

    The message is one line that names the file, record or flag and says what to do.
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
