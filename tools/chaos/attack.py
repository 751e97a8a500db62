"""What an attack is, and the loop that repeats it with one seed after the other."""

import abc
import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from tools.bench.output import table

_SECONDS_BETWEEN_LINES = 30


class Attack(abc.ABC):
    """One way to do harm, that is tried many times.

    Args:
      folder: receives what it makes; `prepare` makes it.

    Attributes:
      name: on the command line and in the table.
      unit: what is counted, such as kills.
      usual: how many of them are wanted by default.
    """

    name: str
    unit: str
    usual: int

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abc.abstractmethod
    def prepare(self) -> None:
        """Make what all tries share, such as an undisturbed result."""

    @abc.abstractmethod
    def attempt(self, seed: int) -> int:
        """Do harm once, and check what comes of it.

        Args:
          seed: decides everything that is random.

        Returns:
          How many units it did; 0 where the moment was missed.

        Raises:
          Exception: any is a failure of what is attacked.
        """


@dataclasses.dataclass
class Outcome:
    """What came of an attack.

    Attributes:
      attack, unit: its name, and what is counted.
      tries: how many units were done.
      wanted: how many were to be done; fewer are done where the time ends.
      failures: the seed of each failure, and what it was.
      seconds: that it took.
    """

    attack: str
    unit: str
    tries: int
    wanted: int
    failures: dict[int, str]
    seconds: float


def run(attack: Attack, wanted: int | None, first_seed: int, seconds: float) -> Outcome:
    """Try an attack until it has done what is wanted, or its time is over; say each failure as it comes.

    Args:
      attack: the attack.
      wanted: how many units; the usual number where None.
      first_seed: of the first try; the next one has the next seed.
      seconds: after which no try begins.
    """
    begun = told = time.monotonic()
    outcome = Outcome(attack.name, attack.unit, 0, attack.usual if wanted is None else wanted, {}, 0.0)
    shutil.rmtree(attack.folder, ignore_errors=True)
    attack.folder.mkdir(parents=True)
    attack.prepare()
    seed = first_seed
    while outcome.tries < outcome.wanted and time.monotonic() - begun < seconds:
        try:
            outcome.tries += attack.attempt(seed)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
            outcome.tries += 1
            outcome.failures[seed] = " ".join(f"{type(error).__name__}: {error}".split())[:600]
            print(f"{attack.name}: seed {seed} fails: {outcome.failures[seed]}", flush=True)
            print(f"  again: python -m tools.chaos {attack.name} --seed={seed} --tries=1", flush=True)
        seed += 1
        outcome.seconds = round(time.monotonic() - begun, 1)
        if time.monotonic() - told > _SECONDS_BETWEEN_LINES or outcome.tries >= outcome.wanted:
            told = time.monotonic()
            print(
                f"{attack.name}: {outcome.tries} of {outcome.wanted} {attack.unit}, "
                f"{len(outcome.failures)} failures, {outcome.seconds:.0f} s",
                flush=True,
            )
    return outcome


def outcome_table(outcomes: Sequence[Outcome]) -> str:
    """Return a line for each attack: what, how often, failures, seconds."""
    return table(
        outcomes,
        {
            "attack": lambda outcome: outcome.attack,
            "tries": lambda outcome: f"{outcome.tries:,}",
            "of": lambda outcome: outcome.unit,
            "failures": lambda outcome: str(len(outcome.failures)),
            "seconds": lambda outcome: f"{outcome.seconds:.0f}",
        },
    )
