"""Attacks the sharder, the readers and the trainer at random, and counts what does not survive.

    python -m tools.chaos                               all attacks, in turn
    python -m tools.chaos sharder inputs --minutes=20
    python -m tools.chaos sharder --seed=17 --tries=1   one failure again

The attacks are sharder, trainer, inputs, shards and disks. Each try has a seed of its own, which decides all
that is random in it. Exit code 1 if one fails. Nothing outside of --folder is written.
"""

import dataclasses
import importlib
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core import storage
from cxr_data.core.errors import UsageError
from cxr_data.core.settings import check_settings, setting
from tools.bench.output import machine
from tools.chaos.attack import Outcome, outcome_table, run

ATTACKS = {
    "sharder": "tools.chaos.sharder",
    "trainer": "tools.chaos.trainer",
    "inputs": "tools.chaos.inputs",
    "shards": "tools.chaos.shards",
    "disks": "tools.chaos.disks",
}


@dataclasses.dataclass(frozen=True)
class ChaosOptions:
    """How long and how often."""

    minutes: float = setting(
        30, "Most minutes for all attacks, which get equal parts; an attack ends before where its tries do."
    )
    tries: int | None = setting(None, "Tries of each attack; its own number by default.", at_least=1)
    seed: int = setting(0, "Seed of the first try; each next one has the next seed.", at_least=0)
    folder: str = setting(
        "", "Folder that receives what is made, and is kept; a temporary one by default.", path=True
    )
    json: str = setting("", "File for the counts as JSON, written after each attack.", path=True)

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 < self.minutes < float("inf"):
            raise UsageError(f"--minutes={self.minutes}: must be above 0 and finite; give minutes, as 30")


def main(named: Sequence[str]) -> int:
    """Run the attacks that are named, or all; return 1 where a try fails."""
    options = from_flags(ChaosOptions)
    unknown = [name for name in named if name not in ATTACKS]
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no attack: choose from {', '.join(ATTACKS)}")
    folder = Path(options.folder or tempfile.mkdtemp(prefix="cxr-chaos-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * options.minutes
    outcomes: list[Outcome] = []
    try:
        for name in (names := list(named or ATTACKS)):
            seconds = (deadline - time.monotonic()) / (len(names) - len(outcomes))
            attack = importlib.import_module(ATTACKS[name]).ATTACK(folder / name)
            outcomes.append(run(attack, options.tries, options.seed, seconds))
            if options.json:
                told = {"machine": machine(), "outcomes": [dataclasses.asdict(o) for o in outcomes]}
                storage.replace(options.json, (json.dumps(told, indent=2) + "\n").encode())
    finally:
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{outcome_table(outcomes)}\n{machine()}")
    return 1 if any(outcome.failures for outcome in outcomes) else 0


if __name__ == "__main__":
    define_flags(ChaosOptions)
    flags.FLAGS.set_gnu_getopt(True)
    command.run_with_arguments(main)
