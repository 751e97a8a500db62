"""Converts a folder or CSV of chest X-rays to TFRecord shards.

    python -m tools.make_tfrecords --source=DIR_OR_CSV --output=DIR

Stopped at any moment, the same command finishes the rest.
"""

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords


def main() -> None:
    """Convert the images that the flags name."""
    make_tfrecords(from_flags(SharderConfig))


def console_main() -> None:
    """Entry point of the command."""
    define_flags(SharderConfig)
    command.run(main)


if __name__ == "__main__":
    console_main()
