"""Trials of a search without training: curves are injected as the runner of `searching.study`.

    python tests/helpers/emulated_trials.py kill FOLDER KILLS SEED   # kills searches at random moments
    python tests/helpers/emulated_trials.py mend FOLDER KILLS SEED   # and trials fail in some of their lives
    python tests/helpers/emulated_trials.py regret                   # the table of docs/search.md

It imports no TensorFlow. Each life of a search is a fork of one process, so that it starts at once.
"""

import json
import math
import os
import pathlib
import random
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Collection

import numpy as np

from cxr_data.core.errors import DataError
from cxr_train.searching import table
from cxr_train.searching.ledger import Ledger, Outcome
from cxr_train.searching.proposals import Proposals
from cxr_train.searching.space import make_space
from cxr_train.searching.study import Plan, Result, run_search, settings_of_search

SPACE = make_space({name: [0, 1, 2] for name in "abc"}, "--space")
CONFIGURATIONS = [SPACE.flags(SPACE.numbered(number)) for number in range(27)]
EPOCHS = 27
THREE_FAILED = 3
A_THIRD = 27 * EPOCHS // 3
"""Epochs: a third of those that all configurations take without pruning."""


def key(flags) -> str:
    return "".join(flags[name] for name in "abc")


def curves(seed: int, kind: str = "alike") -> dict[str, tuple[float, float]]:
    """By configuration, the value q after many epochs, and the epochs tau in which most of it is learnt.

    Kinds: alike (no two cross), mixed (tau in 1 to 20 at random), slow (the better, the slower).
    """
    draw = np.random.default_rng(seed)
    q = draw.random(27)
    tau = {"alike": np.full(27, 5.0), "mixed": draw.uniform(1, 20, 27), "slow": 1 + 30 * q**2}[kind]
    return {key(flags): (q[i], tau[i]) for i, flags in enumerate(CONFIGURATIONS)}


def value(curve: tuple[float, float], epochs: int) -> float:
    q, tau = curve
    return float(q * (1 - math.exp(-epochs / tau)))


class Curves:
    """A runner of trials whose values are read off curves.

    Args:
      of: the curve of each configuration.
      folder: has a file a trial, of a byte for each epoch that was trained; none is kept by default.
      seconds: that an epoch takes.
      fails: configurations that fail after their first `fails_after` epochs; or whether one fails now.
      fails_after: see `fails`.
      stops_after: epochs after which early stopping ends a trial.
    """

    def __init__(
        self,
        of,
        folder: pathlib.Path | None = None,
        seconds: float = 0,
        fails: Collection[str] | Callable[[str], bool] = (),
        fails_after: int = 0,
        stops_after: int = EPOCHS,
    ) -> None:
        self.of, self.folder, self.seconds = of, folder, seconds
        self.fails = fails if callable(fails) else fails.__contains__
        self.fails_after, self.stops_after = fails_after, stops_after
        self.trained: list[tuple[int, int]] = []
        self.configurations: dict[int, str] = {}
        self.done: dict[int, int] = {}

    def train(self, trial, flags, epochs) -> Outcome | None:
        self.trained.append((trial, epochs))
        self._refuse_another(trial, key(flags))
        has_failed = epochs > self.fails_after and self.fails(key(flags))
        path = self.folder / f"trial-{trial}" if self.folder else None
        done = path.stat().st_size if path and path.exists() else self.done.get(trial, 0)
        epochs = min(max(done, self.fails_after) if has_failed else epochs, self.stops_after)
        while path and done < epochs:
            time.sleep(self.seconds)
            with path.open("ab") as file:
                file.write(b".")
            done += 1
        self.done[trial] = epochs
        spent = epochs, epochs / 4, epochs / 2
        if has_failed:
            return Outcome(None, *spent, failed="failed, exit code 1")
        size = 1000 + 7 * int(key(flags), 3)
        return Outcome(value(self.of[key(flags)], epochs), *spent, size, 2.0 * size)

    def _refuse_another(self, trial: int, configuration: str) -> None:
        """A run directory refuses any other configuration than that with which it began."""
        there = self.configurations.setdefault(trial, configuration)
        if self.folder:
            path = self.folder / f"trial-{trial}.{configuration}"
            path.touch()
            (there,) = (one.suffix[1:] for one in self.folder.glob(f"trial-{trial}.*"))
        assert there == configuration, f"trial {trial} has {there}, not {configuration}"


def search(seed: int, runner: Curves, ledger: Ledger | None = None, sampler="random", **plan) -> Result:
    """A search of the whole space, or of what `plan` says."""
    chosen = Plan(**{"trials": 27, "epochs": EPOCHS, **plan})
    first = SPACE.usual({})
    ledger = ledger if ledger is not None else Ledger(None, {})
    return run_search(SPACE, chosen, Proposals(SPACE, sampler, seed, first), ledger, runner)


def whole_search(folder: pathlib.Path, seed: int, seconds: float, sampler: str, fails=None) -> None:
    """A search that goes on with what is in its folder, and writes its table there.

    Without `fails`, of `Curves`, one configuration fails always.
    """
    folder.mkdir(exist_ok=True)
    plan, first = Plan(27, EPOCHS), SPACE.usual({})
    ledger = Ledger(folder / "trials.jsonl", settings_of_search(SPACE, plan, sampler, seed, first, {}))
    fails = {key(CONFIGURATIONS[seed % 26 + 1])} if fails is None else fails
    result = search(seed, Curves(curves(seed), folder, seconds, fails), ledger, sampler)
    found = table.make_table(result, plan, ledger, metric="accuracy", sampler=sampler, seed=seed)
    table.write_table(folder, found)


