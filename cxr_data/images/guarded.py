"""The one place where the content of an input file is looked at: header and pixels, for every command.

A function that reads files runs here in a worker process, within the limits of `Limits`, and whatever it
meets becomes an `Undecodable`, the line of that file in a ledger.
"""

import contextlib
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from cxr_data.core import isolated
from cxr_data.core.errors import UsageError
from cxr_data.core.memory_limit import memory_limit
from cxr_data.core.settings import setting
from cxr_data.images.decode import Facts
from cxr_data.images.preprocess import PixelOptions, small_image_with_facts
from cxr_data.images.source_file import read_source
from cxr_data.images.undecodable import Undecodable, too_much_memory

Input = TypeVar("Input")
Result = TypeVar("Result")

LOST = ("timeout", "decoder_crashed")
"""The reasons of files that end their worker."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one file may take; the settings of a command that reads files are a subclass.

    The memory is beside the 0.1 GB that a worker has before its first file.
    """

    image_timeout: float = setting(120.0, "Seconds that an image may take; a slower one is not used.")
    image_memory_gb: float = setting(
        2.0, "Memory that an image may take, in billions of bytes; one that needs more is not used."
    )

    def __post_init__(self) -> None:
        for name in ("image_timeout", "image_memory_gb"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise UsageError(
                    f"--{name}={value}: must be above 0 and finite; leave it out for the default"
                )

    @property
    def limits(self) -> "Limits":
        """Return these alone, for workers."""
        return Limits(image_timeout=self.image_timeout, image_memory_gb=self.image_memory_gb)

    @property
    def memory(self) -> int:
        """Return the bytes of memory."""
        return int(self.image_memory_gb * 1e9)


USUAL = Limits()
"""What holds where users have no say."""


class SourceFile(NamedTuple):
    """A file to read.

    Attributes:
      path: local or remote, links resolved.
      bytes: its size as it was found, None where it is not known.
    """

    path: str
    bytes: int | None = None


class Picture(NamedTuple):
    """What is made of a file.

    Attributes:
      pixels: uint8, [S, S] or [S, S, 3].
      facts: what the file says beside them.
      bytes: of the file.
      sha256: of these.
    """

    pixels: np.ndarray
    facts: Facts
    bytes: int
    sha256: str


# -- in a worker -------------------------------------------------------------------------------


@contextlib.contextmanager
def guarded(limits: Limits, held: int = 0) -> Iterator[None]:
    """Bound the memory of a block that looks at a file, and make whatever it raises an `Undecodable`.

    Args:
      limits: of one file.
      held: bytes of the file, which are in memory.
    """
    try:
        with memory_limit(limits.memory, held):
            yield
    except Undecodable:
        raise
    except MemoryError:
        raise too_much_memory() from None
    except Exception as error:  # decoders raise anything on damaged bytes
        raise Undecodable("damaged", f"reading it raises {type(error).__name__}") from error


def read_picture(file: SourceFile, options: PixelOptions, limits: Limits) -> Picture:
    """Read, decode and resize a file; for a process that may end of it.

    Raises:
      Undecodable: with the reason for the quarantine, and the checksum of what was read.
    """
    data = read_source(file.path, options.max_pixels, file.bytes, limits.memory)
    return decode_picture(data, options, limits)


def decode_picture(data: bytes, options: PixelOptions, limits: Limits) -> Picture:
    """Decode and resize the bytes of a file, as `read_picture` does."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        with guarded(limits, len(data)):
            return Picture(*small_image_with_facts(data, options), len(data), digest)
    except Undecodable as error:
        error.sha256 = digest
        raise


# -- of a worker -------------------------------------------------------------------------------


def read_each(
    function: Callable[[Input], Result], files: Iterable[Input], limits: Limits, count: int = 1
) -> Iterator[Result | Undecodable]:
    """Yield `function(file)` of each file in their order, or why there is none; it runs in worker processes.

    Args:
      function: as `isolated.call_each` takes it; it may raise Undecodable.
      files: paths or contents.
      limits: of one file.
      count: of the processes.
    """
    reading = functools.partial(_result_or_reason, function)
    for found in isolated.call_each(reading, files, seconds=limits.image_timeout, count=count):
        yield lost_file(found.cause, limits) if isinstance(found, isolated.Lost) else found


def read_one(function: Callable[[Input], Result], file: Input, limits: Limits) -> Result:
    """Return `function(file)`, computed in a worker process. Raises Undecodable."""
    (found,) = read_each(function, [file], limits)
    if isinstance(found, Undecodable):
        raise found
    return found


def lost_file(cause: str, limits: Limits) -> Undecodable:
    """Return the verdict on a file that ended its worker at each try; `cause` as in `isolated.Lost`."""
    if cause == isolated.TIMEOUT:
        return Undecodable(LOST[0], f"took longer than --image_timeout={limits.image_timeout:g}, twice")
    how = cause.replace("signal ", "was ended by ").replace("exit code", "ended with exit code")
    return Undecodable(
        LOST[1], f"its worker {how}, twice" + " (out of memory?)" * (cause == "signal SIGKILL")
    )


def _result_or_reason(function: Callable[[Input], Result], file: Input) -> Result | Undecodable:
    try:
        return function(file)
    except Undecodable as error:
        # Their frames hold what was decoded, which is memory that the next file may need.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return error
