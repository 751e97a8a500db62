"""How much memory there is, and is left: the machine's, or that of this process's control groups."""

import pathlib
from collections.abc import Sequence

# Of versions 1 and 2 of control groups: the folder of the memory groups, the files of limit and usage.
_VERSION_1 = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
_VERSION_2 = ("", "memory.max", "memory.current")

Groups = Sequence[tuple[str, str]]


def control_groups(own: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> list[tuple[str, str]]:
    """Return the files of limit and usage of this process's memory groups, from its own up to the root.

    A job of a scheduler or of systemd has its limit in a group below the root.

    Args:
      own: what the kernel says of the groups of a process.
      root: where the groups are mounted.
    """
    try:
        lines = pathlib.Path(own).read_text().splitlines()
    except OSError:
        lines = ["0::/", "1:memory:/"]
    found = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        folder, limit, usage = _VERSION_1 if controllers else _VERSION_2
        of_group = pathlib.PurePosixPath(root, folder, group.lstrip("/"))
        above = [one for one in of_group.parents if one.is_relative_to(pathlib.PurePosixPath(root, folder))]
        found += [(str(one / limit), str(one / usage)) for one in (of_group, *above)]
    return found


def free_memory(meminfo: str = "/proc/meminfo", groups: Groups | None = None) -> int:
    """Return the bytes that this process may still take: the machine's, or its control groups' if less."""
    free = _of_machine(meminfo, "MemAvailable")
    return min([free, *(max(limit - usage, 0) for limit, usage in _of_groups(groups))])


def all_memory(meminfo: str = "/proc/meminfo", groups: Groups | None = None) -> int:
    """Return the bytes of memory of the machine, or those that its control groups may take if less."""
    return min([_of_machine(meminfo, "MemTotal"), *(limit for limit, _ in _of_groups(groups))])


def _of_machine(meminfo: str, name: str) -> int:
    lines = dict(line.split(":", 1) for line in pathlib.Path(meminfo).read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def _of_groups(groups: Groups | None) -> list[tuple[int, int]]:
    """Return limit and usage, in bytes, of the control groups that have a limit."""
    found = []
    for limit_file, usage_file in control_groups() if groups is None else groups:
        try:
            limit = pathlib.Path(limit_file).read_text().strip()
            usage = int(pathlib.Path(usage_file).read_text())
        except OSError:
            continue
        if limit != "max":
            found.append((int(limit), usage))
    return found
