"""The header of a DICOM file, read so that no value in it can do harm or reach a log.

pydicom converts a value when it is first asked for, and may raise anything then; its warnings and log lines
quote values, which may be the names of patients. So nothing here asks it but through `Header`, and it is
silenced for the whole process: a filter for the length of a block would not hold with several threads.
"""

import io
import logging
import math
import warnings
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

from cxr_data.images.undecodable import Undecodable

Value = TypeVar("Value")

LARGEST_INFLATED = 1 << 30
"""Bytes of a deflated file that no image needs; a larger one is refused before it is in memory."""

# Bytes of a deflated stream that are looked at together, and what these may inflate to.
_PART, _LARGEST_PART = 1 << 14, 1 << 20

warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
logging.getLogger("pydicom").propagate = False


class Header:
    """Values of a header by keyword. What is absent, empty or cannot be converted is None or a default.

    Attributes:
      dataset: pydicom's Dataset, whose values may raise when they are asked for.
      defaults: the keywords for which a default was taken, though the standard requires a value.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.defaults: set[str] = set()

    def has(self, keyword: str) -> bool:
        """Return whether the element is there, whatever it holds."""
        return keyword in self.dataset

    def value(self, keyword: str) -> Any:
        """Return the value as pydicom converts it, or None."""
        value: Any = value_or(None, lambda: self.dataset.get(keyword))
        return None if value_or(True, lambda: hasattr(value, "__len__") and not len(value)) else value

    def raw(self, keyword: str) -> bytes:
        """Return the bytes of an element that cannot be converted."""
        value = value_or(b"", lambda: self.dataset.get_item(keyword).value)
        return value if isinstance(value, bytes) else b""

    def text(self, keyword: str) -> str:
        """Return a value as text without blanks around it, "" for none."""
        return value_or("", lambda: str(self.value(keyword) or "").strip())

    def numbers(self, keyword: str) -> list[float]:
        """Return the finite numbers of a value, which may be one or several; empty for none."""
        value = self.value(keyword)
        values = value if _is_several(value) else [value]
        return [number for number in map(_number, values) if math.isfinite(number)]

    def whole(self, keyword: str) -> int | None:
        """Return the first number of a value if it is a whole one, else None."""
        found = self.numbers(keyword)
        return int(found[0]) if found and found[0] == int(found[0]) else None

    def whole_or(self, keyword: str, default: int) -> int:
        """Return `whole`, or `default` where there is none: that is noted."""
        found = self.whole(keyword)
        if found is None:
            self.defaults.add(keyword)
            return default
        return found

    def items(self, keyword: str) -> list["Header"]:
        """Return the items of a sequence, empty for none."""
        return value_or([], lambda: [Header(item) for item in self.value(keyword) or ()])

    def representation(self, keyword: str) -> str:
        """Return the VR of an element, "" where it has none."""
        return value_or("", lambda: str(self.dataset[keyword].VR))


def value_or(default: Value, ask: Callable[[], Value]) -> Value:
    """Return what `ask` does, or a default where pydicom raises an error, as it may on damaged bytes.

    Raises:
      MemoryError: the limit of the memory ends the whole file, not one of its values.
    """
    try:
        return ask()
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - see above
        return default


def _is_several(value: Any) -> bool:
    return not isinstance(value, str | bytes) and hasattr(value, "__iter__")


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, ArithmeticError):
        return math.nan


def read_header(data: bytes, with_pixels: bool = False) -> Header:
    """Return the header of a file, without the pixels unless they are wanted.

    Raises:
      Undecodable: it is no DICOM file.
    """
    import pydicom  # half a second that no other format needs

    # pydicom inflates all of a deflated file at once, wherever in it that syntax is said.
    vars(pydicom.filereader)["zlib"] = _BoundedZlib
    try:
        # force: some archives leave out the 128-byte preamble; decode.sniff has looked already.
        dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=not with_pixels, force=True)
    except (Undecodable, MemoryError):
        raise
    except Exception as error:  # pydicom raises anything on damaged bytes
        raise Undecodable("damaged", "the DICOM header cannot be read") from error
    return Header(dataset)


class _BoundedZlib:
    """What pydicom uses of zlib, for files that inflate to at most `LARGEST_INFLATED` bytes."""

    MAX_WBITS = zlib.MAX_WBITS

    @staticmethod
    def decompress(data: bytes, wbits: int) -> bytes:
        return zlib.decompress(data, wbits, max(_inflated_bytes(data, wbits), 1))


def _inflated_bytes(data: bytes, wbits: int) -> int:
    """Return how large a stream is, of which only a part is in memory. Raises Undecodable if too large."""
    stream = zlib.decompressobj(wbits)
    size = 0
    for start in range(0, len(data), _PART):
        rest = data[start : start + _PART]
        while rest and not stream.eof:
            size += len(stream.decompress(rest, _LARGEST_PART))
            rest = stream.unconsumed_tail
            if size > LARGEST_INFLATED:
                raise Undecodable("too_large", f"a deflated DICOM file of more than {LARGEST_INFLATED} bytes")
    return size
