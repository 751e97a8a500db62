"""The failure of one input: every reader and decoder of image files raises it, whatever went wrong below."""

from typing import Any

from cxr_data.core.errors import DataError


class Undecodable(DataError):
    """An input that cannot become a record.

    Attributes:
      reason: one word for it, a key of `sources.quarantine.REASONS`.
      detail: what exactly was found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.detail)
