"""Searches for a good configuration: trials of some epochs, of which the best third goes on, then the next.

    python -m cxr_train.search --data=tfrecords --run_dir=DIR --trials=27 --epochs=27 [--space=FILE]

Every trial is a run directory of `cxr_train.main` below DIR, trained in processes of its own. The same
command goes on after a stop, a crash or a kill, each trial where it was. Any flag of `cxr_train.main` that
the space does not vary may be given; it holds for all trials. In the end the winner is compared with the
default configuration on images that no trial was chosen by.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core.errors import UsageError
from cxr_data.core.folder_lock import locked
from cxr_data.core.settings import setting, settings_of
from cxr_data.core.shown import say
from cxr_data.core.wording import counted, wrapped
from cxr_data.records.manifest import Manifest
from cxr_data.stats import bootstrap
from cxr_train.ablation import table as grid_table
from cxr_train.ablation.cost import cost_of
from cxr_train.ablation.grid import FlagSet, find_data, held_out_split
from cxr_train.ablation.runner import GridRun
from cxr_train.flags.many_runs import (
    check_place,
    checked_run,
    data_of,
    flag_text,
    flags_for_all_runs,
    flags_of_runs,
    keep_flags,
    parse_numbers,
)
from cxr_train.flags.training import define_training_flags
from cxr_train.models.backbones import NO_BACKBONE, find_backbone
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import SearchLayout
from cxr_train.runs.monitor import Monitor
from cxr_train.runs.notice import NOTICE
from cxr_train.searching import table
from cxr_train.searching.ledger import Ledger
from cxr_train.searching.proposals import SAMPLERS, Proposals
from cxr_train.searching.space import Params, Range, Space, default_space, read_space
from cxr_train.searching.study import (
    PRUNERS,
    REDUCTION,
    Budget,
    Plan,
    Result,
    Trial,
    import_optuna,
    run_search,
    settings_of_search,
    typical_epochs,
    write_study,
)
from cxr_train.searching.trial_runs import TrialRuns, trial_name

_WINNER, _DEFAULT = "winner", "default"
# Combinations that are checked before the search begins; those of a larger space, as they are drawn.
_MOST_CHECKED = 500
# With these, trials would be ranked by numbers of different images, or by different metrics.
_OF_THE_RANKING = ("monitor", "train_split", "train_on", "validation_split")


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """What to search and how long; all else is for `cxr_train.main`, and --epochs is of a whole trial."""

    space: str | None = setting(
        None,
        "JSON file {FLAG: [VALUE, ...], FLAG: {low, high, log}} of what varies; by default backbone, "
        "attention, pooling, head, dropout, learning rate, freezing, and the sizes of --data.",
        path=True,
        local=True,
    )
    trials: int = setting(27, "Number of configurations to try, the default one first.", at_least=1)
    least_epochs: int = setting(
        1,
        f"Epochs of every trial; then the best of {REDUCTION} goes on, {REDUCTION} times as long.",
        at_least=1,
    )
    pruner: str = setting(
        "asha", "Which trials end early: asha (successive halving), or none.", choices=PRUNERS
    )
    sampler: str = setting(
        "tpe",
        "How configurations are drawn, none twice: random; or tpe, which prefers what resembles the best.",
        choices=SAMPLERS,
    )
    budget_epochs: int | None = setting(
        None,
        "Epochs of all trials together, at most; those of the comparison at the end are not counted.",
        at_least=1,
    )
    budget_gpu_seconds: float | None = setting(
        None,
        "GPU-seconds of all trials' epochs together, after which no rung begins; without a GPU, seconds. The "
        "comparison at the end is not counted.",
    )
    budget_hours: float | None = setting(
        None,
        "Hours of all trials' processes, after which no rung begins; the comparison at the end is not "
        "counted.",
    )
    seeds: tuple[int, ...] = setting(
        (),
        "Seeds, such as 0,1,2, with which the winner and the default are compared; --seed by default.",
        parse=functools.partial(parse_numbers, "seeds"),
    )
    split: str | None = setting(
        None, "Split of that comparison; by default test, or the validation split where there is no test."
    )
    resamples: int = setting(
        bootstrap.RESAMPLES, "Resamples of the paired bootstrap; a 95 % interval needs 100.", at_least=100
    )
    dry_run: bool = setting(False, "Whether to print what would be tried and spent, and train nothing.")

    def __post_init__(self) -> None:
        for name in ("budget_gpu_seconds", "budget_hours"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--{name}={value}: must be above 0")


_OWN = tuple(field.name for field, _ in settings_of(SearchOptions))


@dataclasses.dataclass(frozen=True)
class _Search:
    """What the flags come to."""

    options: SearchOptions
    space: Space
    first: Params
    plan: Plan
    given: Mapping[str, str]
    data: Mapping[int, Manifest]
    directory: pathlib.Path
    seed: int

    def run(self, name: str, directory: str, values: Mapping[str, str], epochs: int, seed: int) -> GridRun:
        """Return the run of a configuration. Raise UsageError for flags that it could not be started with."""
        everything = {**self.given, **values}
        manifest = data_of(everything, self.data)
        placed = {
            **everything,
            "data": manifest.directory,
            "run_dir": str(self.directory / directory),
            "seed": str(seed),
            "epochs": str(epochs),
        }
        return checked_run(name, placed, manifest)

    def trial(self, number: int, values: Mapping[str, str], epochs: int) -> GridRun:
        """Return the run of a trial. Raise as `run`."""
        name = trial_name(number)
        return self.run(name, name, values, epochs, self.seed)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the comparison at the end; the runs of the trials' own seed are trials that go on."""
        return self.options.seeds or (self.seed,)

    def split(self, config: TrainConfig) -> str:
        """Return the split of that comparison. Raise as `held_out_split`.

        Args:
          config: of any run: all of them have the same splits.
        """
        return held_out_split(next(iter(self.data.values())), [config], self.options.split)


