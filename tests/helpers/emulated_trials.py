"""Trials of a search without training: curves are injected as the runner of `searching.study`.

    python tests/helpers/emulated_trials.py kill FOLDER KILLS SEED   # kills searches at random moments
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

import numpy as np

from cxr_train.searching import table
from cxr_train.searching.ledger import Ledger, Outcome
from cxr_train.searching.proposals import Proposals
from cxr_train.searching.space import make_space
from cxr_train.searching.study import Plan, Result, run_search, settings_of_search

SPACE = make_space({name: [0, 1, 2] for name in "abc"}, "--space")
CONFIGURATIONS = [SPACE.flags(SPACE.numbered(number)) for number in range(27)]
EPOCHS = 27
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
      fails: configurations that fail.
    """

    def __init__(self, of, folder: pathlib.Path | None = None, seconds: float = 0, fails=()) -> None:
        self.of, self.folder, self.seconds, self.fails = of, folder, seconds, fails
        self.trained: list[tuple[int, int]] = []

    def train(self, trial, flags, epochs) -> Outcome:
        self.trained.append((trial, epochs))
        if key(flags) in self.fails:
            return Outcome(None, failed="failed, exit code 1")
        if self.folder:
            path = self.folder / f"trial-{trial}"
            path.touch()
            while path.stat().st_size < epochs:
                time.sleep(self.seconds)
                with path.open("ab") as file:
                    file.write(b".")
        size = 1000 + 7 * int(key(flags), 3)
        return Outcome(value(self.of[key(flags)], epochs), epochs / 4, epochs / 2, size, 2.0 * size)


def search(seed: int, runner: Curves, ledger: Ledger | None = None, sampler="random", **plan) -> Result:
    """A search of the whole space, or of what `plan` says."""
    chosen = Plan(**{"trials": 27, "epochs": EPOCHS, **plan})
    first = SPACE.usual({})
    ledger = ledger if ledger is not None else Ledger(None, {})
    return run_search(SPACE, chosen, Proposals(SPACE, sampler, seed, first), ledger, runner)


def whole_search(folder: pathlib.Path, seed: int, seconds: float, sampler: str) -> None:
    """A search that goes on with what is in its folder, and writes its table there."""
    folder.mkdir(exist_ok=True)
    plan, first = Plan(27, EPOCHS), SPACE.usual({})
    ledger = Ledger(folder / "trials.jsonl", settings_of_search(SPACE, plan, sampler, seed, first, {}))
    fails = {key(CONFIGURATIONS[seed % 26 + 1])}
    result = search(seed, Curves(curves(seed), folder, seconds, fails), ledger, sampler)
    found = table.make_table(result, plan, ledger, metric="accuracy", sampler=sampler, seed=seed)
    table.write_table(folder, found)


def kill(folder: pathlib.Path, kills: int, seed: int) -> None:
    """Kills searches at random moments, until there were so many; prints what each came to, as JSON."""
    draw, killed, number, said = random.Random(seed), 0, 0, []
    while killed < kills:
        sampler = ("random", "tpe")[number % 2]
        place, whole, lives = folder / f"search-{number}", folder / f"whole-{number}", 1
        began = time.monotonic()
        whole_search(whole, number, 0.002, sampler)
        lasted = time.monotonic() - began
        while not _lived(place, number, sampler, draw.uniform(0, lasted) if killed < kills else None):
            killed, lives = killed + 1, lives + 1
        names = ("search.json", "search.csv", "search.txt", "trials.jsonl")
        same = [name for name in names if (place / name).read_bytes() == (whole / name).read_bytes()]
        rows = json.loads((place / "search.json").read_text())["trials"]
        rows = [row for row in rows if row["value"] is not None]
        epochs = [(place / f"trial-{row['number']}").stat().st_size for row in rows]
        twice = epochs != [row["epochs"] for row in rows]
        said.append({"lives": lives, "same": len(same) == len(names), "trained twice": twice})
        number += 1
    print(json.dumps({"kills": killed, "searches": said}))


def _lived(place: pathlib.Path, number: int, sampler: str, seconds: float | None) -> bool:
    """Whether a search came to its end in a life that is killed after some seconds; None: never."""
    pid = os.fork()
    if not pid:
        whole_search(place, number, 0.002, sampler)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)  # it is still there, at least as a zombie
    return os.waitpid(pid, 0)[1] == 0


def regret(seed: int, kind: str, sampler: str = "random") -> tuple[float, int]:
    """By how much the winner is worse than the best of all, after all epochs; and the epochs spent."""
    of, ledger, plan = curves(seed, kind), Ledger(None, {}), Plan(27, EPOCHS)
    winner = search(seed, Curves(of), ledger, sampler).winner(plan)
    best = max(value(curve, EPOCHS) for curve in of.values())
    return best - winner.last.value, ledger.epochs


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
        kill(pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
