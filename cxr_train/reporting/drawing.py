"""Charts as SVG, written out: text stays text, and no drawing library is loaded, which takes a second."""

import html
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from cxr_data.core.page import Picture, embed

WIDTH = 460
"""Units of a chart's width; a unit is a pixel where the chart is shown in that width."""

Values = TypeVar("Values", float, npt.NDArray[Any])

INK, SOFT = "#1c2430", "#5b6876"
# Okabe and Ito's colours, which the colour-blind can tell apart; the dashes do it in print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("", "7 3", "7 3 2 3", "2 3")
_FONT = 13
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class Stroke(NamedTuple):
    """The colour and dashes of a line."""

    color: str
    dashes: str = ""


def stroke(number: int) -> Stroke:
    """Return the stroke of the line of a number, which differs from those of its neighbours."""
    return Stroke(COLORS[number % len(COLORS)], _DASHES[number % len(_DASHES)])


CHANCE = Stroke(SOFT, "2 3")


def text_width(text: str, size: float = _FONT) -> float:
    """Return about how many units a text is wide, rather too many than too few."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return size * (0.58 * (len(text) - wide) + wide)


class Drawing:
    """Lines, marks and text on a white ground; x goes to the right and y downwards, in units."""

    def __init__(self, width: float = WIDTH) -> None:
        self.width, self.height = width, 0.0
        self._parts: list[str] = []

    def text(
        self, x: float, y: float, text: str, *, anchor: str = "start", size: float = _FONT, bold: bool = False
    ) -> None:
        """Write a line of text whose base line begins, ends or has its middle at a point, see `anchor`."""
        weight = ' font-weight="600"' if bold else ""
        shown = html.escape(_NO_XML.sub("?", text))
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size:g}"{weight}'
        self._parts.append(f"<text {place}>{shown}</text>")

    def upwards(self, x: float, y: float, text: str) -> None:
        """Write a line of text that runs upwards, with its middle at a point."""
        self._parts.append(f'<g transform="translate({x:.1f} {y:.1f}) rotate(-90)">')
        self.text(0, 0, text, anchor="middle")
        self._parts.append("</g>")

    def path(self, path: str, stroke: Stroke, width: float = 1.5, opacity: float = 1.0) -> None:
        """Draw a path in SVG's notation."""
        dashes = f' stroke-dasharray="{stroke.dashes}"' if stroke.dashes else ""
        seen = f' stroke-opacity="{opacity:g}"' if opacity < 1 else ""
        self._parts.append(
            f'<path d="{path}" fill="none" stroke="{stroke.color}" stroke-width="{width:g}"{dashes}{seen}/>'
        )

    def line(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        stroke: Stroke,
        width: float = 1,
        opacity: float = 1,
    ) -> None:
        """Draw a straight line from the first x and y to the second ones."""
        self.path(f"M{x[0]:.1f} {y[0]:.1f}L{x[1]:.1f} {y[1]:.1f}", stroke, width, opacity)

    def mark(self, x: float, y: float, color: str, *, radius: float = 4, is_diamond: bool = False) -> None:
        """Draw a dot or a diamond with a white edge."""
        edge = f'fill="{color}" stroke="#fff" stroke-width="{0.25 * radius:g}"'
        if is_diamond:
            path = f"M{x - radius:.1f} {y:.1f}l{radius} {-radius}l{radius} {radius}l{-radius} {radius}z"
            self._parts.append(f'<path d="{path}" {edge}/>')
        else:
            self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" {edge}/>')

    def bar(self, x: tuple[float, float], y: tuple[float, float], color: str, opacity: float = 1.0) -> None:
        """Fill the rectangle between two x and two y, the smaller ones first."""
        self._parts.append(
            f'<rect x="{x[0]:.1f}" y="{y[0]:.1f}" width="{x[1] - x[0]:.1f}" height="{y[1] - y[0]:.1f}" '
            f'fill="{color}" fill-opacity="{opacity:g}"/>'
        )

    def legend(self, top: float, left: float, entries: Sequence[tuple[str, Stroke]], title: str = "") -> None:
        """Write the names of lines below `top`, in as many rows as they need, and end the drawing there."""
        x, y = left, top + 14
        if title:
            self.text(x, y, title)
            x += text_width(title) + 8
        for name, stroke in entries:
            needed = 26 + text_width(name) + 12
            if x > left and x + needed > self.width:
                x, y = left, y + 18
            self.line((x, x + 20), (y - 4, y - 4), stroke, 2)
            self.text(x + 26, y, name)
            x += needed
        self.height = y + 8

    def picture(self, alt: str) -> Picture:
        """Return the drawing as a picture for a page; the same drawing gives the same bytes."""
        width, height = f"{self.width:.0f}", f"{self.height:.0f}"
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="Liberation Sans, Arial, sans-serif" fill="{INK}">'
        )
        return embed("".join([head, *self._parts, "</svg>"]).encode(), "image/svg+xml", alt)


