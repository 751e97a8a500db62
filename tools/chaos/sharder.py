"""Kills of a conversion: the same command, repeated, makes the bytes of one that was never disturbed."""

import csv
import dataclasses
import functools
import itertools
import random
import shutil
from pathlib import Path

from sharder_fixtures import content_of, encoded, make_source, picture, save

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.core.local_store import TEMPORARY_SUFFIX
from cxr_data.records.layout import LEDGER_NAME
from tools.chaos.attack import Attack
from tools.chaos.life import Life, have_ended, strike

_IMAGES = 18
_MOST_BLOWS = 3
# Most tries without, as a worker starts in the time of seven conversions.
_WORKERS = (*[0] * 10, 1, 2)


@dataclasses.dataclass
class Case:
    """A conversion.

    Attributes:
      source: a folder or a CSV.
      audit: whether it ends with an audit.
      undisturbed: what it makes.
      seconds: that it takes, by its number of workers.
    """

    source: Path
    audit: bool
    undisturbed: dict[str, bytes]
    seconds: dict[int, float]

    def convert(self, output: Path, workers: int) -> None:
        """Make the dataset, as `python -m tools.make_tfrecords` does."""
        make_tfrecords(
            SharderConfig(
                str(self.source),
                str(output),
                size=32,
                shard_mb=0.03,
                quiet=True,
                audit=self.audit,
                workers=workers,
            )
        )

    def assert_whole_or_absent(self, output: Path) -> None:
        """Assert that what has its final name is as it must be, at any moment; the ledger grows."""
        for name, content in content_of(output).items():
            if not name.endswith(TEMPORARY_SUFFIX) and name != LEDGER_NAME:
                assert content == self.undisturbed.get(name), f"{name} is not whole after the kill"

    def assert_the_same(self, output: Path) -> None:
        """Assert that the dataset is the one of a conversion that was never disturbed."""
        made = content_of(output)
        other = [
            name
            for name in sorted(made.keys() | self.undisturbed.keys())
            if made.get(name) != self.undisturbed.get(name)
        ]
        assert not other, f"not as undisturbed: {', '.join(other)}"


class SharderKills(Attack):
    """SIGKILL, SIGTERM, SIGSTOP with SIGCONT, to the process, to its group, or to a worker."""

    name, unit, usual = "sharder", "kills", 1000

    def prepare(self) -> None:
        """Convert each case undisturbed."""
        folder = make_source(self.folder / "source", _IMAGES)
        save(folder / "covid/bad.png", encoded(picture(1))[:-30])
        self._cases = [
            Case(source, audit, {}, {})
            for source, audit in itertools.product((folder, _csv_of(folder)), (False, True))
        ]
        for case in self._cases:
            self._undisturbed(case, 0)

    def _undisturbed(self, case: Case, workers: int) -> None:
        """Measure how long it takes with so many workers, and keep what it makes, or compare it."""
        output = self.folder / "undisturbed"
        life = Life(functools.partial(case.convert, output, workers), self._log)
        life.succeed()
        case.seconds[workers] = life.seconds
        case.undisturbed = case.undisturbed or content_of(output)
        case.assert_the_same(output)
        shutil.rmtree(output)

    def attempt(self, seed: int) -> int:
        """Strike up to three times in a row, then let it finish."""
        rng = random.Random(seed)
        case, workers, output = rng.choice(self._cases), rng.choice(_WORKERS), self.folder / "out"
        shutil.rmtree(output, ignore_errors=True)
        if workers not in case.seconds:
            self._undisturbed(case, workers)
        blows, left_alone = 0, []
        for _ in range(rng.randint(1, _MOST_BLOWS)):
            life = Life(lambda: case.convert(output, workers), self._log)
            try:
                if life.wait(rng.random() * case.seconds[workers]) is not None:
                    life.succeed()
                    case.seconds[workers] = life.seconds
                    break
                left_alone += life.children()
                blows += 1
                ends = strike(life, rng)
                code = life.wait()
                assert code is not None, f"it hangs: {life.last_line()}"
                assert ends or code in (0, 1), f"exit code {code}: {life.last_line()}"
                case.assert_whole_or_absent(output)
            except BaseException:
                life.end()
                raise
        life = Life(lambda: case.convert(output, workers), self._log)
        life.succeed()
        case.seconds[workers] = max(0.99 * case.seconds[workers], life.seconds)
        case.assert_the_same(output)
        assert have_ended(left_alone), "a worker goes on without its parent"
        return blows

    @property
    def _log(self) -> Path:
        return self.folder / "log"


def _csv_of(folder: Path) -> Path:
    """Write the CSV of a folder, with patients and splits, and return its path."""
    path = folder.with_name("source.csv")
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label", "group", "split"))
        for number, picture_path in enumerate(sorted(folder.rglob("*.*"))):
            split = ("train", "train", "validation", "test")[number // 2 % 4]
            rows.writerow((picture_path, picture_path.parent.name, f"patient{number // 2}", split))
    return path


ATTACK = SharderKills
