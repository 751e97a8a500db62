"""The table of a search: what each trial reached, which won, and what mere size would have said.

`search.json`:

    schema        "cxr.search/2"
    metric        of the validation split, that the trials were chosen by; `maximize` says which way is better
    plan          trials, rungs (epochs), pruner, sampler, seed
    spent         epochs, gpu_seconds, seconds of the trials below; `all_epochs`: of these without pruning
    ended         why there are no more trials; empty where all of the plan were tried
    trials        a trial each: number, directory, flags (that vary), status, epochs (really trained), rungs
                  (value by epochs), value (at the last of them), gpu_seconds, parameters, flops (of a forward
                  pass, an image); a status that begins with `failed` says what happened after these rungs
    winner        its number; null where no trial was trained to the end
    size_alone    a rung each, where three trials or more reached it: epochs, trials, and the rank
                  correlations (Spearman) of `parameters` and `flops` with the value; above 0: larger is
                  better; null where all are of one size
    comparison    null, or what `ablation.json` holds of the winner's and the default's runs on a split by
                  which no trial was chosen, if there is one
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr_data.core.csv_table import csv_bytes
from cxr_data.core.wording import counted, wrapped
from cxr_train.runs.layout import SearchLayout
from cxr_train.runs.tables import write_tables
from cxr_train.searching.ledger import SCHEMA, Ledger
from cxr_train.searching.study import FAILED, FINISHED, PRUNED, WAITING, Plan, Result, Trial
from cxr_train.searching.trial_runs import trial_name

_LEAST_TRIALS = 3
Row = dict[str, Any]


def make_table(
    result: Result,
    plan: Plan,
    ledger: Ledger,
    *,
    metric: str,
    sampler: str,
    seed: int,
    comparison: Mapping[str, Any] | None = None,
) -> Row:
    """Put the table of a search together, ready for JSON.

    Args:
      result, plan, ledger: of the search.
      metric: that the trials were chosen by.
      sampler, seed: how configurations were drawn.
      comparison: see above.
    """
    winner = result.winner(plan)
    spent = ledger.spent(range(len(result.trials)))
    return {
        "schema": SCHEMA,
        "metric": metric,
        "maximize": plan.maximize,
        "plan": {
            "trials": plan.trials,
            "rungs": list(plan.rungs),
            "pruner": plan.pruner,
            "sampler": sampler,
            "seed": seed,
        },
        "spent": {
            **dataclasses.asdict(spent),
            "all_epochs": plan.epochs * len(result.trials),
        },
        "ended": result.why,
        "trials": [_row(trial) for trial in result.trials],
        "winner": None if winner is None else winner.number,
        "size_alone": [_size_alone(result.trials, epochs, plan) for epochs in _rungs_to_rank(result, plan)],
        "comparison": comparison,
    }


def _row(trial: Trial) -> Row:
    last, failure = trial.last, trial.failure
    status = f"{trial.status}: {failure.failed}" if failure else trial.status
    latest = failure or last
    return {
        "number": trial.number,
        "directory": trial_name(trial.number),
        "flags": dict(trial.flags),
        "status": status,
        "epochs": trial.epochs,
        "rungs": {str(epochs): outcome.value for epochs, outcome in trial.rungs.items()},
        "value": last.value if last else None,
        "gpu_seconds": latest.gpu_seconds if latest else 0.0,
        "parameters": last.parameters if last else None,
        "flops": last.flops if last else None,
    }


def _reached(trials: Sequence[Trial], epochs: int) -> list[Trial]:
    return [one for one in trials if epochs in one.rungs and one.rungs[epochs].value is not None]


def _rungs_to_rank(result: Result, plan: Plan) -> list[int]:
    return [epochs for epochs in plan.rungs if len(_reached(result.trials, epochs)) >= _LEAST_TRIALS]


def _size_alone(trials: Sequence[Trial], epochs: int, plan: Plan) -> Row:
    there = [one.rungs[epochs] for one in _reached(trials, epochs)]
    sign = 1 if plan.maximize else -1
    values = [sign * (outcome.value or 0.0) for outcome in there]
    return {
        "epochs": epochs,
        "trials": len(there),
        "parameters": rank_correlation([outcome.parameters for outcome in there], values),
        "flops": rank_correlation([outcome.flops for outcome in there], values),
    }


def rank_correlation(sizes: Sequence[float | None], values: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None where a size is not known, or all of one side are equal."""
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes) or len(set(known)) < 2 or len(set(values)) < 2:
        return None
    from scipy.stats import spearmanr

    # A whole number in a ledger of somebody else may have more than the 64 bits of NumPy's.
    return float(spearmanr(np.asarray(known, np.float64), np.asarray(values, np.float64)).statistic)


