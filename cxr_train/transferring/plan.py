"""Which runs a comparison has: for each held-out source, for the bound within it, and for the stress test."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cxr_data.core.errors import UsageError
from cxr_data.records.folds import class_counts, positions_of
from cxr_data.records.index import read_split_fields, read_split_index
from cxr_data.records.manifest import Manifest
from cxr_data.records.split_names import Sources
from cxr_train.evaluation.decisions import FEW
from cxr_train.recipe.domain.settings import BALANCED, NONE
from cxr_train.runs.config import TrainConfig
from cxr_train.transferring.methods import HELD_OUT, METHODS, SHARED, Method, drawn
from cxr_train.transferring.run import ORACLE, STRESS, AdaptedRun, TransferRun
from cxr_train.transferring.stress import Correlated
from cxr_train.transferring.subset import Splits, write_subset
from cxr_train.transferring.targets import Target, batch_of

WITHOUT, WITHIN = "leave_one_out", "within"
_WARM_UP = "domain_warmup_steps"

MakeConfig = Callable[[Mapping[str, str]], TrainConfig]


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every method may try, and what holds for all runs.

    Attributes:
      draws: of the hyper-parameters, numbered from 0.
      seeds: of the training; each chooses its own draw.
      given: flags of the command line, as text, which nothing draws.
    """

    draws: int
    seeds: Sequence[int]
    given: Mapping[str, str]

    @property
    def shared(self) -> Mapping[str, tuple[float, float]]:
        """The ranges that every method draws from, alike."""
        return {flag: reach for flag, reach in SHARED.items() if flag not in self.given}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All that is to run.

    Attributes:
      manifest: of the data.
      methods: the baseline first.
      budget: of each method.
      targets: every source.
      held_out: those that are held out.
      without, within: the runs by source.
      correlated, stress_data: of the stress test; None without one.
      stress: its runs.
      notes: what was left out, and why.
    """

    manifest: Manifest
    methods: Sequence[Method]
    budget: Budget
    targets: Sequence[Target]
    held_out: Sequence[Target]
    without: Mapping[str, Sequence[TransferRun]]
    within: Mapping[str, Sequence[TransferRun]]
    correlated: Correlated | None
    stress_data: Mapping[str, Splits] | None
    stress: Sequence[TransferRun]
    notes: Sequence[str]

    @property
    def runs(self) -> list[TransferRun]:
        """All of them, in the order in which they run: every method of a draw before the next draw."""
        cells = [*self.without.values(), *self.within.values(), self.stress]
        return [run for cell in cells for run in cell]


def _runs(
    make_config: MakeConfig,
    budget: Budget,
    methods: Sequence[Method],
    *,
    cell: str,
    directory: pathlib.Path,
    tested: str,
    flags: Mapping[str, str],
    images: int,
    is_copied: bool = False,
) -> list[TransferRun]:
    """Return the runs of a cell: for each seed and draw, one of each method, on so many images."""
    runs = []
    steps = images // int(flags["batch_size"]) * int(budget.given["epochs"])
    for seed in budget.seeds:
        for draw in range(budget.draws):
            for method in methods:
                trained = method if method.is_trained else methods[0]
                values = {
                    **drawn(budget.shared, draw, seed),
                    **budget.given,
                    **_for_tested(_for_steps(trained, draw, seed, steps), tested),
                    **flags,
                    "seed": str(seed),
                    "run_dir": str(directory / f"{trained.name}-draw{draw}-seed{seed}"),
                }
                kind = TransferRun if method.is_trained else AdaptedRun
                config = make_config(values)
                runs.append(
                    kind(
                        method.name, values, config, cell=cell, draw=draw, tested=tested, is_copied=is_copied
                    )
                )
    return runs


def _for_steps(method: Method, draw: int, seed: int, steps: int) -> dict[str, str]:
    """Return a method's flags of a draw, with a drawn warm-up of at most half of the steps.

    A run that ends within its warm-up is plain training under another name.
    """
    values = method.drawn(draw, seed)
    if _WARM_UP in method.ranges:
        values[_WARM_UP] = str(min(int(values[_WARM_UP]), max(steps // 2, 1)))
    return values


def _for_tested(values: Mapping[str, str], tested: str) -> dict[str, str]:
    """Return flags of a method, with the split of the pictures that are held out where they name it."""
    return {flag: tested if value == HELD_OUT else value for flag, value in values.items()}


def is_for_one_source(method: Method) -> bool:
    """Return whether a method can be trained on one source: it compares none."""
    return method.flags.get("domain_method", NONE) in (NONE, BALANCED)


def one_source_notes(methods: Sequence[Method], targets: Sequence[Target]) -> list[str]:
    """Return which methods have no run beside which held-out sources, since one source is left."""
    names = [method.name for method in methods if not is_for_one_source(method)]
    sources = [target.source for target in targets if target.training_sources < 2]
    if not names or not sources:
        return []
    return [
        f"without {' or '.join(sources)}, one source is left to train on: {', '.join(names)} compare "
        "sources, and are left out there"
    ]


def runs_without(
    make_config: MakeConfig,
    budget: Budget,
    methods: Sequence[Method],
    target: Target,
    place: pathlib.Path,
    manifest: Manifest,
) -> list[TransferRun]:
    """Return the runs of all methods that have not seen a source; of those that can be trained on one, where
    one is left.

    Raises:
      UsageError: one is left, and the baseline cannot be trained on it.
    """
    several = target.training_sources > 1
    if not several and not is_for_one_source(methods[0]):
        raise UsageError(
            f"--methods: the first, {methods[0].name}, compares sources, and without {target.source} one is "
            "left to train on; name erm first"
        )
    return _runs(
        make_config,
        budget,
        [method for method in methods if several or is_for_one_source(method)],
        cell=target.source,
        directory=place / WITHOUT / f"without={_folder(target.source)}",
        tested=target.split,
        images=target.training_images,
        flags={
            "data": manifest.directory,
            "train_split": target.train_split,
            "validation_split": target.validation_split,
            "batch_size": str(target.batch_size),
        },
    )


def runs_within(
    make_config: MakeConfig,
    budget: Budget,
    baseline: Method,
    target: Target,
    place: pathlib.Path,
    manifest: Manifest,
) -> list[TransferRun]:
    """Return the runs of the bound; none where the source has too few patients of its own.

    They are of the baseline, or of plain training where the baseline compares sources.
    """
    try:
        has_enough = _has_enough(manifest, target)
    except UsageError:  # a split without any picture of the source
        has_enough = False
    if not has_enough:
        return []
    images = len(positions_of(manifest, target.own_train))
    directory = within_place(place, target)
    return _runs(
        make_config,
        budget,
        [baseline if is_for_one_source(baseline) else METHODS[0]],
        cell=target.source,
        directory=directory,
        tested="test",
        images=images,
        is_copied=True,
        flags={
            "data": str(directory / "data"),
            "train_split": "train",
            "validation_split": "validation",
            "batch_size": str(batch_of(1, images)),
        },
    )


def within_place(place: pathlib.Path, target: Target) -> pathlib.Path:
    """Return the folder of the bound of a source."""
    return place / WITHIN / f"only={_folder(target.source)}"


def write_within(manifest: Manifest, target: Target, place: pathlib.Path) -> None:
    """Write the records of one source as a data set of their own, unless it is there.

    Classes that the source does not have are nowhere in it, and need not be learned.
    """
    names = {"train": target.own_train, "validation": target.own_validation, "test": target.own_test}
    rows = [read_split_index(manifest, name)[positions_of(manifest, name)] for name in names.values()]
    ends = np.cumsum([0, *map(len, rows)])
    splits = {split: range(*ends[number : number + 2]) for number, split in enumerate(names)}
    write_subset(manifest, str(within_place(place, target) / "data"), np.concatenate(rows), splits)


def _has_enough(manifest: Manifest, target: Target) -> bool:
    """Return whether a class's AUROC can be learned, chosen and measured within a source."""
    positions = positions_of(manifest, target.own_test)
    fields = read_split_fields(manifest, target.own_test)
    patients: dict[int, set[str]] = {}
    for position in positions:
        patients.setdefault(fields[position].label, set()).add(fields[position].group)
    measurable = {label for label, groups in patients.items() if len(groups) >= FEW}
    training, validation = (
        class_counts(manifest, split) for split in (target.own_train, target.own_validation)
    )
    learnable = all(training[manifest.class_names[label]] for label in patients)
    return learnable and len(measurable) > 1 and sum(map(bool, validation.values())) > 1


def runs_of_stress(
    make_config: MakeConfig, budget: Budget, methods: Sequence[Method], place: pathlib.Path, images: int
) -> list[TransferRun]:
    """Return the runs of the stress test, and of its oracle, which is the first method on balanced data.

    Both train on so many images.
    """
    flags = {"train_split": "train", "validation_split": "validation", "batch_size": str(batch_of(2, images))}
    of_methods = _runs(
        make_config,
        budget,
        methods,
        cell=STRESS,
        directory=place / STRESS,
        tested="test",
        images=images,
        is_copied=True,
        flags={**flags, "data": str(place / STRESS / "data")},
    )
    of_oracle = _runs(
        make_config,
        budget,
        methods[:1],
        cell=ORACLE,
        directory=place / STRESS / "oracle",
        tested="test",
        images=images,
        is_copied=True,
        flags={**flags, "data": str(place / STRESS / "oracle_data")},
    )
    return of_methods + of_oracle


def _folder(source: str) -> str:
    """Return a source's name as a part of a path."""
    return str(Sources((source,))).partition("=")[2]
