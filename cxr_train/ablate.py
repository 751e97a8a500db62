"""Ablates: trains every configuration of a grid, and says which differ from the baseline by more than chance.

    python -m cxr_train.ablate --grid=study|FILE --data='tfrecords_{size}' --run_dir=DIR [--dry_run]

Every run is a run directory of `cxr_train.main` below DIR, trained in a process of its own. The same
command goes on after a stop, a crash or a kill: a finished run is not run again, one that was
stopped resumes. Any flag of `cxr_train.main` may be given; it holds for all runs. With --folds=5, every
configuration is trained five times, each time without the fold that it is evaluated on.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Sequence

from absl import flags

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core.errors import UsageError
from cxr_data.core.folder_lock import locked
from cxr_data.core.settings import check_choice, setting, settings_of
from cxr_data.core.shown import say
from cxr_data.core.wording import counted, typed
from cxr_data.records.manifest import Manifest
from cxr_data.stats import bootstrap
from cxr_train.ablation import table
from cxr_train.ablation.cost import cost_lines, seconds_to_go
from cxr_train.ablation.grid import (
    STUDY,
    STUDY_SIZES,
    FlagSet,
    find_data,
    held_out_split,
    override,
    read_grid,
    study_grid,
    varied_flags,
)
from cxr_train.ablation.runner import GridRun, Runner, refuse_same_runs
from cxr_train.ablation.table import OWN_FOLD
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
from cxr_train.runs.layout import GridLayout
from cxr_train.runs.notice import NOTICE


@dataclasses.dataclass(frozen=True)
class GridOptions:
    """Which runs to make and how to compare them; all else is for `cxr_train.main`."""

    grid: str = setting(
        STUDY,
        "Runs of the grid: study for the study's 16, or a JSON file {NAME: {FLAG: VALUE}}.",
        path=True,
        local=True,
    )
    sizes: tuple[int, ...] = setting(
        (),
        f"Image sizes of --grid=study, in pixels; {','.join(map(str, STUDY_SIZES))} by default.",
        parse=functools.partial(parse_numbers, "sizes"),
    )
    seeds: tuple[int, ...] = setting(
        (),
        "Seeds, such as 0,1,2: every configuration runs once with each; --seed by default.",
        parse=functools.partial(parse_numbers, "seeds"),
    )
    folds: int = setting(
        0,
        "Number of folds of --train_split and --validation_split together: every configuration runs once for "
        "each; 0: no folds.",
        at_least=0,
    )
    baseline: str | None = setting(
        None, "Name of the configuration that others are compared with; the grid's first by default."
    )
    split: str | None = setting(
        None,
        "Split that the table is computed on; by default test, or validation where there is no test; with "
        "--folds, by default each run's own fold.",
    )
    resamples: int = setting(
        bootstrap.RESAMPLES, "Resamples of the paired bootstrap; a 95 % interval needs 100.", at_least=100
    )
    dry_run: bool = setting(False, "Whether to print what would run and what it costs, and run nothing.")
    tflops: float | None = setting(
        None, "Speed of the accelerator in TFLOP/s; by default what finished runs measured."
    )


_OWN = tuple(field.name for field, _ in settings_of(GridOptions))


def plan_runs(
    grid: Sequence[FlagSet],
    seeds: Sequence[int],
    directory: pathlib.Path,
    data: dict[int, Manifest],
    folds: int = 0,
) -> list[GridRun]:
    """Return the runs of a grid, a seed after the other and in it a fold after the other, each checked as
    `cxr_train.main` will check it.

    Raises:
      UsageError: a run has flags that it could not be started with, or there are two of the same.
    """
    runs: list[GridRun] = []
    of_folds = [(f"-fold{number}", f"{number}of{folds}") for number in range(1, folds + 1)]
    for seed, (suffix, fold) in itertools.product(seeds, of_folds or [("", "")]):
        for one in grid:
            label = f"{one.name}-seed{seed}{suffix}"
            manifest = data_of(one.flags, data)
            placed = {
                **one.flags,
                "data": manifest.directory,
                "run_dir": str(directory / label),
                "seed": str(seed),
                **({"fold": fold} if fold else {}),
            }
            runs.append(checked_run(one.name, placed, manifest))
    refuse_same_runs(runs)
    return runs


def with_defaults(grid: Sequence[FlagSet], varied: Sequence[str]) -> tuple[FlagSet, ...]:
    """Return the grid with every varied flag in every configuration, so that its table has no gaps.

    Raises:
      UsageError: a flag that `cxr_train.main` does not have.
    """
    known = flags_of_runs(_OWN)
    for one in grid:
        for name in one.flags:
            if name not in known:
                raise UsageError(f"--grid: run {one.name!r}: --{name} is no flag of cxr_train.main")
    usual = {name: flag_text(known[name], known[name].default) for name in varied}
    usual = {name: value for name, value in usual.items() if value != "None"}
    return tuple(FlagSet(one.name, {**usual, **one.flags}) for one in grid)


def _plan(options: GridOptions) -> tuple[list[GridRun], dict[int, Manifest], tuple[str, ...]]:
    """Return the runs that the flags name, their data, and the flags that the grid varies."""
    values = flags.FLAGS
    grid = study_grid(options.sizes or STUDY_SIZES) if options.grid == STUDY else read_grid(options.grid)
    if options.sizes and options.grid != STUDY:
        raise UsageError(f"--sizes: is for --grid={STUDY}; write image_size into {options.grid}")
    varied = varied_flags(grid)
    grid = override(with_defaults(grid, varied), flags_for_all_runs(_OWN))
    if options.baseline:
        check_choice("baseline", options.baseline, [one.name for one in grid])
    if options.folds == 1:
        raise UsageError("--folds=1: must be at least 2, or 0 for no folds; correct it")
    if options.folds and values.fold:
        raise UsageError(f"--fold={values.fold}: --folds={options.folds} runs every fold; leave one out")
    data = find_data(values.data, grid)
    seeds = options.seeds or (values.seed,)
    runs = plan_runs(grid, seeds, pathlib.Path(values.run_dir), data, options.folds)
    return runs, data, varied


def _split_of_table(options: GridOptions, runs: Sequence[GridRun], manifest: Manifest) -> str:
    """Return the split of the table's numbers: `OWN_FOLD` for that of each run."""
    if options.folds and options.split is None:
        return OWN_FOLD
    return held_out_split(manifest, [run.config for run in runs], options.split)


