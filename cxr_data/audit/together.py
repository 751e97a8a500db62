"""Which findings occur together, in words and as tables, from the content of `audit.json`."""

from collections.abc import Mapping
from typing import Any

from cxr_data.core.errors import one_line
from cxr_data.core.page import Grid
from cxr_data.core.wording import counted
from cxr_data.sources.finding_values import VALUE_NAMES

_MOST_PAIRS = 3


def together_in_words(document: Mapping[str, Any]) -> str:
    """Return the pairs of findings that occur together most often; "" where each picture has one class.

    A pair's share is of the rarer of the two: where it is near 1, one finding implies the other.
    """
    known = document.get("co_occurrence")
    if not known:
        return ""
    names, both = known["findings"], known["both_present"]
    pairs = [
        (
            both[i][j] / min(both[i][i], both[j][j]),
            both[i][j],
            *((j, i) if both[i][i] > both[j][j] else (i, j)),
        )
        for i in range(len(names))
        for j in range(i + 1, len(names))
        if both[i][j]
    ]
    shown = [
        f"{names[first]} with {names[second]} in {together:,} of {both[first][first]:,} pictures"
        for _, together, first, second in sorted(pairs, key=lambda pair: (-pair[0], -pair[1], pair[2:]))
    ]
    return one_line(
        f"{counted(len(names), 'finding')}; most often together: {', '.join(shown[:_MOST_PAIRS]) or 'none'}"
    )


def tables_of(document: Mapping[str, Any]) -> list[Grid]:
    """Return a table of what is known of each finding, and one of how many pictures show two of them."""
    known = document.get("co_occurrence")
    if not known:
        return []
    names = [one_line(name) for name in known["findings"]]
    counts = [
        [name, *(f"{row[value]:,}" for value in VALUE_NAMES)]
        for name, row in zip(names, known["counts"], strict=True)
    ]
    both = [
        [name, *(f"{count:,}" for count in row)]
        for name, row in zip(names, known["both_present"], strict=True)
    ]
    return [
        Grid("Pictures by what is said of each finding", ["finding", *VALUE_NAMES], counts),
        Grid("Pictures in which two findings are present", ["", *names], both),
    ]