def to_csv(table: Mapping[str, Any]) -> bytes:
    """Return a line for each trial."""
    flags = _varied(table)
    rungs = [str(epochs) for epochs in table["plan"]["rungs"]]
    ends = ["value", "gpu_seconds", "parameters", "flops"]
    lines: list[list[object]] = [
        ["trial", *flags, "status", "epochs", *(f"after_{epochs}" for epochs in rungs), *ends]
    ]
    for row in table["trials"]:
        values = [row["rungs"].get(epochs) for epochs in rungs]
        cells = [row["number"], *(row["flags"].get(flag) for flag in flags), row["status"], row["epochs"]]
        lines.append([*cells, *values, *(row[name] for name in ends)])
    return csv_bytes(lines)


def _varied(table: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(flag for row in table["trials"] for flag in row["flags"]))


def ranked(table: Mapping[str, Any]) -> list[Row]:
    """Return the trials, those that reached the highest rung first, and of these the best first."""
    sign = -1 if table["maximize"] else 1

    def place(row: Row) -> tuple[int, float, int]:
        value = row["value"]
        return (-len(row["rungs"]), 0.0 if value is None else sign * value, row["number"])

    return sorted(table["trials"], key=place)


def to_text(table: Mapping[str, Any]) -> str:
    """Return the table for the terminal."""
    rungs = [str(epochs) for epochs in table["plan"]["rungs"]]
    lines = [f"{'trial':>5} {'epochs':>6} {'status':<9}" + "".join(f"{f'after {r}':>10}" for r in rungs)]
    for row in ranked(table):
        cells = "".join(f"{_number(row['rungs'].get(epochs)):>10}" for epochs in rungs)
        flags = " ".join(f"--{name}={value}" for name, value in row["flags"].items())
        status = row["status"].partition(":")[0]
        lines += [f"{row['number']:>5} {row['epochs']:>6} {status:<9}{cells}", wrapped(flags, first=" " * 6)]
    return "\n".join([*lines, *(wrapped(line, rest="  ") for line in notes_of(table))])


def notes_of(table: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the table's numbers must know."""
    spent, rows = table["spent"], table["trials"]
    states = [row["status"].partition(":")[0] for row in rows]
    measured = [row for row in rows if row["rungs"]]
    counts = {"trained to the end": FINISHED, "pruned": PRUNED, "failed": FAILED, "not ended": WAITING}
    share = spent["epochs"] / spent["all_epochs"] if spent["all_epochs"] else 0.0
    notes = [
        f"{counted(len(rows), 'trial')}: "
        + ", ".join(f"{states.count(state)} {words}" for words, state in counts.items()),
        f"spent: {counted(spent['epochs'], 'epoch')}, {share:.0%} of the {spent['all_epochs']:,} that these "
        f"trials take without pruning; {spent['gpu_seconds']:,.0f} GPU-seconds of epochs, "
        f"{spent['seconds'] / 3600:.2f} h of processes",
    ]
    if table["ended"]:
        notes.append(f"the search ended early: {table['ended']}")
    way = "largest" if table["maximize"] else "smallest"
    if table["winner"] is None:
        notes.append("no trial was trained to the end: there is no winner")
    else:
        comparison = table["comparison"]
        is_held_out = comparison is not None and not comparison["picked_on"]
        worth = (
            f"what counts is the comparison on the {comparison['split']} split, by which no trial was chosen"
            if is_held_out
            else "no number here is of images that no trial was chosen by"
        )
        notes.append(
            f"trial {table['winner']} won: its {table['metric']} on the validation split was picked as the "
            f"{way} of {counted(len(measured), 'trial')}, since pruning looked at the same images, and "
            f"flatters; {worth}"
        )
    if table["winner"] == 0:
        notes.append("trial 0 is the default configuration: the search found nothing better")
    for row in table["size_alone"]:
        notes.append(
            f"size alone, after {counted(row['epochs'], 'epoch')}: rank correlation with the result over "
            f"{counted(row['trials'], 'trial')}: {_number(row['parameters'], '+.2f')} of the number of "
            f"parameters, {_number(row['flops'], '+.2f')} of the FLOPs of a forward pass"
        )
    return notes


def _number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else f"{value:{form}}"


def write_table(directory: pathlib.Path, table: Mapping[str, Any]) -> None:
    """Write `search.json`, `search.csv` and `search.txt`."""
    write_tables(SearchLayout(directory), table, csv=to_csv(table), text=to_text(table))