def _check_flags(space: Space, known: Mapping[str, flags.Flag], given: Mapping[str, str]) -> None:
    """Check that a space varies what may vary: flags of a trial that the command line does not give.

    Raises:
      UsageError: it varies another, or has a range of what is not any number.
    """
    for name in space.varied:
        if name not in known:
            raise UsageError(f"--space: --{name} is no flag of cxr_train.main; leave it out")
        if name in (*given, "epochs"):
            raise UsageError(f"--{name}: is for the space or for the command line; leave one out")
        if name in _OF_THE_RANKING:
            raise UsageError(
                f"--space: --{name} decides what trials are ranked by, and must be the same for all; give it "
                "to the command"
            )
        dimension = space.dimensions.get(name)
        if isinstance(dimension, Range) and known[name].flag_type() != "float":
            raise UsageError(
                f"--space: --{name} does not take every number of a range; list its values, such as "
                f"[{dimension.low:g}, {dimension.high:g}]"
            )


def _read_flags(options: SearchOptions) -> _Search:
    values = flags.FLAGS
    known = flags_of_runs(_OWN)
    given = flags_for_all_runs(_OWN)
    given.pop("epochs", None)
    if options.space:
        space = read_space(options.space)
    else:
        several = [] if "{" in values.data else find_data(values.data, [])
        space = default_space(known, given, list(several))
    _check_flags(space, known, given)
    usual = {name: flag_text(known[name], known[name].default) for name in space.varied}
    first = space.usual(usual)
    sizes = space.dimensions.get("image_size")
    of_sizes = [FlagSet(text, one) for text, one in getattr(sizes, "options", {}).items()]
    data = find_data(
        values.data, of_sizes or [FlagSet("all", {k: v for k, v in given.items() if k == "image_size"})]
    )
    monitor = Monitor(values.monitor)
    plan = Plan(
        options.trials,
        values.epochs,
        options.least_epochs,
        options.pruner,
        monitor.worst < 0,
        Budget(
            options.budget_epochs,
            options.budget_gpu_seconds,
            None if options.budget_hours is None else 3600 * options.budget_hours,
        ),
    )
    return _Search(options, space, first, plan, given, data, pathlib.Path(values.run_dir), values.seed)


