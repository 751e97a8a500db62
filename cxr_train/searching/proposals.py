"""Which configuration the next trial gets.

The draws of a trial depend on its number and on what earlier trials had reached by then, and on nothing else.
A search that was killed takes those of trials that had begun from its ledger, and draws the others as it
would have.
"""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cxr_train.searching.space import Params, Range, Space

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("random", "tpe")
_STARTUP_TRIALS = 10
_TRIES, _TRIES_OF_TPE = 100, 10  # until one was not tried yet
# Above it, a space is drawn from, since the order of all its configurations would fill the memory.
_MOST_ORDERED = 1_000_000


class Proposals:
    """Chooses the configuration of each trial, no two alike.

    Args:
      space: to choose from.
      sampler: `random`, without replacement; or `tpe`, which after ten trials prefers what is close to the
        best tenth of those before, rounded up (Optuna's default; finished ones count as better than pruned).
      seed: of the draws.
      first: the configuration of the first trial.
    """

    def __init__(self, space: Space, sampler: str, seed: int, first: Params) -> None:
        self._space, self._sampler, self._seed, self._first = space, sampler, seed, first
        size = space.size
        is_ordered = size is not None and size <= _MOST_ORDERED
        self._order = np.random.default_rng(seed).permutation(size) if is_ordered and size else None

    def propose(self, study: "optuna.Study", number: int, tried: Sequence[Params]) -> Params | None:
        """Return the configuration of a trial; None where every one was tried.

        Args:
          study: with what the trials before it reached.
          number: of the trial, from 0.
          tried: the configurations of those before.
        """
        keys = {_key(params) for params in tried}
        candidates = iter([self._first]) if number == 0 else self._candidates(study, number)
        return next((params for params in candidates if _key(params) not in keys), None)

    def distributions(self) -> dict[str, "optuna.distributions.BaseDistribution"]:
        """Return the space in Optuna's words."""
        from optuna import distributions

        found: dict[str, distributions.BaseDistribution] = {}
        for name, dimension in self._space.dimensions.items():
            if isinstance(dimension, Range):
                found[name] = distributions.FloatDistribution(
                    dimension.low, dimension.high, log=dimension.log
                )
            else:
                found[name] = distributions.CategoricalDistribution(tuple(dimension.options))
        return found

    def _candidates(self, study: "optuna.Study", number: int) -> Iterator[Params]:
        if self._sampler == "tpe" and number >= _STARTUP_TRIALS:
            for attempt in range(_TRIES_OF_TPE):
                yield self._by_tpe(study, number, attempt)
        if self._order is not None:
            yield from map(self._space.numbered, self._order.tolist())
            return
        for attempt in range(_TRIES):
            yield self._space.drawn(np.random.default_rng([self._seed, number, attempt]))

    def _by_tpe(self, study: "optuna.Study", number: int, attempt: int) -> Params:
        import optuna

        state = np.random.SeedSequence([self._seed, number, attempt]).generate_state(1)
        # The best of many draws is often one that was tried; further attempts take the first draw.
        sampler = optuna.samplers.TPESampler(
            seed=int(state[0]), constant_liar=False, n_ei_candidates=1 if attempt else 24
        )
        spaces = {name: one for name, one in self.distributions().items() if not one.single()}
        frozen = optuna.trial.create_trial(state=optuna.trial.TrialState.WAITING)
        chosen = sampler.sample_relative(study, frozen, spaces)
        fallback = self._space.drawn(np.random.default_rng([self._seed, number, attempt]))
        return {
            name: dimension.rounded(chosen.get(name, fallback[name]))
            if isinstance(dimension, Range)
            else str(chosen.get(name, fallback[name]))
            for name, dimension in self._space.dimensions.items()
        }


def _key(params: Params) -> str:
    return json.dumps(params, sort_keys=True)
