"""What a JSON document must hold, declared by types: the one check of every document that is read.

    @dataclasses.dataclass(frozen=True)
    class Shard:
        name: FileName
        records: Count

    shard = checked(Shard, parse_json(content))

The types are dataclasses, which are made, and `TypedDict`s, which stay dictionaries, of str, bool, int,
float, None, Any, Literal, unions, tuples, lists and mappings. `Annotated` adds a rule, such as `Range(0)`. An
int has 64 bits; a float is finite. A document may come from anybody: what it claims is checked before it is
used.
"""

import dataclasses
import functools
import json
import math
import re
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

from cxr_data.core.errors import one_line

Value = TypeVar("Value")
_Read = Callable[[Any], Any]

_LEAST, _MOST = -(2**63), 2**63 - 1
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxlong, _SHOWN.maxother = 2, 60, 60, 60


class FieldError(ValueError):
    """A field of a document is not what it must be: says which, what it must be, and what it is."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.path: list[str] = []

    def __str__(self) -> str:
        path = "".join(reversed(self.path)).removeprefix(".")
        return f"{path}: {self.args[0]}" if path else str(self.args[0])


@dataclasses.dataclass(frozen=True)
class Range:
    """A rule: a number in [at_least, at_most]."""

    at_least: float = -math.inf
    at_most: float = math.inf

    def allows(self, value: Any) -> bool:
        """Return whether the value is in the range."""
        return bool(self.at_least <= value <= self.at_most)

    def __str__(self) -> str:
        above = "" if self.at_most == math.inf else f" and at most {self.at_most}"
        return f"at least {self.at_least}{above}"


@dataclasses.dataclass(frozen=True)
class Form:
    """A rule: a text that matches a regular expression, as `words` say."""

    pattern: str
    words: str

    def allows(self, value: Any) -> bool:
        """Return whether the whole text matches."""
        return re.fullmatch(self.pattern, value, re.DOTALL) is not None

    def __str__(self) -> str:
        return self.words


class OneOf:
    """A rule: one of some values."""

    def __init__(self, choices: Collection[Any]) -> None:
        self._choices = choices

    def allows(self, value: Any) -> bool:
        """Return whether the value is one of them."""
        return value in self._choices

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self._choices))}"


class Items:
    """A rule: how many items a list, a text or a mapping has."""

    def __init__(self, at_least: int = 0, at_most: int = _MOST) -> None:
        self._range = Range(at_least, at_most)

    def allows(self, value: Any) -> bool:
        """Return whether it has so many."""
        return self._range.allows(len(value))

    def __str__(self) -> str:
        return f"of {self._range} items"


Count = Annotated[int, Range(0)]
Share = Annotated[float, Range(0, 1)]
Sha256 = Annotated[str, Form("[0-9a-f]{64}", "64 hexadecimal digits")]
FileName = Annotated[str, Form(r"(?!\.\.?$)[^/\0]{1,255}", "the name of a file, without a folder")]
Text = Annotated[str, Form(r"[^\0]{0,1024}", "a text without a NUL, of at most 1,024 characters")]


def parse_json(content: bytes | str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse a JSON document.

    Args:
      content: of the file.
      pairs: makes what stands for an object, of its names and values; a dictionary by default.

    Raises:
      ValueError: it is none, or is nested too deeply.
    """
    try:
        return json.loads(content, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def checked(kind: type[Value], value: Any) -> Value:
    """Return a parsed document as a value of the type `kind`. Raises FieldError: it is not such a one."""
    return cast(Value, _reader(cast(Any, kind))(value))


def unchecked_keys(kind: type, document: Any) -> Any:
    """Return a document without the keys that the dataclass `kind` does not have, as of a later version."""
    if not isinstance(document, dict):
        return document
    known = {field.name for field in dataclasses.fields(kind)}
    return {key: value for key, value in document.items() if key in known}


@functools.cache
def _reader(kind: Any) -> _Read:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (typing.Required, typing.NotRequired, typing.Final):
        return _reader(args[0])
    if origin is Annotated:
        return _with_rules(_reader(args[0]), kind.__metadata__)
    if origin is typing.Literal:
        return _with_rules(lambda value: value, (OneOf(args),))
    if origin in (Union, types.UnionType):
        return _any_of(args)
    if origin is tuple and args[-1] is not ...:
        return _row(args)
    if origin in (tuple, list, Sequence):
        return _array(args[0], list if origin is list else tuple)
    if origin in (dict, Mapping):
        return _mapping(args[1])
    if dataclasses.is_dataclass(kind):
        return _made(cast(type, kind))
    if typing.is_typeddict(kind):
        return _dictionary(kind)
    return _SIMPLE[kind]


def _fail(expected: object, value: Any) -> FieldError:
    return FieldError(f"must be {expected}, not {one_line(_SHOWN.repr(value))}")


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _with_rules(read: _Read, rules: Sequence[Any]) -> _Read:
    def with_rules(value: Any) -> Any:
        found = read(value)
        for rule in rules:
            if not rule.allows(found):
                raise _fail(rule, value)
        return found

    return with_rules


def _simple(expected: str, allows: Callable[[Any], bool]) -> _Read:
    def simple(value: Any) -> Any:
        if allows(value):
            return value
        raise _fail(expected, value)

    return simple


_SIMPLE: dict[Any, _Read] = {
    Any: lambda value: value,
    object: lambda value: value,
    str: _simple("a text", lambda value: isinstance(value, str)),
    bool: _simple("true or false", lambda value: isinstance(value, bool)),
    int: _simple("a whole number of 64 bits", lambda value: type(value) is int and _LEAST <= value <= _MOST),
    float: _simple(
        "a finite number",
        lambda value: type(value) in (int, float) and abs(value) <= sys.float_info.max,
    ),
    type(None): _simple("null", lambda value: value is None),
}


def _any_of(kinds: Sequence[Any]) -> _Read:
    readers = [_reader(kind) for kind in kinds]

    def any_of(value: Any) -> Any:
        errors = []
        for read in readers:
            try:
                return read(value)
            except FieldError as error:
                errors.append(error)
        # The one that got deepest tells most.
        raise max(errors, key=lambda error: len(error.path))

    return any_of


def _array(kind: Any, make: Callable[[Any], Any]) -> _Read:
    read = _reader(kind)

    def array(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise _fail("a list", value)
        number = 0
        try:
            found = []
            for number, item in enumerate(value):  # noqa: B007 - named by the error
                found.append(read(item))
        except FieldError as error:
            error.path.append(f"[{number}]")
            raise
        return make(found)

    return array


def _row(kinds: Sequence[Any]) -> _Read:
    readers = [_reader(kind) for kind in kinds]

    def row(value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(readers):
            raise _fail(f"a list of {len(readers)}", value)
        return tuple(_at(f"[{number}]", read, value[number]) for number, read in enumerate(readers))

    return row


def _mapping(kind: Any) -> _Read:
    read = _reader(kind)

    def mapping(value: Any) -> Any:
        if not _is_object(value):
            raise _fail("an object", value)
        return {key: _at(f".{one_line(str(key)[:60])}", read, item) for key, item in value.items()}

    return mapping


def _at(place: str, read: _Read, value: Any) -> Any:
    try:
        return read(value)
    except FieldError as error:
        error.path.append(place)
        raise


def _fields(readers: Mapping[str, _Read], required: Collection[str], value: Any) -> dict[str, Any]:
    if not _is_object(value):
        raise _fail("an object", value)
    for name in required:
        if name not in value:
            error = FieldError("is missing")
            error.path.append(f".{name}")
            raise error
    return {key: _at(f".{key}", readers[key], item) for key, item in value.items() if key in readers}


def _made(kind: type) -> _Read:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    readers = {field.name: _reader(hints[field.name]) for field in fields}
    absent = dataclasses.MISSING
    required = [f.name for f in fields if f.default is absent and f.default_factory is absent]

    def made(value: Any) -> Any:
        found = _fields(readers, required, value)
        if other := value.keys() - found.keys():
            raise FieldError(
                f"has a field {one_line(str(min(other))[:60])!r}, which this version does not know"
            )
        return kind(**found)

    return made


def _dictionary(kind: Any) -> _Read:
    hints = typing.get_type_hints(kind, include_extras=True)
    readers = {name: _reader(hint) for name, hint in hints.items()}

    def dictionary(value: Any) -> Any:
        _fields(readers, sorted(kind.__required_keys__), value)
        return value

    return dictionary
