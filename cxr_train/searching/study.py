"""The search itself: trials one after the other, each trained rung by rung while it is among the best.

Successive halving by Optuna's SuccessiveHalvingPruner: after 1, 3, 9, ... epochs a trial goes on only if it
is in the best third of all that came so far. This is ASHA (Li et al., MLSys 2020) but for one difference: in
ASHA a trial that was held back goes on later, once enough worse ones have come; here it is pruned for good.
The whole search is a function of its settings and of what `TrialRunner` returns. One that was killed does all
steps again, and what the ledger has is not trained a second time, but for failures after which no trial has
reached anything.
"""

import dataclasses
import math
import os
import pathlib
import sqlite3
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cxr_data.core.errors import DataError, UsageError
from cxr_train.searching.ledger import Ledger, Outcome, Rung
from cxr_train.searching.proposals import Proposals
from cxr_train.searching.space import Params, Space, make_space

if TYPE_CHECKING:
    import optuna

PRUNERS = ("asha", "none")
REDUCTION = 3
FINISHED, PRUNED, FAILED, WAITING = "finished", "pruned", "failed", "waiting"
_FAILURES = 3  # in a row: the fault may not be the configurations'
# Searches that are drawn to say how many epochs one takes; each needs a moment.
_DRAWS, _FEW_TRIALS = 10, 50
# A search of so many takes 0.7 s; its time grows faster than their number.
_MOST_SIMULATED = 300


class TrialRunner(Protocol):
    """Trains a trial up to some epochs; a trial that was interrupted goes on where it was."""

    def train(self, trial: int, flags: Mapping[str, str], epochs: int) -> Outcome | None:
        """Return what a trial reached after `epochs` in all; None where the search was asked to stop."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a search may spend; None is no limit."""

    epochs: int | None = None
    gpu_seconds: float | None = None
    seconds: float | None = None

    def spent_by(self, ledger: Ledger, more_epochs: int) -> str | None:
        """Return which limit forbids `more_epochs`; None where none does."""
        spent = ledger.spent()
        if self.epochs is not None and spent.epochs + more_epochs > self.epochs:
            return f"{self.epochs:,} epochs"
        if self.gpu_seconds is not None and spent.gpu_seconds >= self.gpu_seconds:
            return f"{self.gpu_seconds:,g} GPU-seconds"
        if self.seconds is not None and spent.seconds >= self.seconds:
            return f"{self.seconds / 3600:g} hours"
        return None


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a search goes.

    Attributes:
      trials: configurations to try, at most.
      epochs: of a trial that is never pruned.
      least_epochs: of the first rung.
      pruner: one of `PRUNERS`.
      maximize: whether a larger value is better.
      budget: what it may spend.
    """

    trials: int
    epochs: int
    least_epochs: int = 1
    pruner: str = "asha"
    maximize: bool = True
    budget: Budget = Budget()

    def __post_init__(self) -> None:
        if self.least_epochs > self.epochs:
            raise UsageError(f"--least_epochs={self.least_epochs}: must be at most --epochs={self.epochs}")

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs after which a trial is looked at; the last is its end."""
        if self.pruner == "none":
            return (self.epochs,)
        steps = [self.least_epochs]
        while steps[-1] * REDUCTION < self.epochs:
            steps.append(steps[-1] * REDUCTION)
        return tuple(dict.fromkeys([*steps, self.epochs]))