def _check_all(search: _Search) -> None:
    """Check every value and the ends of every range with the default's other values, and all combinations
    where they are not too many; and what the trials are ranked by and compared on.

    Raises:
      UsageError, DataError: a trial, or the comparison at the end, would fail.
    """
    space = search.space
    some = [search.first]
    for name, dimension in space.dimensions.items():
        ends = (dimension.low, dimension.high) if isinstance(dimension, Range) else dimension.options
        some += [{**search.first, name: value} for value in ends]
    combined = list(itertools.islice(space.outline(), _MOST_CHECKED + 1))
    if len(combined) <= _MOST_CHECKED:
        some += combined
    config, *checked = [search.trial(0, space.flags(one), search.plan.rungs[0]).config for one in some]
    if config.held_out_validation is None:
        raise UsageError("--train_split: a search needs a validation split that no trial is trained on")
    stretched = next((by for one in (config, *checked) if (by := one.recipe.stretched_by)), None)
    if stretched and len(search.plan.rungs) > 1:
        raise UsageError(
            f"{stretched}: is stretched by more epochs, so no trial could go on; "
            "leave it out, or search with --pruner=none"
        )
    manifest = next(iter(search.data.values()))
    Monitor(config.monitor).check(manifest, config.held_out_validation)
    search.split(config)


def main() -> int:
    """Run what is left of a search, and write its table."""
    options, values = from_flags(SearchOptions), flags.FLAGS
    check_place(values.run_dir)
    search = _read_flags(options)
    _check_all(search)
    import_optuna()
    for line in _plan_lines(search):
        print(line)
    if options.dry_run:
        return 0
    directory = search.directory
    directory.mkdir(parents=True, exist_ok=True)
    layout = SearchLayout(directory)
    with locked(layout.lock, waits=True) as lock:
        again = keep_flags(layout, "cxr_train.search")
        first = search.trial(0, search.space.flags(search.first), search.plan.rungs[0]).config
        settings = settings_of_search(
            search.space,
            search.plan,
            options.sampler,
            search.seed,
            search.first,
            first.what_decides_the_result(),
        )
        ledger = Ledger(layout.trials, settings)
        runner = TrialRuns(lock, search.trial)
        proposals = Proposals(search.space, options.sampler, search.seed, search.first)
        with runner.listening():
            result = run_search(search.space, search.plan, proposals, ledger, runner)
        runs: list[GridRun] = []
        statuses: dict[str, str] = {}
        if not result.stopped:
            runs = _final_runs(search, result)
            statuses = runner.run_all(runs, lambda: None)
        if runner.stopped:
            say(f"stopped; continue with: {again}")
            return 0
    comparison = _comparison(search, runs, statuses, result)
    found = table.make_table(
        result,
        search.plan,
        ledger,
        metric=values.monitor,
        sampler=options.sampler,
        seed=search.seed,
        comparison=comparison,
    )
    table.write_table(directory, found)
    write_study(result, layout.study)
    from cxr_train.reporting.search_page import write_search_page

    notes = [*table.notes_of(found), *(grid_table.notes_of(comparison) if comparison else [])]
    write_search_page(directory, found, table.ranked(found), notes)
    print(f"\n{table.to_text(found)}")
    if comparison:
        print(f"\n{grid_table.to_text(comparison)}")
    say(f"written: {layout.table('json')}, .csv, .txt, .html; {layout.study}")
    print(NOTICE)
    if statuses:
        say(f"not finished: {len(statuses)} of {counted(len(runs), 'run')}; try again with: {again}")
    return 1 if statuses else 0


def _final_runs(search: _Search, result: Result) -> list[GridRun]:
    """Return the runs of the default and of the winner with each seed; the trials are those of --seed."""
    winner = result.winner(search.plan)
    if winner is None:
        return []
    both: dict[str, Trial] = {_DEFAULT: result.trials[0]}
    if winner.number:
        both[_WINNER] = winner
    runs = []
    for seed in search.seeds:
        for name, trial in both.items():
            place = trial_name(trial.number) + ("" if seed == search.seed else f"-seed{seed}")
            runs.append(search.run(name, place, trial.flags, search.plan.epochs, seed))
    return runs


