"""The names inside a dataset's directory."""

import ast
from pathlib import Path

import pytest

import cxr_data
from cxr_data.core.local_store import temporary_of
from cxr_data.records import layout

NAMES = [value for name, value in vars(layout).items() if name.endswith(("_NAME", "_SUFFIX"))]


def strings_of(path):
    """All string constants of a module but its docstrings."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def test_no_other_module_writes_a_name_of_the_layout():
    modules = [path for path in Path(cxr_data.__path__[0]).rglob("*.py") if path != Path(layout.__file__)]
    found = [
        (path.name, text) for path in modules for text in strings_of(path) if text.endswith(tuple(NAMES))
    ]
    assert len(modules) > 50
    # A flag's help and a message name `--exclude_findings=audit.json`; nothing makes a path of them.
    assert [(name, text) for name, text in found if " " not in text] == []


def test_a_shard_its_attempts_and_its_line_are_of_the_shard():
    shard = layout.shard_name("train", 3, 12)
    assert shard == "train-00003-of-00012.tfrecord"
    files = (shard, shard + layout.DONE_SUFFIX)
    attempts = [temporary_of(file, unique=True).name for file in files]
    assert all(map(layout.is_of_shard, (*files, *attempts)))
    assert layout.FOREIGN_SHARD.fullmatch(shard)


@pytest.mark.parametrize("name", ["train.tfrecord", "a-00003-of-00012.tfrecord.bak", "notes.txt", "tmp"])
def test_what_a_user_keeps_there_is_not_of_the_dataset(name):
    assert not layout.is_of_dataset(name)
