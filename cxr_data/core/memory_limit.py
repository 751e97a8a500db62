"""A limit of the memory that this process may have, as its kernel keeps it: what is beyond is not given.

The limit is RLIMIT_DATA, which counts memory that is a process's own and can be written. An allocation beyond
it fails at once, so a decoder raises MemoryError before the machine swaps. RLIMIT_AS would count libraries
and what threads only reserve, gigabytes once TensorFlow is loaded; a watcher of the resident memory sees an
allocation only after it was filled; a cgroup needs rights that users of a cluster lack.
"""

import contextlib
import resource
from collections.abc import Iterator

_before: int | None = None


@contextlib.contextmanager
def memory_limit(more: int, held: int = 0) -> Iterator[None]:
    """Let this process have at most `more` bytes beside what it had when this function was first called.

    Where there is no /proc/self/statm, as on macOS, nothing is limited.

    Args:
      more: bytes.
      held: bytes of them that are in use already at the first call.

    Raises:
      MemoryError: inside of the block, at an allocation beyond the limit.
    """
    global _before
    if _before is None:
        _before = _data_bytes() - held
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = [limit for limit in (soft, hard, _before + more) if limit != resource.RLIM_INFINITY]
    try:
        if _before > 0:
            resource.setrlimit(resource.RLIMIT_DATA, (min(allowed), hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """Return the bytes that RLIMIT_DATA counts, 0 where the system does not say it."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[5]) * resource.getpagesize()
    except OSError:
        return 0
