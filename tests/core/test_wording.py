"""Words for people: commands that a shell takes as they are printed."""

import ast
import pathlib
import re
import shlex

import pytest

import cxr_data
import cxr_train
from cxr_data.core.wording import typed

FILES = [path for package in (cxr_data, cxr_train) for path in pathlib.Path(*package.__path__).rglob("*.py")]
COMMAND = re.compile(r".*(python -m|tensorboard) .* --\w+=|.*\w --flagfile=", re.DOTALL)


@pytest.mark.parametrize("value", ["shards", "my shards", "Röntgen/$HOME", "it's", "a;b", ""])
def test_typed_flags_reach_a_shell_as_they_are(value):
    assert shlex.split(typed(data=value, split="test")) == [f"--data={value}", "--split=test"]


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