@dataclasses.dataclass
class Trial:
    """A trial, as far as it came.

    Attributes:
      number: from 0; the first is the default configuration.
      params: its configuration.
      flags: the flags of it, as text.
      rungs: by epochs, what it reached.
      failure: the outcome with which it failed after these rungs; None where it did not.
      status: `finished`, `pruned`, `failed` or `waiting`.
    """

    number: int
    params: Params
    flags: Mapping[str, str]
    rungs: dict[int, Outcome] = dataclasses.field(default_factory=dict)
    failure: Outcome | None = None
    status: str = WAITING

    @property
    def last(self) -> Outcome | None:
        """What it reached in the end; None before its first rung."""
        return next(reversed(self.rungs.values()), None)

    @property
    def epochs(self) -> int:
        """That it was really trained for."""
        last = self.failure or self.last
        return last.trained if last else 0

    def epochs_to(self, rung: int) -> int:
        """Return how many more epochs it takes to a rung; none once early stopping ended it."""
        reached = next(reversed(self.rungs), 0)
        has_stopped = self.failure is None and self.epochs < reached
        return 0 if has_stopped else rung - self.epochs


@dataclasses.dataclass(frozen=True)
class Result:
    """What a search came to.

    Attributes:
      trials: by their numbers.
      stopped: whether it was asked to stop.
      why: in words, why there are no more trials; empty where all were tried.
      study: the same, Optuna's.
    """

    trials: list[Trial]
    stopped: bool
    why: str
    study: "optuna.Study"

    def winner(self, plan: Plan) -> Trial | None:
        """Return the best trial of those that were trained to the end; the first of several."""
        sign = 1 if plan.maximize else -1
        finished = [trial for trial in self.trials if trial.status == FINISHED]
        return max(finished, key=lambda trial: sign * _value(trial), default=None)


def run_search(space: Space, plan: Plan, proposals: Proposals, ledger: Ledger, runner: TrialRunner) -> Result:
    """Run what is left of a search.

    Raises:
      DataError: three trials in a row failed for the first time, or the ledger has a trial of another search.
    """
    optuna = import_optuna()
    study = optuna.create_study(
        direction="maximize" if plan.maximize else "minimize",
        sampler=optuna.samplers.RandomSampler(seed=0),  # draws nothing: every trial is given its values
        pruner=optuna.pruners.SuccessiveHalvingPruner(plan.least_epochs, REDUCTION)
        if plan.pruner == "asha"
        else optuna.pruners.NopPruner(),
    )
    trials: list[Trial] = []
    failures: list[Trial] = []
    for number in range(plan.trials):
        begun = ledger.params(number)
        known = ledger.rungs(number)
        if begun is not None and not (space.has(begun) and known == plan.rungs[: len(known)]):
            raise DataError(
                f"trial {number} of the search is not of its space, or lacks a rung: choose another --run_dir"
            )
        params = begun or proposals.propose(study, number, [one.params for one in trials])
        if params is None:
            return Result(trials, False, "every configuration of the space was tried", study)
        trial = Trial(number, params, space.flags(params))
        limit = None if known else plan.budget.spent_by(ledger, plan.rungs[0])
        if limit:
            return Result(trials, False, _spent(limit), study)
        trials.append(trial)
        study.enqueue_trial(dict(params))
        why = _climb(trial, study.ask(proposals.distributions()), study, plan, ledger, runner)
        if why is not None:
            return Result(trials, not why, why, study)
        # What was refused, or failed before as well, as for want of memory, is its configuration's fault.
        is_refused = trial.failure is not None and trial.failure.refused
        is_first = trial.status == FAILED and number not in ledger.failed and not is_refused
        failures = [*failures, trial] if is_first else []
        if len(failures) == _FAILURES:
            reasons = "; ".join(f"trial {one.number} {one.failure.failed}" for one in failures if one.failure)
            raise DataError(
                f"{_FAILURES} trials in a row failed ({reasons}): see above why, mend what is not the fault "
                "of their flags, and start again; they are tried once more, and the next follow in any case"
            )
    return Result(trials, False, "", study)


