"""BUILD's chapter on layout: it names every module."""

import re

from tools import layout


def test_the_chapter_names_every_module():
    text = layout.BUILD.read_text()
    assert text == layout.with_chapter(text), "python -m tools.layout writes it"
    for package in layout.PACKAGES:
        for path in (layout.ROOT / package).rglob("*.py"):
            row = next(
                line for line in text.splitlines() if f"| `{path.parent.relative_to(layout.ROOT)}/` |" in line
            )
            assert path.stem == "__init__" or path.stem in re.split(r"[ ,|]+", row)
