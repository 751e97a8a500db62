"""Names of a package that are imported when they are first used, since TensorFlow takes seconds."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from cxr_data.core.releases import check_releases


def importer(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package.

    Args:
      package: its name.
      modules: by each name that it gives, the module that has it.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807  (it becomes one)
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        check_releases()
        return getattr(importlib.import_module(modules[name]), name)

    return __getattr__