def _joining_lines(runs: Sequence[GridRun]) -> Iterator[str]:
    """Yield for each configuration and seed the command that joins what its folds' runs predict."""
    of_one: dict[str, list[str]] = {}
    for run in runs:
        if run.fold:
            output = run.directory.with_name(f"{run.name}-seed{run.seed}-folds")
            of_one.setdefault(str(output), []).append(str(run.directory))
    for joined, directories in of_one.items():
        yield f"python -m cxr_train.folds {typed(output=joined, runs=','.join(directories))}"


def main() -> int:
    """Run what is left of a grid, and write its table."""
    options, values = from_flags(GridOptions), flags.FLAGS
    check_place(values.run_dir)
    runs, data, varied = _plan(options)
    split = _split_of_table(options, runs, next(iter(data.values())))
    for line in cost_lines(runs, list(data.values()), options.tflops):
        print(line)
    if options.dry_run:
        return 0
    directory = pathlib.Path(values.run_dir)
    directory.mkdir(parents=True, exist_ok=True)
    layout = GridLayout(directory)
    with locked(layout.lock, waits=True) as lock:
        again = keep_flags(layout, "cxr_train.ablate")
        runner = Runner(lock)
        statuses = runner.run_all(runs, lambda: seconds_to_go(runs, list(data.values()), options.tflops))
    if runner.stopped:
        say(f"stopped; continue with: {again}")
        return 0
    result = table.make_table(
        runs,
        [statuses.get(run.label, "finished") for run in runs],
        varied=varied,
        baseline=options.baseline or runs[0].name,
        split=split,
        resamples=options.resamples,
    )
    table.write_table(directory, result)
    from cxr_train.reporting.grid_page import write_grid_page

    write_grid_page(directory, result, [*table.notes_of(result), *result["audit"]])
    print(f"\n{table.to_text(result)}")
    say(f"written: {layout.table('json')}, .csv, .txt, .html")
    if options.folds and not statuses:
        say("to join what the runs predict of their folds, a command for each configuration and seed:")
        for line in _joining_lines(runs):
            say(line)
    print(NOTICE)
    if statuses:
        say(f"not finished: {len(statuses)} of {counted(len(runs), 'run')}; try again with: {again}")
    return 1 if statuses else 0


def console_main() -> None:
    """Run the command."""
    define_training_flags()
    define_flags(GridOptions)
    flags.mark_flags_as_required(["data", "run_dir"])
    command.run(main)


if __name__ == "__main__":
    console_main()
