"""The picture of a DICOM file as its header asks to show it, in 8 bits, white for dense.

    header -> stored values -> modality LUT or rescale -> VOI LUT or window, or a range -> inversion

in the standard's order (PS3.4 N.2.1). A linear rescale moves no grey level where no window follows, so the
range of a picture without one is that of its stored values, by the same rule as for other formats.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cxr_data.images import assumed
from cxr_data.images.decode import check_pixels
from cxr_data.images.dicom_frame import Layout, first_frame, layout_of
from cxr_data.images.dicom_header import Header, read_header
from cxr_data.images.undecodable import Undecodable
from cxr_data.images.value_range import high_8_bits, mapped, to_8_bits, usual_depth


class Look(NamedTuple):
    """A decoded file.

    Attributes:
      pixels: uint8, [H, W] for monochrome, [H, W, 3] for colour.
      layout: of the file.
      assumed: letters of what was assumed, see `assumed.WORDS`.
    """

    pixels: np.ndarray
    layout: Layout
    assumed: str


def decode_dicom(data: bytes, max_pixels: int) -> Look:
    """Decode the first frame.

    Args:
      data: the whole file.
      max_pixels: larger images are refused before their pixels are touched.

    Raises:
      Undecodable: with the reason for the quarantine.
    """
    header = read_header(data, with_pixels=True)
    if not header.has("Rows"):
        header = read_header(data)  # of a file that is cut off in its pixels, pydicom keeps nothing
    layout = layout_of(header)
    check_pixels(layout.columns, layout.rows, max_pixels)
    stored, photometric = first_frame(header, layout)
    notes: set[str] = set()
    if photometric == "PALETTE COLOR":
        pixels = _through_palette(header, stored, notes)
    elif photometric.startswith("MONOCHROME"):
        pixels = _monochrome(header, layout, stored, notes)
    else:
        pixels = _color(layout, stored, notes)
    if header.defaults:
        notes.add(assumed.DEFAULT)
    return Look(pixels, layout, "".join(letter for letter in assumed.WORDS if letter in notes))


def _color(layout: Layout, stored: np.ndarray, notes: set[str]) -> np.ndarray:
    if layout.signed:
        raise Undecodable("unsupported", "a DICOM image of signed colours")
    if layout.stored <= 8:
        return stored.astype(np.uint8)
    notes.add(assumed.RANGE)
    return high_8_bits(stored, usual_depth(int(stored.max(initial=0)), layout.stored))


# -- monochrome --------------------------------------------------------------------------------


def _monochrome(header: Header, layout: Layout, stored: np.ndarray, notes: set[str]) -> np.ndarray:
    padding = _padding(header, layout, stored)
    picture = stored if padding is None else stored[~padding]
    to_gray = _grays(header, layout, picture, notes)
    if layout.photometric == "MONOCHROME1":
        gray = mapped(stored, lambda values: 255 - to_gray(values))
    else:
        gray = mapped(stored, to_gray)
    if padding is not None:
        gray[padding] = 0
    return gray


def _padding(header: Header, layout: Layout, stored: np.ndarray) -> np.ndarray | None:
    """Return where the pixels are padding, bool [H, W], or None where there is none."""
    value = header.whole("PixelPaddingValue")
    if value is None:
        return None
    limit = header.whole("PixelPaddingRangeLimit")
    ends = [_as_stored(end, layout) for end in (value, value if limit is None else limit)]
    where = (stored >= min(ends)) & (stored <= max(ends))
    return where if where.any() else None


def _as_stored(value: int, layout: Layout) -> int:
    """Return a value as samples have it: writers state signed ones as unsigned, and the other way round."""
    wrapped = value % (1 << layout.allocated)
    return wrapped - (1 << layout.allocated) if layout.signed and wrapped >> layout.allocated - 1 else wrapped


Grays = Callable[[np.ndarray], np.ndarray]
"""From stored values, integers of any shape, to uint8."""


def _grays(header: Header, layout: Layout, picture: np.ndarray, notes: set[str]) -> Grays:
    """Return the way to grey levels that a header states.

    Args:
      header: of the file.
      layout: of the file.
      picture: the stored values that are no padding.
      notes: what is assumed is added.
    """
    slope, intercept = _rescale(header)
    first_table = _Table.of(header, "ModalityLUTSequence", notes)
    table = _Table.of(header, "VOILUTSequence", notes)

    def values_of(stored: np.ndarray) -> np.ndarray:
        if first_table:
            return first_table.look_up(stored)
        return stored if (slope, intercept) == (1, 0) else stored.astype(np.float64) * slope + intercept

    if table:
        depth = table.depth(notes)
        return lambda stored: to_8_bits(table.look_up(values_of(stored)), depth)
    if window := _Window.of(header, notes):
        ends = _nominal_range(layout, slope, intercept, first_table)
        return lambda stored: window.apply(values_of(stored), *ends)
    if first_table:
        depth = first_table.depth(notes)
        return lambda stored: to_8_bits(first_table.look_up(stored), depth)
    return _by_range(layout, picture, slope < 0, notes)


def _rescale(header: Header) -> tuple[float, float]:
    """Return slope and intercept; what is absent beside the other, empty or 0 counts as 1 and 0."""
    if not header.has("RescaleSlope") and not header.has("RescaleIntercept"):
        return 1.0, 0.0
    slopes, intercepts = header.numbers("RescaleSlope"), header.numbers("RescaleIntercept")
    slope = slopes[0] if slopes else 0.0
    if not slope or not intercepts:
        header.defaults.add("RescaleSlope")
    return slope or 1.0, intercepts[0] if intercepts else 0.0


def _by_range(layout: Layout, picture: np.ndarray, negative: bool, notes: set[str]) -> Grays:
    """Return the way to grey levels of a file that states none."""
    darkest, brightest = (int(picture.min()), int(picture.max())) if picture.size else (0, 0)
    if layout.stored <= 8 and not layout.signed:
        floor, depth = 0, layout.stored
    else:
        notes.add(assumed.RANGE)
        # A power of two, as the depth is one, so that pictures of one detector have one range.
        floor = 0 if darkest >= 0 else -(1 << (-darkest - 1).bit_length())
        depth = usual_depth(brightest - floor, layout.stored)

    def to_gray(stored: np.ndarray) -> np.ndarray:
        gray = to_8_bits(stored - floor, depth)
        return 255 - gray if negative else gray

    return to_gray


def _nominal_range(
    layout: Layout, slope: float, intercept: float, first_table: "_Table | None"
) -> tuple[float, float]:
    """Return the smallest and largest value that the modality transformation can give."""
    if first_table:
        return 0.0, float((1 << first_table.bits) - 1)
    half = 1 << layout.stored - 1
    low, high = (-half, half - 1) if layout.signed else (0, 2 * half - 1)
    ends = low * slope + intercept, high * slope + intercept
    return min(ends), max(ends)


class _Window(NamedTuple):
    """A window (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""

    center: float
    width: float
    function: str

    @classmethod
    def of(cls, header: Header, notes: set[str]) -> "_Window | None":
        """Return the first window that can be applied; None where there is none, or none can be."""
        function = header.text("VOILUTFunction").upper()
        if function not in ("", "LINEAR", "LINEAR_EXACT", "SIGMOID"):
            header.defaults.add("VOILUTFunction")
        function = function if function in ("LINEAR_EXACT", "SIGMOID") else "LINEAR"
        for center, width in zip(header.numbers("WindowCenter"), header.numbers("WindowWidth"), strict=False):
            if width >= 1 or (width > 0 and function != "LINEAR"):
                return cls(center, width, function)
        if header.has("WindowCenter") or header.has("WindowWidth"):
            notes.add(assumed.WINDOW)
        return None

    def apply(self, values: np.ndarray, low: float, high: float) -> np.ndarray:
        """Return the grey levels of values of any shape: uint8.

        Args:
          values: after the modality transformation.
          low, high: what they can be. They cancel out, but for the rounding that pydicom's viewers see.
        """
        values, center, width = values.astype(np.float64), self.center, self.width
        if self.function == "LINEAR":
            center, width = center - 0.5, width - 1
        with np.errstate(all="ignore"):  # a width of 0 has no value between, and steep sigmoids overflow
            if self.function == "SIGMOID":
                seen = (high - low) / (1 + np.exp(-4 * (values - center) / width)) + low
            else:
                seen = ((values - center) / width + 0.5) * (high - low) + low
                seen = np.where(values > center + width / 2, high, seen)
                seen = np.where(values <= center - width / 2, low, seen)
        return np.clip(np.rint((seen - low) * (255.0 / (high - low))), 0, 255).astype(np.uint8)


class _Table(NamedTuple):
    """A lookup table (PS3.3 C.11.1 and C.11.2)."""

    first: int
    bits: int
    data: np.ndarray

    @classmethod
    def of(cls, header: Header, sequence: str, notes: set[str]) -> "_Table | None":
        """Return the first table of a sequence; None where there is none, or it cannot be applied."""
        for item in header.items(sequence)[:1]:
            descriptor = [int(number) for number in item.numbers("LUTDescriptor")]
            data = _table_data(header, item.value("LUTData"), descriptor[0] if descriptor else 0)
            if len(descriptor) == 3 and data.size and 1 <= descriptor[2] <= 16:
                return cls(descriptor[1], descriptor[2], data)
            notes.add(assumed.WINDOW)
        return None

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """Return the entries for values of any shape; those beyond an end get that end's."""
        return self.data[np.clip(np.floor(values - self.first), 0, self.data.size - 1).astype(np.intp)]

    def depth(self, notes: set[str]) -> int:
        """Return the bits of the entries' range: of the data, whatever the descriptor claims."""
        found = usual_depth(int(self.data.max()), self.bits)
        if found != self.bits:
            notes.add(assumed.TABLE)
        return found


def _table_data(header: Header, value: object, entries: int) -> np.ndarray:
    """Return the entries of a table, at most as many as are stated (0: 65,536): int64 [N], empty for none."""
    entries = entries or 1 << 16
    if isinstance(value, bytes):
        order = "<" if header.dataset.original_encoding[1] else ">"
        kind = np.dtype(np.uint8) if len(value) in (entries, entries + 1) else np.dtype(f"{order}u2")
        whole = len(value) // kind.itemsize * kind.itemsize
        return np.frombuffer(value[:whole], kind).astype(np.int64)[:entries]
    try:
        return np.atleast_1d(np.asarray(value, np.int64))[:entries]
    except (TypeError, ValueError, OverflowError):
        return np.empty(0, np.int64)


# -- palettes ----------------------------------------------------------------------------------


def _through_palette(header: Header, stored: np.ndarray, notes: set[str]) -> np.ndarray:
    """Return the colours of palette indices: uint8 [H, W, 3]."""
    descriptor = [int(number) for number in header.numbers("RedPaletteColorLookupTableDescriptor")]
    if len(descriptor) != 3:
        raise Undecodable("damaged", "a DICOM image of palette colours without a palette")
    tables = [
        _table_data(header, header.value(f"{color}PaletteColorLookupTableData"), descriptor[0])
        for color in ("Red", "Green", "Blue")
    ]
    if not all(table.size for table in tables):
        tables = _segmented_tables(header, descriptor)
    last = min(table.size for table in tables) - 1
    index = np.clip(stored.astype(np.int64) - descriptor[1], 0, last)
    depth = usual_depth(max(int(table.max()) for table in tables), descriptor[2])
    if depth != descriptor[2]:
        notes.add(assumed.TABLE)
    return np.dstack([high_8_bits(table, depth)[index] for table in tables])


def _segmented_tables(header: Header, descriptor: list[int]) -> list[np.ndarray]:
    from pydicom.pixels import apply_color_lut

    entries, first, _ = descriptor
    index = np.arange(entries or 1 << 16) + first
    try:
        colors = apply_color_lut(index, header.dataset)
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises anything on damaged bytes
        raise Undecodable("damaged", "the palette of a DICOM image cannot be read") from error
    return [colors[:, channel].astype(np.int64) for channel in range(3)]
