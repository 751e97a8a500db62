"""What `transfer.json` holds, see `table`: all tables of a comparison, of the runs that are finished."""

import functools
from collections.abc import Mapping
from typing import Any

from cxr_data.records.copies import tied_patients
from cxr_data.records.index import read_split_fields
from cxr_train.transferring import table
from cxr_train.transferring.cell import Cell
from cxr_train.transferring.methods import KINDS
from cxr_train.transferring.plan import Comparison
from cxr_train.transferring.run import ORACLE, STRESS
from cxr_train.transferring.targets import FEW_PATIENTS, Target
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
    settled = functools.partial(
        Cell, baseline=baseline, patients=_patients(found), resamples=resamples, sensitivity=sensitivity
    )
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
            "state": "held out" if one.source in asked else _state(one),
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


def _patients(found: Comparison) -> dict[str, str]:
    """Return by the name of a patient who it is: those of whom the audit found one picture have one name."""
    pool = "+".join(found.manifest.splits)
    groups = (record.group for record in read_split_fields(found.manifest, pool))
    return dict(zip(groups, tied_patients(found.manifest, pool), strict=True))


def _state(target: Target) -> str:
    """Return what becomes of a source that is not held out, in words."""
    if not target.obstacle:
        return "not asked for"
    return TOO_FEW if target.obstacle == FEW_PATIENTS else "not without it"


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
