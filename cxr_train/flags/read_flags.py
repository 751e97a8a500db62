"""The flags of the read side, which every command that reads shards has."""

from absl import flags

from cxr_data.core.errors import UsageError
from cxr_data.input.cache import CACHES
from cxr_data.input.indexed import VERIFY
from cxr_data.input.options import ON_BAD_RECORD, READERS, ReadOptions


def define_read_flags() -> None:
    """Defines the flags; called once, by the command's main module."""
    flags.DEFINE_enum("reader", ReadOptions.reader, READERS, "By position (local shards), or as streams.")
    flags.DEFINE_enum(
        "cache", ReadOptions.cache, CACHES, "Where stored images stay after they were first read."
    )
    flags.DEFINE_string("cache_dir", ReadOptions.cache_dir, "Where --cache=disk keeps its copies.")
    flags.DEFINE_enum("verify", ReadOptions.verify, VERIFY, "When an image is checked against its CRC32C.")
    flags.DEFINE_enum(
        "on_bad_record", ReadOptions.on_bad_record, ON_BAD_RECORD, "Stop, or leave it out and say so."
    )
    flags.DEFINE_integer(
        "max_bad_records",
        ReadOptions.max_bad_records,
        "With --on_bad_record=skip: more than this stop the run.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "shuffle_mb", ReadOptions.shuffle_mb, "MB of records in the streamed reader's shuffle.", lower_bound=1
    )


def read_options_from_flags() -> ReadOptions:
    """Reads the parsed flags. Raises UsageError for values that do not go together."""
    values = flags.FLAGS
    options = ReadOptions(
        reader=values.reader,
        cache=values.cache,
        cache_dir=values.cache_dir,
        verify=values.verify,
        on_bad_record=values.on_bad_record,
        max_bad_records=values.max_bad_records,
        shuffle_mb=values.shuffle_mb,
    )
    refuse_without_effect(options)
    return options


def refuse_without_effect(options: ReadOptions) -> None:
    """Raises UsageError for a value that another one makes meaningless."""
    for flag, ignored, why in (
        ("max_bad_records", options.on_bad_record == "fail", "needs --on_bad_record=skip"),
        ("cache_dir", options.cache in ("memory", "none"), "is for --cache=disk"),
        ("shuffle_mb", options.reader == "indexed", "is for --reader=stream"),
        ("verify", options.reader == "stream" and options.verify == "never", "streams are always checked"),
    ):
        value = getattr(options, flag)
        if ignored and value != getattr(ReadOptions, flag):
            raise UsageError(f"--{flag}={value}: {why}")
