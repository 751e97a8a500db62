"""Words for people: commands that a shell takes as they are printed."""

import ast
import pathlib
import re
import shlex

import pytest

import cxr_data
import cxr_train
from cxr_data.core.wording import byte_size, typed

FILES = [path for package in (cxr_data, cxr_train) for path in pathlib.Path(*package.__path__).rglob("*.py")]
COMMAND = re.compile(r".*(python -m|tensorboard) .* --\w+=|.*\w --flagfile=", re.DOTALL)


@pytest.mark.parametrize("value", ["shards", "my shards", "Röntgen/$HOME", "it's", "a;b", ""])
def test_typed_flags_reach_a_shell_as_they_are(value):
    assert shlex.split(typed(data=value, split="test")) == [f"--data={value}", "--split=test"]


def test_sizes_have_the_unit_that_shows_them():
    sizes = [0, 999, 1_500, 13_049_000, 156_000_000, 1_555_200_000, 23.04e9]
    shown = ["0 bytes", "999 bytes", "1.50 kB", "13.0 MB", "156 MB", "1.56 GB", "23.0 GB"]
    assert list(map(byte_size, sizes)) == shown


def unquoted(text: ast.JoinedStr) -> bool:
    """Return whether a value goes into a command as it is: a path with a blank would be two words."""
    said = ""
    for part in text.values:
        if isinstance(part, ast.FormattedValue) and said.endswith("=") and COMMAND.fullmatch(said):
            return True
        said += part.value if isinstance(part, ast.Constant) else "x"
    return False


def test_no_printed_command_holds_a_path_that_is_not_quoted():
    texts = [(path, node) for path in FILES for node in ast.walk(ast.parse(path.read_bytes()))]
    found = [
        f"{path}:{node.lineno}" for path, node in texts if isinstance(node, ast.JoinedStr) and unquoted(node)
    ]
    assert len(texts) > 100_000
    assert not found
