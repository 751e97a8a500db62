"""The process: the cores and open files it may use, and how its allocator keeps image-sized blocks."""

import ctypes
import os
import resource
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# The largest that glibc takes for M_MMAP_THRESHOLD on 64 bits (HEAP_MAX_SIZE / 2).
_LARGEST_KEPT_ALLOCATION = 32 << 20
_TRIM_THRESHOLD = 1 << 30
# For what else a process opens: libraries, checkpoints, sockets. A quarter of the limit where that is less.
_SPARE_FILES = 256


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def let_open(files: int) -> int:
    """Raise this process's limit of open files by a number of files, as far as the system allows.

    Returns:
      The descriptor from which on a file must be closed again at once, to leave some for all else.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    if files > soft // 4:
        soft = soft + files if hard == resource.RLIM_INFINITY else min(soft + files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft - min(_SPARE_FILES, soft // 4)


def keep_large_allocations() -> bool:
    """Let malloc keep and reuse image-sized blocks instead of mapping a new one each time.

    glibc gives every block above 128 kB its own mmap, and a page fault for each
    4 kB of it; a 360x360x3 float32 image is 1.5 MB. Raising the two thresholds
    gives 10 to 70 % more records a second.

    Returns:
      False where the C library has no mallopt (not glibc); nothing is lost then.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_ALLOCATION) and mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
    )
