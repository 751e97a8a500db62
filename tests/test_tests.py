"""Tests that outlive a rewording and a refactoring: they freeze no sentence and use no private name.

What a message must name is tested: a file, a flag, a value, a class, an exit code. Where a test spells
the whole sentence, each better wording breaks it, although nothing that a user relies on has changed.
So a pattern of `pytest.raises(match=...)`, and a text that an `assert` looks for, has at most
`MOST_WORDS` plain words in a row; `.*` stands between the names. A pattern must still tell one error
from another: put the flag or the number into it, and where a message has none, mend the message.

A private name (`_x`) of the code may go at any time. Test what it is for through a public function, or
make it public, with a docstring, if it is a concept that others rightly use.
"""

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest
from project import ROOT

MOST_WORDS = 4
# A word of a sentence stands between blanks; that of a flag, a path or a name of the code does not.
SENTENCE = re.compile(rf"(?:(?<![^\s(])[a-z']+[,;:]? ){{{MOST_WORDS}}}[a-z']+(?![\w/.=-]\w)")
PRIVATE = re.compile(r"_[A-Za-z]\w*")
OWN_PACKAGES = ("cxr_data", "cxr_train", "tools")
TESTS = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "tests").rglob("*.py")}


def parsed(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text())


def private_names() -> set[str]:
    """What the code defines for itself: functions, classes, constants, methods and attributes."""
    names = set()
    for package in OWN_PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    names.add(node.name)
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    names.add(node.id)
                elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
                    names.add(node.attr)
    return {name for name in names if PRIVATE.fullmatch(name)}


def uses(tree: ast.Module, names: set[str]) -> Iterator[tuple[int, str]]:
    """Where a test imports one of `names`, reads it, or gives it to setattr, getattr or delattr."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in OWN_PACKAGES:
            found = {alias.name for alias in node.names if PRIVATE.fullmatch(alias.name)}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            found = {node.attr} & names
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
            found = {text.rpartition(".")[2] for argument in node.args for _, text in texts(argument)} & names
        else:
            continue
        yield from ((node.lineno, name) for name in found)


def texts(node: ast.AST) -> Iterator[tuple[int, str]]:
    """The texts below a node; what an f-string fills in is `{}`."""
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        yield node.lineno, "".join(parts)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def expected_texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The texts that a message or an output must have: by `match=`, `in`, `==` and `startswith`.

    Where it is a variable of the test, all texts that its parameters and loops give count.
    """
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        loops = [node for node in ast.walk(function) if isinstance(node, ast.For)]
        given = {argument.arg for argument in function.args.args}
        given |= {node.id for loop in loops for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
        for expected in expectations(function):
            yield from texts(expected)
            if given & {node.id for node in ast.walk(expected) if isinstance(node, ast.Name)}:
                for source in (*function.decorator_list, *(loop.iter for loop in loops)):
                    yield from texts(source)


def expectations(function: ast.FunctionDef) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        if isinstance(node, ast.keyword) and node.arg == "match":
            yield node.value
        elif isinstance(node, ast.Assert):
            for part in ast.walk(node.test):
                if isinstance(part, ast.Compare):
                    yield from (part.left, *part.comparators)
                elif isinstance(part, ast.Call) and ast.unparse(part.func).endswith(
                    ("startswith", "endswith")
                ):
                    yield from part.args


def test_no_two_test_files_have_one_name():
    """pytest would collect one of them alone, and refuse the whole suite."""
    names = [path.name for path in TESTS.values() if path.name.startswith("test_")]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("name", TESTS)
def test_no_sentence_of_a_message_is_frozen(name):
    found = {(line, text) for line, text in expected_texts(parsed(TESTS[name])) if SENTENCE.search(text)}
    assert not found, f"more than {MOST_WORDS} words in a row; name the flag, the file or the value"


@pytest.fixture(scope="module")
def names():
    return private_names()


@pytest.mark.parametrize("name", TESTS)
def test_no_private_name_of_the_code_is_used(name, names):
    found = set(uses(parsed(TESTS[name]), names))
    assert not found, "private names of the code; test through what is public"


def test_both_rules_can_fail():
    names = private_names()
    assert "_refuse_doubles" in names
    used = """
from cxr_train.ablation.grid import _refuse_doubles
monkeypatch.setattr(grid, "_refuse_doubles", None)
monkeypatch.setattr("cxr_train.ablation.grid._refuse_doubles", None)
grid._refuse_doubles()
self._refuse_doubles()
os._exit(1)
"""
    assert [line for line, _ in uses(ast.parse(used), names)] == [2, 3, 4, 5]
    frozen = """
@pytest.mark.parametrize("said", ["the file is not there at all"])
def test(said, path):
    with pytest.raises(DataError, match=said):
        look()
    with pytest.raises(DataError, match=f"{path} holds no images of that size"):
        look()
    with pytest.raises(DataError, match=f"--data={path}: .*--image_size=64: no images"):
        look()
    assert "these two runs are one and the same" in output
"""
    found = expected_texts(ast.parse(frozen))
    assert {line for line, text in found if SENTENCE.search(text)} == {2, 6, 10}
