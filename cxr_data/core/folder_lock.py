"""A lock on a folder, a file in it: it ends with the process that holds it, however that ends."""

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import socket
import stat
import time
from collections.abc import Iterator

from cxr_data.core.errors import DataError, one_line

logger = logging.getLogger(__name__)

# Of file systems that know no lock, as NFS without its lock daemon.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_MOST_TEXT = 200


@contextlib.contextmanager
def locked(lock: pathlib.Path, *, waits: bool = False) -> Iterator[int]:
    """Keep other processes out of the folder of the file `lock` that lock it too, on this host and, where
    the file system passes locks on, on others.

    A child may inherit the lock: where its parent was killed, it holds the lock until it has ended too.
    Where the file system has no locks, a warning says so, and nobody is kept out.

    Args:
      lock: made if it is not there. It stays, and means nothing unless it is held.
      waits: whether to wait until no other process holds it.

    Yields:
      The file descriptor to pass on.

    Raises:
      DataError: another process holds it, with its host and number; or it cannot be opened.
    """
    with _opened(lock) as descriptor:
        is_logged = False
        while not _is_taken(lock, descriptor):
            holder = holder_of(descriptor)
            if not waits:
                raise DataError(
                    f"{lock.parent} is in use by {holder} (as {lock.name} there says): wait until it has "
                    "ended, or choose another directory"
                )
            if not is_logged:
                logger.info("this process waits for %s, which is at work in %s", holder, lock.parent)
            is_logged = True
            time.sleep(1)
        name_holder(descriptor, this_process())
        yield descriptor


def this_process() -> str:
    """Return this process by its number and its host."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def name_holder(descriptor: int, holder: str) -> None:
    """Write who holds a lock into its file, for those who are kept out. A full disk is logged only: the lock
    is held all the same.
    """
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
    except OSError as error:
        logger.warning("the lock is held, but its file cannot say by whom: %s", error.strerror)


def holder_of(descriptor: int) -> str:
    """Return who holds a lock, as its file says."""
    return one_line(os.pread(descriptor, _MOST_TEXT, 0).decode(errors="replace")) or "another process"


@contextlib.contextmanager
def _opened(lock: pathlib.Path) -> Iterator[int]:
    try:
        # A folder of somebody else may have a link here to what must not be written to.
        safely = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | safely, 0o644)
    except OSError as error:
        raise DataError(f"cannot lock {lock.parent}: {lock}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise DataError(f"cannot lock {lock.parent}: {lock} is not a file of its own: remove it")
        yield descriptor
    finally:
        os.close(descriptor)


def _is_taken(lock: pathlib.Path, descriptor: int) -> bool:
    """Take the lock. Return False where another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise DataError(f"cannot lock {lock.parent}: {lock}: {error.strerror}") from error
        logger.warning(
            "the file system of %s has no locks: nothing keeps a second process out of it", lock.parent
        )
    return True
