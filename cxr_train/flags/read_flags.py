"""The options of reading, from the flags that every command that reads shards has."""

from typing import Any

from absl import flags

from cxr_data.commands.setting_flags import from_flags
from cxr_data.core.errors import UsageError
from cxr_data.input.options import ReadOptions


def read_options_from_flags(flag_values: flags.FlagValues = flags.FLAGS, **given: Any) -> ReadOptions:
    """Make the options of the parsed flags, but for the fields that are given.

    Raises:
      UsageError: a value is not known, or another one makes it meaningless.
    """
    options = from_flags(ReadOptions, flag_values=flag_values, **given)
    refuse_without_effect(options)
    return options


def refuse_without_effect(options: ReadOptions) -> None:
    """Raise UsageError for a value that another one makes meaningless."""
    for flag, ignored, why in (
        ("max_bad_records", options.on_bad_record == "fail", "needs --on_bad_record=skip"),
        ("cache_dir", options.cache in ("memory", "none"), "is for --cache=disk"),
        ("shuffle_mb", options.reader == "indexed", "is for --reader=stream"),
        ("verify", options.reader == "stream" and options.verify == "never", "streams are always checked"),
    ):
        value = getattr(options, flag)
        if ignored and value != getattr(ReadOptions, flag):
            raise UsageError(f"--{flag}={value}: {why}")
