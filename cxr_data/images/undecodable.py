"""The failure of one input: every reader and decoder of image files raises it, whatever went wrong."""

from typing import Any

from cxr_data.core.errors import DataError


class Undecodable(DataError):
    """An input that cannot become a record.

    Attributes:
      reason: one word for it, a key of `sources.quarantine.REASONS`.
      detail: what exactly was found.
      sha256: of the file's bytes, empty where they were not read.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.sha256 = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.detail), {"sha256": self.sha256}


def too_much_memory() -> Undecodable:
    """Return the verdict on a file that takes more memory than a file may."""
    return Undecodable("too_large", "it takes more memory than --image_memory_gb allows")
