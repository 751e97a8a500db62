"""The line that a command says before it loads TensorFlow, which takes seconds.

No command loads it before its command line is known to be right: the modules of flags and settings do not
import it, and a command imports what does inside of its `main`.
"""

import contextlib
import importlib.abc
import logging
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

logger = logging.getLogger(__name__)

_SLOW = ("tensorflow", "keras")


@contextlib.contextmanager
def said_before_loading() -> Iterator[None]:
    """Log one line when TensorFlow is first imported in the block, whatever module imports it."""
    watch = _Watch()
    sys.meta_path.insert(0, watch)
    try:
        yield
    finally:
        watch.end()


class _Watch(importlib.abc.MetaPathFinder):
    """Finds no module: Python asks it first for each one that is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in _SLOW:
            self.end()
            logger.info("loading TensorFlow")
        return None

    def end(self) -> None:
        # Another list, since Python may be reading this one.
        sys.meta_path = [finder for finder in sys.meta_path if finder is not self]
