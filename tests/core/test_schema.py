"""The check of a document against its type: what passes, and which field an error names."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest

from cxr_data.core.schema import Count, FieldError, FileName, OneOf, Range, checked, parse_json


@dataclasses.dataclass(frozen=True)
class Part:
    name: FileName
    sizes: tuple[Count, ...] = ()


class Row(TypedDict):
    loss: float | None
    part: NotRequired[Part]


@dataclasses.dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    kind: Annotated[str, OneOf(("a", "b"))]
    by_name: Mapping[str, list[float]]
    pair: tuple[int, str]
    mode: Literal["x", "y"]
    share: Annotated[float, Range(0, 1)]
    any: Any = None
    row: Row | None = None


GOOD = {
    "parts": [{"name": "n", "sizes": [1, 2]}],
    "kind": "a",
    "by_name": {"k": [1, 2.5]},
    "pair": [1, "s"],
    "mode": "x",
    "share": 0.5,
    "row": {"loss": None, "more": {}},
}


def test_a_good_document_becomes_its_dataclasses():
    made = checked(Whole, GOOD)
    assert made.parts == (Part("n", (1, 2)),)
    assert (made.pair, made.by_name, made.any) == ((1, "s"), {"k": [1, 2.5]}, None)
    assert made.row == {"loss": None, "more": {}}, "a dictionary keeps what its type does not know"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"parts": 3}, "parts"),
        ({"parts": [{}]}, r"parts\[0\].name"),
        ({"parts": [{"name": "../x"}]}, r"parts\[0\].name"),
        ({"parts": [{"name": ".."}]}, r"parts\[0\].name"),
        ({"parts": [{"name": "a\0b"}]}, r"parts\[0\].name"),
        ({"parts": [{"name": "n", "sizes": [1, -1]}]}, r"parts\[0\].sizes\[1\]"),
        ({"parts": [{"name": "n", "sizes": [True]}]}, r"parts\[0\].sizes\[0\]"),
        ({"parts": [{"name": "n", "sizes": [2**63]}]}, r"parts\[0\].sizes\[0\]"),
        ({"parts": [{"name": "n", "sizes": [1.0]}]}, r"parts\[0\].sizes\[0\]"),
        ({"parts": [{"name": "n", "extra": 1}]}, r"parts\[0\]"),
        ({"kind": "c"}, "kind"),
        ({"kind": ["a"]}, "kind"),
        ({"by_name": {"k": ["x"]}}, r"by_name.k\[0\]"),
        ({"by_name": {"k": [float("nan")]}}, r"by_name.k\[0\]"),
        ({"by_name": []}, "by_name"),
        ({"pair": [1]}, "pair"),
        ({"pair": [1, 2]}, r"pair\[1\]"),
        ({"mode": "z"}, "mode"),
        ({"share": 10**400}, "share"),
        ({"share": 1.5}, "share"),
        ({"row": {}}, "row.loss"),
        ({"row": {"loss": "x"}}, "row.loss"),
    ],
)
def test_an_error_names_the_field(change, field):
    with pytest.raises(FieldError, match=rf"^{field}: ") as raised:
        checked(Whole, {**GOOD, **change})
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("value", [None, [], 3, "x", "y" * 10**6, [[[]]] * 10**5])
def test_any_other_value_is_one_short_line(value):
    with pytest.raises(FieldError) as raised:
        checked(Whole, value)
    assert len(str(raised.value)) < 300
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 10**6, "nested"),
        ('{"a":' * 10**6, "nested"),
        ("", "value"),
        (b"\xff", "utf-8"),
        ("1" * 5000, "4300"),
    ],
)
def test_what_is_no_json(text, said):
    with pytest.raises(ValueError, match=said):
        parse_json(text)
