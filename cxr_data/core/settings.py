"""A setting, which a user may change, is declared once: as a field of a frozen dataclass.

    @dataclasses.dataclass(frozen=True)
    class SharderConfig:
        source: str = required("Folder or CSV of images.")
        size: int = setting(360, "Height and width of the stored images, in pixels.", at_least=1)
        dtype: str = setting("float32", "How pixels are stored.", choices=DTYPES)

        def __post_init__(self) -> None:
            check_settings(self)

`cxr_data.commands.setting_flags` makes a command's flags of such a class, and the class of the flags. A field
that is declared without `setting` or `required` has no flag.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar, overload

from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.schema import parse_json

Given = TypeVar("Given", bound=str | Sequence[str])
Value = TypeVar("Value")

_KEY = "setting"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is declared about a field, besides its name and type.

    Attributes:
      help: begins with what the setting is; shown by `--help`.
      default: of the flag: a value of the field, or what `parse` makes one of.
      required: whether a user must give a value; there is no default then.
      choices: the only values that it may have; empty for any.
      at_least, at_most: the bounds of a number, both allowed; None for none.
      parse: makes the value of a flag's text, or of the list of texts that are separated by commas.
      flag: the flag's name where it is not the field's.
      path: whether it is the path of a file or folder (or of several): a user may write ~ for home.
      local: whether it must be on a mounted file system, and not on an object store.
      bare: the choice that the flag without a value means; `--noFLAG` is the default then.
    """

    help: str
    default: Any = None
    required: bool = False
    choices: Collection[Any] = ()
    at_least: int | None = None
    at_most: int | None = None
    parse: Callable[[Any], Any] | None = None
    flag: str | None = None
    path: bool = False
    local: bool = False
    bare: str | None = None


@overload
def setting(
    default: Given,
    help: str,
    *,
    parse: Callable[[Given], Value],
    flag: str | None = None,
    path: bool = False,
    local: bool = False,
) -> Value: ...


@overload
def setting(
    default: Value,
    help: str,
    *,
    choices: Collection[Value] = (),
    at_least: int | None = None,
    at_most: int | None = None,
    path: bool = False,
    local: bool = False,
    bare: str | None = None,
) -> Value: ...


def setting(default: Any, help: str, **declared: Any) -> Any:
    """Declare a field that a user may set, see `Setting`.

    With `parse`, the default is written as a user would write it, and the field's default is what `parse`
    makes of it: `head: tuple[int, ...] = setting("128-32", "Widths.", parse=parse_head)`. The parser raises
    UsageError, which names the flag.
    """
    metadata = {_KEY: Setting(help, default, **declared)}
    if parse := metadata[_KEY].parse:
        # By a factory, since a dataclass refuses a dictionary as a default.
        return dataclasses.field(default_factory=functools.partial(parse, default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def required(help: str, **declared: Any) -> Any:
    """Declare a field that a user must set, see `Setting`."""
    return dataclasses.field(metadata={_KEY: Setting(help, required=True, **declared)})


def settings_of(config: Any) -> Iterator[tuple[dataclasses.Field[Any], Setting]]:
    """Return the fields of a dataclass, or of an instance, that are declared as settings, in order."""
    for field in dataclasses.fields(config):
        if _KEY in field.metadata:
            yield field, field.metadata[_KEY]


def check_choice(flag: str, value: object, choices: Collection[object]) -> None:
    """Check a value that must be one of some. Raise UsageError, which names the flag and the choices."""
    if value not in choices:
        raise UsageError(f"--{flag}={value}: choose one of {', '.join(map(str, choices))}")


def check_local(flag: str, path: str | os.PathLike[str]) -> None:
    """Check a path that must be on a mounted file system. Raise UsageError, which names the flag."""
    if not storage.store_of(path).is_local:
        raise UsageError(
            f"--{flag}={path}: must be a local path; copy what lies there from the object store, or to it"
        )


def check_folder(flag: str, path: str | os.PathLike[str]) -> None:
    """Check that files can be made below a path: neither it nor what it lies in may be a file.

    Raises:
      UsageError: one is, naming the flag.
      DataError: its bucket is not there or cannot be reached.
    """
    if not storage.store_of(path).may_be_directory(os.fspath(path)):
        raise UsageError(f"--{flag}={path}: is a file, or lies below one; name a folder")


def read_json(
    flag: str,
    path: str,
    *,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
    remedy: str = "name a file that is there",
) -> Any:
    """Return what a JSON file holds that a flag names.

    Args:
      flag: that names it.
      path: of the file.
      pairs: see `parse_json`.
      remedy: what to do where it cannot be read.

    Raises:
      UsageError: it cannot be read, or is no JSON, naming the flag.
    """
    try:
        return parse_json(storage.read_bytes(path), pairs)
    except DataError as error:
        raise UsageError(f"--{flag}={path}: {error}; {remedy}") from error
    except ValueError as error:
        raise UsageError(f"--{flag}={path}: must be JSON, and is not: {error}; correct the file") from error


def check_settings(config: Any) -> None:
    """Check the choices and bounds that the fields of a dataclass's instance declare.

    Raises:
      UsageError: a value is not allowed, naming its flag.
    """
    for field, declared in settings_of(config):
        value, flag = getattr(config, field.name), declared.flag or field.name
        if value is None:
            continue
        if declared.choices:
            check_choice(flag, value, declared.choices)
        if declared.at_least is not None and not value >= declared.at_least:
            raise UsageError(f"--{flag}={value}: must be at least {declared.at_least}")
        if declared.at_most is not None and not value <= declared.at_most:
            raise UsageError(f"--{flag}={value}: must be at most {declared.at_most}")
