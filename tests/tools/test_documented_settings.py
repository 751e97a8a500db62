"""The grids, spaces and methods that the documents show are taken by the commands that they are shown for."""

import re
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from absl import flags
from project import ROOT

from cxr_data.core.errors import UsageError
from cxr_train.ablation.grid import read_grid
from cxr_train.flags.training import config_from_flags, define_training_flags
from cxr_train.searching.space import read_space
from cxr_train.transferring.methods import read_methods

# A block of json; a JSON object in a line of prose, and one that a command writes into a file of that name.
SHOWN = re.compile(r'```json\n(.*?)```|`({\s*"[^`]*})`|echo \'({[^\']*})\' > \w+', re.DOTALL)
NAMED = re.compile(r"\b(grid|space|methods)\b")


def configurations(kind: str, path: str) -> list[Mapping[str, str]]:
    """Read a file of that kind and return the flags of its configurations, of a range some."""
    if kind == "grid":
        return [one.flags for one in read_grid(path)]
    if kind == "methods":
        return [one.drawn(draw, 0) for one in read_methods(path) for draw in range(3)]
    space, draw = read_space(path), np.random.default_rng(0)
    return [space.flags(space.drawn(draw)) for _ in range(20)]


def check(kind: str, text: str, folder) -> None:
    assert kind, "say in the two lines before whether it is a grid, a space or methods"
    path = folder / f"{kind}.json"
    path.write_text(text)
    found = configurations(kind, str(path))
    assert found
    for one in found:
        values = flags.FlagValues()
        define_training_flags(values)
        values(
            ["main", "--data=data", "--run_dir=run", *(f"--{name}={value}" for name, value in one.items())]
        )
        config_from_flags(values)


def shown() -> Iterator[tuple[str, str, str]]:
    """Yield document, kind and text.

    The kind is the last word for one in the two lines before, or in the name of the file. A JSON object in a
    line that has none may be anything; a block of json must have one.
    """
    for path in sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))):
        document = path.read_text()
        for match in SHOWN.finditer(document):
            words = NAMED.findall(document[max(0, match.start() - 220) : match.end()])
            if words or match[1]:
                yield path.name, (words or [""])[-1], next(text for text in match.groups() if text)


FOUND = list(shown())


def test_the_documents_show_files_of_each_kind():
    assert {(document, kind) for document, kind, _ in FOUND} >= {
        ("ablate.md", "grid"),
        ("findings.md", "grid"),
        ("networks.md", "grid"),
        ("search.md", "space"),
        ("transfer.md", "methods"),
    }


@pytest.mark.parametrize(
    ("kind", "text"), [pytest.param(kind, text, id=document) for document, kind, text in FOUND]
)
def test_what_the_documents_show_is_taken(kind, text, tmp_path):
    check(kind, text, tmp_path)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("grid", '{"wider head": {"head": "322-32"}}'),
        ("grid", '{"wide": {"hat": "322-32"}}'),
        ("space", '{"attention": ["se", "sea"]}'),
        ("methods", '{"smooth": {"label_smoothing": "much"}}'),
        ("methods", '{"erm": {},}'),
    ],
)
def test_what_a_command_would_refuse_is_noticed(kind, text, tmp_path):
    with pytest.raises((UsageError, flags.Error)):
        check(kind, text, tmp_path)
