"""Preloaded by a Dask worker: stops in the middle of one shard until it is killed, the first time only.

HELD_SHARD is the path of a file named like the shard, in which it then writes its process id.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from waiting import SECONDS

from cxr_data.convert import beam, shard_writer
from cxr_data.convert.plan import ShardPlan
from cxr_data.convert.shard_writer import ShardResult

held = Path(os.environ["HELD_SHARD"])


def write_shard(plan: ShardPlan, *arguments: object, may_go_on: Callable[[], bool]) -> ShardResult:
    """Hold the shard behind its first image."""
    asked = 0

    def hold() -> bool:
        nonlocal asked
        asked += 1
        if asked == 2 and plan.name == held.name and not held.exists():
            held.write_text(str(os.getpid()))
            time.sleep(SECONDS)
        return may_go_on()

    return shard_writer.write_shard(plan, *arguments, may_go_on=hold)


beam.write_shard = write_shard
