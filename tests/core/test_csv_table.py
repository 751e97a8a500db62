"""CSV that gives every cell back, and of which a spreadsheet runs none."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_data.core.csv_table import csv_bytes, csv_rows

FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d")
CELLS = st.text(st.characters(codec="utf-8") | st.sampled_from("=+-@\t\r\n'\",; \udc80"), max_size=9)


def read(content: bytes) -> list[list[str]]:
    return [row for _, row in csv_rows(content.decode("utf-8", "surrogateescape"))]


@given(st.lists(st.lists(CELLS, min_size=2, max_size=3), max_size=4), st.sampled_from(("\n", "\r\n")))
def test_every_cell_is_read_back_and_none_is_a_formula(rows, line_end):
    content = csv_bytes(rows, line_end)
    assert read(content) == rows
    for row in csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")):
        for cell in row:
            try:
                float(cell)
            except ValueError:
                assert not cell.startswith(FORMULAS)


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "@SUM(1)", "-2+3", "+x", "\t=1", "'=1", "''-a"])
def test_a_formula_is_text(name):
    assert csv_bytes([[name, "a"]]).startswith((f"'{name},a".encode(), f"\"'{name}".encode()))


def test_numbers_stay_numbers():
    cells = [-0.5, "-1.5e-3", -7, "+3", "-inf", None, "nan", "a-b", "it's"]
    assert csv_bytes([cells]) == b"-0.5,-1.5e-3,-7,+3,-inf,,nan,a-b,it's\n"


def test_the_number_of_a_line_is_that_of_its_end():
    assert list(csv_rows('a, b\n\n"c\nd", e\n', skips_blanks=True)) == [
        (1, ["a", "b"]),
        (2, []),
        (4, ["c\nd", "e"]),
    ]
