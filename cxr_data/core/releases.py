"""The releases of TensorFlow and Keras with which the tests pass."""

import functools
import re
from importlib.metadata import PackageNotFoundError, version

from cxr_data.core.errors import UsageError

_PINNED = {"tensorflow": ("2.17", "2.22", "2.17.1, or 2.21.0"), "keras": ("3.10", "4", "3.15.1")}
# Keras before 3.10 gives other weights, or another loss, on several replicas: seen of 3.3.3, 3.6.0, 3.9.2.


@functools.cache
def check_releases() -> None:
    """Refuse a TensorFlow or Keras that another program has put into this environment.

    Raises:
      UsageError: it is too old or too new; how to get one that was tested.
    """
    for package, (first, beyond, tested) in _PINNED.items():
        try:
            found = version(package)
        except PackageNotFoundError:  # it is built into another package, as tensorflow-cpu
            continue
        if not _numbers(first) <= _numbers(found) < _numbers(beyond):
            raise UsageError(
                f"{package} {found} is installed, and this project needs {first} or newer, below {beyond}: "
                f'pip install "{package}>={first},<{beyond}" (tested: {tested})'
            )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])
