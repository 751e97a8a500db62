"""What `transfer.json` holds, see `table`: all tables of a comparison, of the runs that are finished."""

import functools
from collections.abc import Mapping
from typing import Any

from cxr_train.transferring import table
from cxr_train.transferring.cell import Cell
from cxr_train.transferring.methods import KINDS
from cxr_train.transferring.plan import Comparison
from cxr_train.transferring.run import ORACLE, STRESS
from cxr_train.transferring.text import TOO_FEW


def make_tables(
    found: Comparison, told: Mapping[str, float], *, resamples: int, sensitivity: float
) -> dict[str, Any]:
    """Return the tables, ready for JSON.

    Args:
      found: the comparison.
      told: by source the AUROC of the source itself; empty where it was not measured.
      resamples, sensitivity: see `table`.
    """
    baseline = found.methods[0].name
    settled = functools.partial(Cell, baseline=baseline, resamples=resamples, sensitivity=sensitivity)
    without = {
        name: settled(runs, bootstrap_seed=number)
        for number, (name, runs) in enumerate(found.without.items())
    }
    bounds = {
        name: table.bound(settled(runs, bootstrap_seed=0), without[name], runs[0].name, baseline)
        if runs
        else None
        for name, runs in found.within.items()
    }
    planned = {run.name for runs in found.without.values() for run in runs}
    methods = [one for one in found.methods if one.name in planned | {baseline} or one.kind == KINDS[2]]
    asked = {target.source for target in found.held_out}
    sources = [
        {
            "source": one.source,
            "images": one.images,
            "patients": one.patients,
            "state": "held out" if one.source in asked else "not asked for" if one.is_measurable else TOO_FEW,
            "told_apart": told.get(one.source),
        }
        for one in found.targets
    ]
    return {
        "schema": table.SCHEMA,
        "data": found.manifest.directory,
        "baseline": baseline,
        "budget": {
            "draws": found.budget.draws,
            "seeds": list(found.budget.seeds),
            "shared": found.budget.shared,
        },
        "runs": {"finished": sum(run.is_finished for run in found.runs), "planned": len(found.runs)},
        "chosen_by": found.runs[0].config.monitor if found.runs else None,
        "sensitivity": sensitivity,
        "resamples": resamples,
        "sources": sources,
        "tables": {
            kind: table.table_of_sources(without, methods, baseline, kind)
            for kind in table.kinds_of(methods, baseline)
        },
        "bounds": bounds,
        "notes": list(found.notes),
        "stress": _stress_table(found, settled, baseline),
    }


def _stress_table(found: Comparison, settled: Any, baseline: str) -> dict[str, Any] | None:
    if found.correlated is None or found.stress_data is None:
        return None
    of_methods, of_oracle = (
        settled([run for run in found.stress if run.cell == cell], bootstrap_seed=0)
        for cell in (STRESS, ORACLE)
    )
    tables = table.table_of_stress(of_methods, of_oracle, found.methods, baseline)
    images = {split: len(rows) for split, rows in found.stress_data["data"].items()}
    return tables and {
        "sources": list(found.correlated.sources),
        "classes": list(found.correlated.classes),
        "images": images,
        **tables,
    }
