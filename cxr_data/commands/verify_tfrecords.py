"""Checks a dataset made by make_tfrecords: every record, checksum, count, label and value.

    python -m tools.verify_tfrecords --data=DIR

Exit code 1 if anything is wrong; each problem is a line that names shard and record.
"""

import dataclasses
import os
import sys
import time

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core.progress_bar import progress_bar
from cxr_data.core.settings import required, setting
from cxr_data.core.shown import say
from cxr_data.core.wording import byte_size, counted
from cxr_data.records.manifest import Shard, read_manifest
from cxr_data.records.verify import verify_dataset

_MOST_SHOWN = 100


@dataclasses.dataclass(frozen=True)
class VerifyOptions:
    """What to verify."""

    data: str = required("Folder of shards.", path=True)
    workers: int = setting(-1, "Shards that are read at once; -1: one a core.")


def main() -> int:
    """Verify the dataset that the flags name; return the exit code."""
    options = from_flags(VerifyOptions)
    threads = len(os.sched_getaffinity(0)) if options.workers < 0 else max(options.workers, 1)
    total = sum(shard.bytes for shard in read_manifest(options.data).shards)
    started = time.monotonic()
    with progress_bar("verify", "B", total) as bar:

        def tick(shard: Shard) -> None:
            bar.update(shard.bytes)

        result = verify_dataset(options.data, threads, tick)
    for problem in result.problems[:_MOST_SHOWN]:
        say(problem, sys.stderr)
    if len(result.problems) > _MOST_SHOWN:
        print(f"... and {len(result.problems) - _MOST_SHOWN} more", file=sys.stderr)
    seconds = time.monotonic() - started
    problems = counted(len(result.problems), "problem")
    say(
        f"{options.data}: {counted(result.records, 'record')}, {byte_size(result.bytes)} "
        f"in {seconds:.1f} s ({result.bytes / 1e6 / seconds:.0f} MB/s): "
        f"{problems if result.problems else 'everything is as the manifest says'}"
    )
    return 1 if result.problems else 0


def console_main() -> None:
    """Entry point of the command."""
    define_flags(VerifyOptions)
    command.run(main)


if __name__ == "__main__":
    console_main()