def kill(folder: pathlib.Path, kills: int, seed: int, is_mended: bool) -> None:
    """Kills searches at random moments, until there were so many; prints what each came to, as JSON.

    Args:
      folder: of the searches.
      kills: that they have to outlive together.
      seed: of the moments.
      is_mended: whether half of the lives are on a machine on which half of the configurations fail, and
        others the next time. Such a search is compared with itself after one more start, others with one that
        was not killed.
    """
    draw, killed, number, said = random.Random(seed), 0, 0, []
    while killed < kills:
        sampler = "tpe" if is_mended or number % 2 else "random"
        place, whole, lives, code, machine = folder / f"search-{number}", folder / f"whole-{number}", 0, -1, 0
        began = time.monotonic()
        whole_search(whole, number, 0.002, sampler)
        lasted = time.monotonic() - began
        while code or machine:
            is_last = killed >= kills
            machine = draw.getrandbits(32) if is_mended and not is_last and draw.random() < 0.5 else 0
            seconds = None if is_last else draw.uniform(0, lasted)
            code = _life(place, number, sampler, seconds, _failures(machine) if is_mended else None)
            lives, killed = lives + 1, killed + (code == -signal.SIGKILL)
            assert code in (0, -signal.SIGKILL) or (machine and code == THREE_FAILED), code
        found = _written(place)
        if is_mended:
            whole_search(place, number, 0, sampler, ())
            whole = place
        rows = json.loads((place / "search.json").read_text())["trials"]
        said.append(
            {
                "lives": lives,
                "same": found == _written(whole),
                "trained twice": any(_epochs(place, row["number"]) != row["epochs"] for row in rows),
                "configurations": len({key(row["flags"]) for row in rows}),
                "failed": sum(row["status"].startswith("failed") for row in rows),
            }
        )
        number += 1
    print(json.dumps({"kills": killed, "searches": said}))


def _written(place: pathlib.Path) -> list[object]:
    """The tables of a search, and its ledger, without the repetitions of what failed again."""
    lines = (place / "trials.jsonl").read_bytes().splitlines()
    tables = [(place / f"search.{ending}").read_bytes() for ending in ("json", "csv", "txt")]
    return [*tables, [*dict.fromkeys(lines)]]


def _epochs(place: pathlib.Path, trial: int) -> int:
    path = place / f"trial-{trial}"
    return path.stat().st_size if path.exists() else 0


def _failures(machine: int) -> Callable[[str], bool]:
    """What fails on a machine: half of all configurations; on machine 0 none."""
    return lambda configuration: bool(machine) and random.Random(f"{machine} {configuration}").random() < 0.5


def _life(place: pathlib.Path, number: int, sampler: str, seconds: float | None, fails) -> int:
    """Exit code of a search that is killed after some seconds; None: never."""
    pid = os.fork()
    if not pid:
        try:
            whole_search(place, number, 0.002, sampler, fails)
        except DataError:
            os._exit(THREE_FAILED)
        finally:  # with a traceback, where it ends in any other error
            if sys.exception():
                traceback.print_exc()
            os._exit(1 if sys.exception() else 0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)  # it is still there, at least as a zombie
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def regret(seed: int, kind: str, sampler: str = "random") -> tuple[float, int]:
    """By how much the winner is worse than the best of all, after all epochs; and the epochs spent."""
    of, ledger, plan = curves(seed, kind), Ledger(None, {}), Plan(27, EPOCHS)
    winner = search(seed, Curves(of), ledger, sampler).winner(plan)
    best = max(value(curve, EPOCHS) for curve in of.values())
    return best - winner.last.value, ledger.spent().epochs


def regret_of_whole_trials(seed: int, kind: str, epochs: int) -> float:
    """Expected regret where so many epochs are spent on whole trials drawn at random."""
    values = sorted((value(curve, EPOCHS) for curve in curves(seed, kind).values()), reverse=True)
    trials, all_trials = max(epochs // EPOCHS, 1), len(values)
    chances = (math.comb(all_trials - place, trials - 1) for place in range(1, all_trials + 1))
    return values[0] - math.fsum(c * v for c, v in zip(chances, values, strict=True)) / math.comb(27, trials)


def print_regrets(seeds: int = 100) -> None:
    columns = ("sampler", "curves", "best found", "mean regret", "95 % below", "of whole trials", "epochs")
    columns += ("95 % below", "at most a third")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for sampler in ("random", "tpe"):
        for kind in ("alike", "mixed", "slow"):
            found = [regret(seed, kind, sampler) for seed in range(seeds)]
            losses, epochs = [loss for loss, _ in found], sorted(spent for _, spent in found)
            whole = [regret_of_whole_trials(seed, kind, found[seed][1]) for seed in range(seeds)]
            last = int(0.95 * seeds)
            best = sum(loss == 0 for loss in losses)
            third = sum(spent <= A_THIRD for spent in epochs)
            print(
                f"| {sampler} | {kind} | {best} of {seeds} "
                f"| {statistics.fmean(losses):.3f} | {sorted(losses)[last]:.3f} "
                f"| {statistics.fmean(whole):.3f} "
                f"| {statistics.fmean(epochs):.0f} | {epochs[last]} | {third} of {seeds} |",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1] == "regret":
        print_regrets()
    else:
        kill(pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[1] == "mend")
