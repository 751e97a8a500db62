"""The flags of a command, from the settings of a frozen dataclass: see `cxr_data.core.settings`.

define_flags(SharderConfig)           # before the command line is parsed
config = from_flags(SharderConfig)    # after it
"""

import os.path
import types
import typing
from collections.abc import Collection
from typing import Any, TypeVar

from absl import flags

from cxr_data.core.errors import UsageError
from cxr_data.core.settings import Setting, check_local, settings_of

Config = TypeVar("Config")


def define_flags(
    *configs: type, leave_out: Collection[str] = (), flag_values: flags.FlagValues = flags.FLAGS
) -> None:
    """Define a flag for each setting of some dataclasses.

    Args:
      *configs: the dataclasses.
      leave_out: names of fields for which this command has no flag.
      flag_values: where they are defined; those of the command line by default.

    Raises:
      DuplicateFlagError: a flag of that name is there already.
    """
    for config in configs:
        hints = typing.get_type_hints(config)
        for field, setting in settings_of(config):
            if field.name not in leave_out:
                _define(setting.flag or field.name, _kind(hints[field.name], setting), setting, flag_values)


def from_flags(config: type[Config], *, flag_values: flags.FlagValues = flags.FLAGS, **given: Any) -> Config:
    """Make a dataclass from the parsed flags.

    Args:
      config: the dataclass.
      flag_values: the flags; those of the command line by default.
      **given: the fields that are not to be read from a flag.

    Raises:
      UsageError: a flag is missing, or has a value that the dataclass refuses.
    """
    values, missing = dict(given), []
    for field, setting in settings_of(config):
        if field.name in given:
            continue
        name = setting.flag or field.name
        value = flag_values[name].value
        if setting.local:
            for path in value if isinstance(value, list) else [value or ""]:
                check_local(name, path)
        if setting.required and not value:
            missing.append(f"--{name} is missing")
        elif setting.parse:
            values[field.name] = setting.parse(value)
        else:
            values[field.name] = tuple(value) if isinstance(value, list) else value
    if missing:
        raise UsageError(f"{', '.join(missing)} (--help lists the flags)")
    return config(**values)


def _kind(annotation: Any, setting: Setting) -> object:
    """Return the type of a flag's value: the field's, without None, or what the field's parser takes."""
    if setting.parse:
        return tuple if isinstance(setting.default, tuple) else str
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not types.NoneType)
    return typing.get_origin(annotation) or annotation


class _PathParser(flags.ArgumentParser[str]):
    """Parses the path of a file or folder, `~` at its beginning being the user's home."""

    syntactic_help = ""

    def parse(self, argument: str) -> str:
        expanded = os.path.expanduser(argument)  # not by Path, which makes one slash of the two of s3://
        if expanded.startswith("~"):
            raise ValueError(
                f"{argument.split('/')[0]} is not the home of a user; write the whole path, or begin it "
                "with ./~"
            )
        return expanded


class _PathListParser(flags.ListParser):
    """Parses paths that are separated by commas."""

    def parse(self, argument: str | list[str]) -> list[str]:
        return [_PathParser().parse(path) for path in super().parse(argument)]


class _BareParser(flags.EnumParser):
    """Parses one of some choices, or what absl makes of a flag without a value."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(list(setting.choices))
        self._bare = {"true": setting.bare, "false": setting.default}

    def parse(self, argument: str) -> str:
        return super().parse(self._bare.get(argument.lower()) or argument)


class _BareFlag(flags.Flag[str]):
    """A flag that may be written without a value: `--calibrated`, `--nocalibrated`, `--calibrated=platt`."""

    def __init__(self, name: str, setting: Setting) -> None:
        super().__init__(
            _BareParser(setting),
            flags.ArgumentSerializer(),
            name,
            setting.default,
            setting.help,
            boolean=True,
        )

    def _serialize(self, value: str | None) -> str:
        return f"--{self.name}={value}"


def define_path_flag(
    name: str, default: str | None, help: str, flag_values: flags.FlagValues = flags.FLAGS
) -> None:
    """Define a flag that is the path of a file or folder, where no setting declares it."""
    flags.DEFINE(_PathParser(), name, default, help, flag_values, flags.ArgumentSerializer())


def _define(name: str, kind: object, setting: Setting, flag_values: flags.FlagValues) -> None:
    default = setting.default
    if setting.path and kind is tuple:
        flags.DEFINE(
            _PathListParser(),
            name,
            list(default or ()),
            setting.help,
            flag_values,
            flags.CsvListSerializer(","),
        )
    elif setting.path:
        define_path_flag(name, default, setting.help, flag_values)
    elif kind is tuple:
        flags.DEFINE_list(name, list(default or ()), setting.help, flag_values=flag_values)
    elif setting.bare:
        flags.DEFINE_flag(_BareFlag(name, setting), flag_values)
    elif kind is str and setting.choices:
        flags.DEFINE_enum(name, default, setting.choices, setting.help, flag_values=flag_values)
    elif kind is str:
        flags.DEFINE_string(name, default, setting.help, flag_values=flag_values)
    elif kind is bool:
        flags.DEFINE_bool(name, default, setting.help, flag_values=flag_values)
    elif kind is int:
        flags.DEFINE_integer(
            name, default, setting.help, setting.at_least, setting.at_most, flag_values=flag_values
        )
    elif kind is float:
        flags.DEFINE_float(
            name, default, setting.help, setting.at_least, setting.at_most, flag_values=flag_values
        )
    else:
        raise TypeError(f"--{name}: no flag can be made of {kind}")
