"""A file system of a few pages, which no other process sees: a tmpfs in a user namespace of this process."""

import ctypes
import os
from pathlib import Path

from cxr_data.core.errors import DataError

PAGE = 4096
# Of <sched.h> and <sys/mount.h>.
_NEW_MOUNTS, _NEW_USER = 0x0002_0000, 0x1000_0000
_REMOUNT, _RECURSIVE, _PRIVATE = 0x20, 0x4000, 0x4_0000


class SmallDisk:
    """Mounts it. Call it in a process of its own that has one thread; the disk goes with the process.

    Args:
      folder: where it is mounted.
      pages: its size in pages of 4,096 bytes, beside those of its own folder.

    Raises:
      DataError: the kernel lets this user make no user namespace.
    """

    def __init__(self, folder: Path, pages: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._libc = ctypes.CDLL(None, use_errno=True)
        user, group = os.getuid(), os.getgid()
        self._check(self._libc.unshare(_NEW_USER | _NEW_MOUNTS))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        self._check(self._libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None))
        self._mount(pages, 0)

    def resize(self, pages: int) -> None:
        """Give it another size."""
        self._mount(pages, _REMOUNT)

    def _mount(self, pages: int, flags: int) -> None:
        size = f"size={pages * PAGE}".encode()
        self._check(self._libc.mount(b"tmpfs", os.fsencode(self.folder), b"tmpfs", flags, size))

    def _check(self, result: int) -> None:
        if result:
            reason = os.strerror(ctypes.get_errno())
            raise DataError(
                f"cannot mount a small disk at {self.folder}: {reason}; users need namespaces of their own"
            )