def _comparison(
    search: _Search, runs: Sequence[GridRun], statuses: Mapping[str, str], result: Result
) -> dict[str, Any] | None:
    if not runs:
        return None
    found = grid_table.make_table(
        runs,
        [statuses.get(run.label, "finished") for run in runs],
        varied=search.space.varied,
        baseline=_DEFAULT,
        split=search.split(runs[0].config),
        resamples=search.options.resamples,
    )
    before = {trial_name(trial.number): trial.epochs for trial in result.trials}
    more = sum(run.epochs_done - before.get(run.label, 0) for run in runs)
    return {**found, "more_epochs": more}


def _black(search: _Search) -> Iterator[str]:
    """Yield a note for each backbone to which the pixels of the default configuration are black."""
    labels = getattr(search.space.dimensions.get("backbone"), "options", {}) or [None]
    for label in labels:
        params = search.first if label is None else {**search.first, "backbone": label}
        config = search.trial(0, search.space.flags(params), search.plan.rungs[0]).config
        is_network = config.backbone != NO_BACKBONE and config.weights != "none"
        if is_network and find_backbone(config.backbone).sees_black(config.input_range):
            yield wrapped(
                f"note: --input_range={config.input_range}: {config.backbone} expects pixels in [0, 255]; "
                "search with --input_range=imagenet",
                rest="  ",
            )


def _plan_lines(search: _Search) -> Iterator[str]:
    """Yield what would be tried, and what that can cost."""
    plan, space = search.plan, search.space
    for name, dimension in space.dimensions.items():
        options = getattr(dimension, "options", None)
        shown = ", ".join(label or "(none)" for label in options) if options else _range_text(dimension)
        yield wrapped(f"{name}: {shown}", rest="  ")
    yield from _black(search)
    size = "any number of configurations" if space.size is None else counted(space.size, "configuration")
    trials = plan.trials if space.size is None else min(plan.trials, space.size)
    rungs = ", ".join(map(str, plan.rungs))
    yield wrapped(
        f"{size}, of which {trials:,} are tried, drawn by --sampler={search.options.sampler}; looked at "
        f"after {rungs} {'epoch' if plan.rungs == (1,) else 'epochs'}",
        rest="  ",
    )
    least, most = trials * plan.rungs[0] + plan.epochs - plan.rungs[0], trials * plan.epochs
    typical = typical_epochs(plan, trials)
    yield wrapped(
        f"the trials take at least {least:,} epochs and at most {most:,}, which they take without pruning; "
        f"about {typical:,} where the order of two trials stays what it is after the first rung",
        rest="  ",
    )
    seeds = len(set(search.seeds) - {search.seed})
    on = plan.epochs - plan.rungs[0] if search.seed in search.seeds else 0
    yield wrapped(
        f"then {counted(2 * len(search.seeds), 'run')}, the winner and the default with each seed, go to the "
        f"end: at most {counted(2 * seeds * plan.epochs + on, 'epoch')} more, which no budget counts",
        rest="  ",
    )
    default = search.trial(0, space.flags(search.first), 1)
    cost = cost_of(default.config, data_of(default.flags, search.data))
    yield wrapped(
        f"an epoch of the default configuration: {_flops(cost.flops)}; a network of the space may take "
        "many times as much",
        rest="  ",
    )
    budget = plan.budget
    limits = {
        "epochs": budget.epochs,
        "GPU-seconds": budget.gpu_seconds,
        "hours": search.options.budget_hours,
    }
    for unit, limit in limits.items():
        if limit is not None:
            yield f"budget: {limit:,g} {unit}"


def _flops(count: float) -> str:
    unit, name = (1e15, "PFLOP") if count >= 1e15 else (1e9, "GFLOP")
    return f"{count / unit:,.3g} {name}"


def _range_text(dimension: Any) -> str:
    return f"{dimension.low:g} to {dimension.high:g}{', in the logarithm' if dimension.log else ''}"


def console_main() -> None:
    """Run the command."""
    define_training_flags()
    define_flags(SearchOptions)
    flags.mark_flags_as_required(["data", "run_dir"])
    command.run(main)


if __name__ == "__main__":
    console_main()