def _climb(
    trial: Trial,
    asked: "optuna.Trial",
    study: "optuna.Study",
    plan: Plan,
    ledger: Ledger,
    runner: TrialRunner,
) -> str | None:
    """Train a trial rung by rung. Return why the search ends here, empty where it was asked to; None where
    it goes on.
    """
    from optuna.trial import TrialState

    for epochs in plan.rungs:
        outcome = ledger.find(trial.number, epochs)
        if outcome is None or (outcome.value is None and trial.number in ledger.to_retry):
            trial.failure = outcome
            limit = plan.budget.spent_by(ledger, trial.epochs_to(epochs))
            if limit is None:
                ledger.begin(trial.number, trial.params)
                outcome = runner.train(trial.number, trial.flags, epochs)
                if outcome is None:
                    return ""
                ledger.add(Rung(trial.number, epochs, outcome))
            elif outcome is None:
                return _spent(limit)
        if outcome.value is None:
            trial.failure, trial.status = outcome, FAILED
            study.tell(asked, state=TrialState.FAIL)
            return None
        trial.failure = None
        trial.rungs[epochs] = outcome
        asked.report(outcome.value, epochs)
        if epochs < plan.epochs and asked.should_prune():
            trial.status = PRUNED
            study.tell(asked, state=TrialState.PRUNED)
            return None
    trial.status = FINISHED
    study.tell(asked, _value(trial))
    return None


def _spent(limit: str) -> str:
    return f"the budget of {limit} is spent"


def import_optuna() -> Any:
    """Return Optuna, quiet. Raise UsageError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UsageError("a search needs Optuna: pip install 'cxr[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _value(trial: Trial) -> float:
    value = trial.last.value if trial.last else None
    return math.nan if value is None else value


def settings_of_search(
    space: Space, plan: Plan, sampler: str, seed: int, first: Params, trained: Mapping[str, object]
) -> dict[str, Any]:
    """Return what decides the trials, their order, rungs and results; more trials or budget go on with it.

    Args:
      space, plan, sampler, seed: of the search.
      first: the choices of trial 0.
      trained: what decides the result of trial 0, by flag; the other trials share it, but for their choices.
    """
    return {
        **{f"--{flag}": value for flag, value in trained.items()},
        "space": space.document(),
        "first": dict(first),
        "sampler": sampler,
        "seed": seed,
        "pruner": plan.pruner,
        "rungs": list(plan.rungs),
        "maximize": plan.maximize,
    }


def typical_epochs(plan: Plan, trials: int) -> int:
    """Return how many epochs so many trials take on average where no two curves cross, and budget is no
    matter.
    """
    simulated = min(trials, _MOST_SIMULATED)
    space = make_space({"trial": list(range(simulated))}, "")
    plan = dataclasses.replace(plan, trials=simulated, budget=Budget())
    spent = []
    for seed in range(_DRAWS if trials <= _FEW_TRIALS else 1):
        ledger, first = Ledger(None, {}), space.numbered(0)
        run_search(space, plan, Proposals(space, "random", seed, first), ledger, _RandomValues(seed))
        spent.append(ledger.spent().epochs)
    return round(statistics.fmean(spent) * trials / simulated)


class _RandomValues:
    """Trials whose values are drawn at random, and stay as they are."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def train(self, trial: int, flags: Mapping[str, str], epochs: int) -> Outcome:
        return Outcome(float(np.random.default_rng([self._seed, trial]).random()), epochs)


def write_study(result: Result, path: pathlib.Path) -> None:
    """Write a search as a study of Optuna in SQLite, whole or not at all, for Optuna's own tools.

    Nothing is read from it again.
    """
    optuna = import_optuna()
    writing = path.with_name(f"{path.name}.writing")
    writing.unlink(missing_ok=True)
    # Not by an address, in which a path may hold `?` and `%`.
    opened = {"creator": lambda: sqlite3.connect(writing, check_same_thread=False)}
    there = optuna.storages.RDBStorage("sqlite://", engine_kwargs=opened)
    study = optuna.create_study(storage=there, study_name="cxr", direction=result.study.direction)
    study.add_trials(result.study.get_trials(deepcopy=False))
    there.remove_session()
    there.engine.dispose()
    os.replace(writing, path)
