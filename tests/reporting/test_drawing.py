"""The drawing of charts: valid XML whatever the names are, places of values, gaps, and round ticks."""

import base64
import math
import xml.etree.ElementTree

import numpy as np
import pytest

from cxr_train.reporting.drawing import Axis, Drawing, Plot, Stroke, text_width

LINE = Stroke("#123456")


def elements(drawing: Drawing, tag: str) -> list:
    _, _, content = drawing.picture("alt").source.partition(",")
    root = xml.etree.ElementTree.fromstring(base64.b64decode(content))
    return list(root.iter(f"{{http://www.w3.org/2000/svg}}{tag}"))


def drawn(x, y, **options) -> list[str]:
    """Return the parts of the curve through the points, on axes of 400 units from 0 to 4."""
    drawing = Drawing(Plot.LEFT + 400 + Plot.RIGHT)
    Plot(drawing, 0, 400, Axis(0, 4), Axis(0, 4)).curve(x, y, LINE, **options)
    (path,) = [one.get("d") for one in elements(drawing, "path") if one.get("stroke") == LINE.color]
    return path.replace("M", " M").replace("L", " L").replace("V", " V").split()


def test_a_name_of_any_letters_stays_a_name():
    drawing = Drawing()
    drawing.text(0, 0, "<b>&$\x07\udce9")
    (text,) = elements(drawing, "text")
    assert text.text == "<b>&$??"
    assert text_width("\u80ba\u708e") > text_width("ab")


def test_a_curve_goes_through_its_points_and_has_a_gap_where_a_value_is_missing():
    assert drawn([0, 1, 2, 3, 4], [0, 1, math.nan, 2, 4]) == [
        "M58",
        "400",
        "L158",
        "300",
        "M358",
        "200",
        "L458",
        "0",
    ]
    assert drawn([0, 1, 1], [1, 1, 2], in_steps=True) == ["M58", "300", "V300H158", "V200H158"]


def test_a_curve_of_many_points_is_as_long_as_what_can_be_seen_of_it():
    share = np.linspace(0, 4, 100_000)
    assert len(drawn(share, share)) < 2 * 4100


@pytest.mark.parametrize(
    ("low", "high", "is_whole", "ticks"),
    [
        (-0.02, 1.02, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.96, 2.04, True, [1, 2]),
        (0.5, 1.5, True, [1]),
        (0, 1234, False, [0, 200, 400, 600, 800, 1000, 1200]),
        (0, 1500, False, [0, 500, 1000, 1500]),
        (-0.004, 0.0031, False, [-0.004, -0.002, 0, 0.002]),
    ],
)
def test_ticks_are_round_and_within_the_axis(low, high, is_whole, ticks):
    assert Axis(low, high, is_whole=is_whole).ticks() == ticks


def test_an_axis_holds_its_values_with_room():
    around = Axis.around([1.0, math.nan, 3.0])
    assert around.low < 1 < 3 < around.high
    assert (Axis.around([2.0]).low, Axis.around([2.0]).high) == (1.5, 2.5)
    assert Axis.around([]).low < Axis.around([]).high
