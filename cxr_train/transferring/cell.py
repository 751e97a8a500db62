"""The runs of all methods on the same pictures: which are finished, which are chosen, what they are worth."""

import collections
import dataclasses
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_train.evaluation.compare import align
from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.runs.monitor import Monitor
from cxr_train.transferring.compare import Estimate, over_seeds
from cxr_train.transferring.measure import METRICS, Measured, measure, monitored
from cxr_train.transferring.methods import PRIOR
from cxr_train.transferring.run import TransferRun

Trial = tuple[int, int]
"""The seed and the draw of a run."""
Estimates = dict[str, Estimate]
Chosen = dict[int, tuple[TransferRun, float]]
"""By seed the run of the best draw, and its metric of validation patients."""


class Cell:
    """The runs of all methods on the same pictures.

    Args:
      runs: of one `TransferRun.cell`; those that are not finished are counted, and left out.
      baseline: the method whose runs test-time methods change.
      patients: by the name of a record's patient, who that is; patients of two names have one here, see
        `copies.tied_patients`. One that is not there is who it says.
      bootstrap_seed: of its patients.
      resamples: of the bootstrap.
      sensitivity: that thresholds reach on validation patients.
    """

    def __init__(
        self,
        runs: Sequence[TransferRun],
        *,
        baseline: str,
        patients: Mapping[str, str],
        bootstrap_seed: int,
        resamples: int,
        sensitivity: float,
    ) -> None:
        self._baseline, self._patients = baseline, patients
        self._runs = [run for run in runs if run.is_finished]
        self._planned = collections.Counter(run.name for run in runs)
        self._seed, self._resamples, self._sensitivity = bootstrap_seed, resamples, sensitivity
        self._values: dict[pathlib.Path, float | None] = {}
        # Runs that test-time methods change share the directory of another run.
        self._measured: dict[tuple[str, pathlib.Path, bool, tuple[str, ...] | None], Measured] = {}

    def finished(self, method: str) -> tuple[int, int]:
        """Return how many runs of a method are finished, and how many there are to be."""
        return len(self._trials(method)), self._planned[self._trained(method)]

    def chosen(self, method: str, among: Collection[Trial] | None = None) -> Chosen:
        """Return of each seed the draw that is best on validation patients, with that value; the first of
        several.

        Args:
          among: the trials to choose from; all that are finished by default.
        """
        best: Chosen = {}
        for run in sorted(self._runs, key=lambda run: (run.seed, run.draw)):
            if run.name != self._trained(method) or (among is not None and (run.seed, run.draw) not in among):
                continue
            monitor, value = Monitor(run.config.monitor), self._value(run)
            if value is not None and (run.seed not in best or monitor.improves(value, best[run.seed][1])):
                best[run.seed] = run, value
        return best

    def estimates(self, method: str, ids: Sequence[str] | None = None) -> Estimates | None:
        """Return the metrics of a method; None where no run of it is finished.

        Args:
          ids: of the pictures that are measured; all by default.
        """
        chosen = [run for run, _ in self.chosen(method).values()]
        return self._over(method, chosen, None if ids is None else tuple(ids)) if chosen else None

    def paired(self, method: str) -> tuple[Estimates, Estimates, int] | None:
        """Return the metrics of a method and of the baseline by the trials that both have finished.

        Where a run failed, its counterpart is left out too: both choose among the same draws of the same
        seeds.

        Returns:
          Those of the method, those of the baseline, and the number of seeds; None where they share none.
        """
        both = self._trials(method) & self._trials(self._baseline)
        ours, theirs = self.chosen(method, both), self.chosen(self._baseline, both)
        if not (seeds := sorted(ours.keys() & theirs.keys())):
            return None
        of_method = self._over(method, [ours[seed][0] for seed in seeds])
        return of_method, self._over(self._baseline, [theirs[seed][0] for seed in seeds]), len(seeds)

    def row(self, method: str) -> dict[str, Any]:
        """Return the row of a method, without the comparison; metrics are null where no run is finished."""
        found = self.estimates(method)
        finished, planned = self.finished(method)
        chosen = [
            {"seed": run.seed, "draw": run.draw, "directory": str(run.directory), "validation": value}
            for run, value in self.chosen(method).values()
        ]
        return {
            "method": method,
            "runs": {"finished": finished, "planned": planned},
            "seeds": len(chosen),
            "chosen": chosen,
            **entries(found),
        }

    @property
    def tested_ids(self) -> tuple[str, ...]:
        """The pictures that were held out; empty where no run is finished."""
        return self._runs[0].held_out.ids if self._runs else ()

    def _value(self, run: TransferRun) -> float | None:
        """Return the metric of a run's validation patients."""
        if run.directory not in self._values:
            said, monitor = run.chosen_on, Monitor(run.config.monitor)
            self._values[run.directory] = monitored(
                said.labels, said.probabilities, said.class_names, monitor
            )
        return self._values[run.directory]

    def _trained(self, method: str) -> str:
        """Return the method whose runs a method takes."""
        return self._baseline if method == PRIOR else method

    def _trials(self, method: str) -> set[Trial]:
        return {(run.seed, run.draw) for run in self._runs if run.name == self._trained(method)}

    def _over(
        self, method: str, runs: Sequence[TransferRun], ids: tuple[str, ...] | None = None
    ) -> Estimates:
        return over_seeds([self._measure(run, ids, corrected=method == PRIOR) for run in runs])

    def _measure(self, run: TransferRun, ids: tuple[str, ...] | None, *, corrected: bool) -> Measured:
        key = run.name, run.directory, corrected, ids
        if key not in self._measured:
            first = self._held_out(self._runs[0])
            rows = None if ids is None else np.isin(first.ids, list(ids))
            kept = first.groups if rows is None else [g for g, k in zip(first.groups, rows, strict=True) if k]
            bootstrap = PatientBootstrap.of_names(kept, resamples=self._resamples, seed=self._seed)
            self._measured[key] = measure(
                run.chosen_on,
                align(first, self._held_out(run)),
                bootstrap,
                self._sensitivity,
                rows=rows,
                prior=run.training_prior if corrected else None,
            )
        return self._measured[key]

    def _held_out(self, run: TransferRun) -> NamedPredictions:
        """Return the predictions of what was held out, with the patients that they are of."""
        said = run.held_out
        groups = tuple(self._patients.get(group, group) for group in said.groups)
        return dataclasses.replace(said, groups=groups)


def entries(estimates: Estimates | None) -> dict[str, Any]:
    """Return value and interval of each metric, ready for JSON; null where there are none."""
    if estimates is None:
        return {metric: {"value": None, "interval": None} for metric in METRICS}
    return {metric: estimates[metric].entry(is_share=True) for metric in METRICS}
