"""How much memory there is, and is left: the machine's, or that of this process's control group."""

import pathlib
from collections.abc import Sequence

_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_memory(meminfo: str = "/proc/meminfo", cgroups: Sequence[tuple[str, str]] = _CGROUP_FILES) -> int:
    """Return the bytes that this process may still take: the machine's, or its control group's if less."""
    free = _of_machine(meminfo, "MemAvailable")
    return min([free, *(max(limit - usage, 0) for limit, usage in _of_groups(cgroups))])


def all_memory(meminfo: str = "/proc/meminfo", cgroups: Sequence[tuple[str, str]] = _CGROUP_FILES) -> int:
    """Return the bytes of memory of the machine, or those that its control group may take if less."""
    return min([_of_machine(meminfo, "MemTotal"), *(limit for limit, _ in _of_groups(cgroups))])


def _of_machine(meminfo: str, name: str) -> int:
    lines = dict(line.split(":", 1) for line in pathlib.Path(meminfo).read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def _of_groups(cgroups: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    """Return limit and usage, in bytes, of the control groups that have a limit."""
    found = []
    for limit_file, usage_file in cgroups:
        try:
            limit = pathlib.Path(limit_file).read_text().strip()
            usage = int(pathlib.Path(usage_file).read_text())
        except OSError:
            continue
        if limit != "max":
            found.append((int(limit), usage))
    return found
