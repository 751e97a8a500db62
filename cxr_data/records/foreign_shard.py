"""One file of records that another program wrote: what its scan checks, and what it sees.

The scan reads every value, and refuses what it would otherwise have to guess.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cxr_data.core.local_store import sha256_of
from cxr_data.core.wording import tool
from cxr_data.images.decode import sniff
from cxr_data.records.example import Example, Fields
from cxr_data.records.index import scan_shard
from cxr_data.records.manifest import Shard
from cxr_data.records.tfrecord import MOST_BESIDES_PIXELS
from cxr_data.records.value_range import UNIT, check_range, in_unit_range


@dataclass(frozen=True)
class Stored:
    """How the pixels of the records are stored, as the user says.

    Attributes:
      size: height and width of every image, in pixels.
      channels: 1 or 3.
      dtype: one of `example.DTYPES`; float32 must be a FloatList, the others one bytes value.
      value_range: of floats, one of `VALUE_RANGES`.
    """

    size: int
    channels: int
    dtype: str
    value_range: tuple[float, float] = UNIT

    @property
    def payload_bytes(self) -> int:
        """Bytes of the pixels of one image."""
        return self.size**2 * self.channels * np.dtype(self.dtype).itemsize

    @property
    def is_float(self) -> bool:
        """Whether the pixels are floats; uint8 is in [0, 255]."""
        return np.issubdtype(np.dtype(self.dtype), np.floating)


@dataclass
class Scanned:
    """What a scan has seen of one file.

    Attributes:
      fields: of every record, each with an id and a group.
      unnamed: how many records have no id.
      low, high: the range of all values.
      sums, squares: of the pixels in [0, 1], float64 [channels], and of their squares.
    """

    fields: list[Fields] = field(default_factory=list)
    unnamed: int = 0
    low: float = np.inf
    high: float = -np.inf
    sums: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0


def scan_file(
    path: Path, split: str, stored: Stored, class_names: Sequence[str], *, findings: int
) -> tuple[Shard, np.ndarray, Scanned]:
    """Scan a file of records.

    Args:
      path, split: of the file.
      stored: how its pixels are stored.
      class_names: in the order of the label values; or the findings, in the order of `labels`.
      findings: how many findings a record has; 0 where it has one class.

    Returns:
      Its entry in the manifest, its rows of the index (without the number of the shard), and what was seen.

    Raises:
      DataError: a record is damaged, or is not what the arguments say.
    """
    seen = Scanned()

    def check(record: Example, data: memoryview) -> None:
        if not findings:
            _check_class(record.fields.label, class_names)
        _take(record, data, stored, f"{split}/{path.name}", seen)

    largest = stored.payload_bytes + MOST_BESIDES_PIXELS
    rows = scan_shard(path, check, findings=findings, largest=largest)
    return Shard(path.name, split, len(rows), path.stat().st_size, sha256_of(path)), rows, seen


def _check_class(label: int, class_names: Sequence[str]) -> None:
    if not 0 <= label < len(class_names):
        raise ValueError(
            f"it has label {label}, there are {len(class_names)} classes ({', '.join(class_names)}): the "
            "label is the position in --classes, from 0"
        )


def _take(record: Example, data: memoryview, stored: Stored, place: str, seen: Scanned) -> None:
    """Check one record, and add it to what was seen. Raises ValueError: it is not what the flags say."""
    _check_form(record, data, stored)
    values = np.frombuffer(data, stored.dtype).reshape(-1, stored.channels)
    low, high = float(values.min()), float(values.max())
    if stored.is_float:
        check_range(low, high, stored.value_range)
    seen.unnamed += not record.fields.id.strip()
    seen.fields.append(record.fields.named(place, len(seen.fields)))
    seen.low, seen.high = min(seen.low, low), max(seen.high, high)
    pixels = in_unit_range(values, stored.value_range) if stored.is_float else values / np.float32(255)
    seen.sums = seen.sums + pixels.sum(axis=0, dtype=np.float64)
    seen.squares = seen.squares + np.square(pixels, dtype=np.float64).sum(axis=0)


def _check_form(record: Example, data: memoryview, stored: Stored) -> None:
    must_be_floats = stored.dtype == "float32"
    if record.payload_bytes == stored.payload_bytes and record.is_float_list == must_be_floats:
        return
    held = "a FloatList" if record.is_float_list else "one bytes value"
    encoded = None if record.is_float_list else sniff(bytes(data[:132]))
    if encoded:
        raise ValueError(
            f"feature 'image' is a {encoded} file, and must be its pixels: decode it before it is written, "
            f"or convert the image files with python -m {tool('make_tfrecords')}"
        )
    wanted = "a FloatList" if must_be_floats else "one bytes value"
    raise ValueError(
        f"feature 'image' holds {held} of {record.payload_bytes} bytes, not {wanted} of the "
        f"{stored.payload_bytes} bytes that --size={stored.size}, --channels={stored.channels} and "
        f"--dtype={stored.dtype} say"
    )