@dataclass(frozen=True)
class Axis:
    """The values between the two ends of an axis, and what they are.

    Attributes:
      low, high: the ends.
      label: what stands next to it.
      is_whole: whether only whole numbers have a tick.
    """

    low: float
    high: float
    label: str = ""
    is_whole: bool = False

    @classmethod
    def around(cls, values: npt.ArrayLike, label: str = "", is_whole: bool = False) -> "Axis":
        """Return an axis that holds all finite values, with some room at both ends."""
        known = np.asarray(values, float)
        known = known[np.isfinite(known)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        room = 0.04 * (high - low) or 0.5
        return cls(low - room, high + room, label, is_whole)

    def ticks(self) -> list[float]:
        """Return round values within the axis, at most eight."""
        span = self.high - self.low
        step = 10.0 ** math.floor(math.log10(span / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if span / (factor * step) <= 7)
        step = max(step, 1.0) if self.is_whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{number * step:.6g}") for number in range(first, last + 1)]


SHARE = Axis(-0.02, 1.02)
"""From 0 to 1, with room for marks on the ends."""


class Plot:
    """A part of a drawing with two axes and a grid, in which values have their places.

    Args:
      drawing: to draw on.
      top, height: of the inside, in units.
      x, y: its axes.
      title: above it.
      has_ticks: whether the x axis has numbers.
    """

    LEFT, RIGHT = 58.0, 12.0

    def __init__(
        self,
        drawing: Drawing,
        top: float,
        height: float,
        x: Axis,
        y: Axis,
        title: str = "",
        has_ticks: bool = True,
    ) -> None:
        self._drawing, self._x, self._y = drawing, x, y
        self._left, self._right = self.LEFT, drawing.width - self.RIGHT
        self._top, self._bottom = top, top + height
        self.below = self._bottom + (20 if has_ticks else 0) + (20 if x.label else 0)
        """Where what stands below the axis ends."""
        drawing.height = max(drawing.height, self.below + 2)
        middle = (self._left + self._right) / 2
        if title:
            drawing.text(middle, top - 10, title, anchor="middle", size=14)
        grid = Stroke(INK)
        for tick in x.ticks():
            place = self.x(tick)
            drawing.line((place, place), (self._top, self._bottom), grid, opacity=0.15)
            if has_ticks:
                drawing.text(place, self._bottom + 16, f"{tick:g}", anchor="middle", size=12)
        for tick in y.ticks():
            place = self.y(tick)
            drawing.line((self._left, self._right), (place, place), grid, opacity=0.15)
            drawing.text(self._left - 6, place + 4, f"{tick:g}", anchor="end", size=12)
        drawing.path(f"M{self._left} {self._top}V{self._bottom}H{self._right}", grid, 1)
        if x.label:
            drawing.text(middle, self.below - 6, x.label, anchor="middle")
        if y.label:
            drawing.upwards(14, (self._top + self._bottom) / 2, y.label)

    def x(self, value: Values) -> Values:
        """Return the place of a value on the x axis, or of an array of values, in units."""
        share = (value - self._x.low) / (self._x.high - self._x.low)
        return self._left + share * (self._right - self._left)

    def y(self, value: Values) -> Values:
        """Return the place of a value on the y axis, or of an array of values, in units."""
        share = (value - self._y.low) / (self._y.high - self._y.low)
        return self._bottom - share * (self._bottom - self._top)

    def curve(self, x: npt.ArrayLike, y: npt.ArrayLike, stroke: Stroke, *, in_steps: bool = False) -> None:
        """Draw a line through points, with a gap where one is not finite.

        Args:
          x, y: [N], values of the axes.
          stroke: of the line.
          in_steps: whether y changes at the point before, and not on the way.
        """
        places = np.stack([self.x(np.asarray(x, float)), self.y(np.asarray(y, float))], axis=1).round(1)
        # Points in one place are one point: a curve of a million images stays small.
        is_new = np.append(True, np.any(places[1:] != places[:-1], axis=1))
        words, begins = [], True
        for across, down in places[is_new].tolist():
            is_point = math.isfinite(across) and math.isfinite(down)
            if is_point:
                go_on = f"V{down:g}H{across:g}" if in_steps else f"L{across:g} {down:g}"
                words.append(f"M{across:g} {down:g}" if begins else go_on)
            begins = not is_point
        self._drawing.path("".join(words), stroke, 1.8)

    def dots(self, x: npt.ArrayLike, y: npt.ArrayLike, color: str) -> None:
        """Draw a small dot on each finite point [N]."""
        for across, down in zip(np.asarray(x, float), np.asarray(y, float), strict=True):
            if math.isfinite(down):
                self._drawing.mark(self.x(across), self.y(down), color, radius=3)

    def mark(self, x: float, y: float, color: str, *, is_diamond: bool = False) -> None:
        """Draw a large dot, or a diamond."""
        self._drawing.mark(self.x(x), self.y(y), color, radius=5, is_diamond=is_diamond)

    def upright(self, x: float, y: tuple[float, float], stroke: Stroke, width: float = 1.5) -> None:
        """Draw a vertical line between two values of y."""
        self._drawing.line((self.x(x), self.x(x)), (self.y(y[0]), self.y(y[1])), stroke, width)

    def level(self, y: float, stroke: Stroke, opacity: float = 1.0) -> None:
        """Draw a horizontal line through the whole plot."""
        self._drawing.line((self._left, self._right), (self.y(y), self.y(y)), stroke, 1, opacity)

    def column(self, x: tuple[float, float], height: float, color: str) -> None:
        """Fill a column of a histogram."""
        self._drawing.bar((self.x(x[0]) + 1, self.x(x[1]) - 1), (self.y(height), self.y(0)), color)
