"""Tests methods on sources (hospitals) that they were not trained on.

    python -m cxr_train.transfer --data=EMBEDDINGS --backbone=none --run_dir=runs/transfer --dry_run
    python -m cxr_train.transfer --data=EMBEDDINGS --backbone=none --run_dir=runs/transfer

Each source with enough patients, without which the classes can be learned, is left out once. Every method has
the same number of draws of its hyper-parameters. Everything is chosen on validation patients of the other
sources, and the held-out source is tested once. A stress test, in which the source says the class in training
and the reverse in the test, shows what there is to gain. The same command, also after kill -9, runs what is
not finished.
"""

import dataclasses
import functools
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core.errors import UsageError
from cxr_data.core.folder_lock import locked
from cxr_data.core.settings import check_choice, setting, settings_of
from cxr_data.core.shown import say, visible
from cxr_data.core.wording import counted
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_train.flags.many_runs import (
    check_place,
    config_of,
    flags_for_all_runs,
    flags_of_runs,
    keep_flags,
    parse_numbers,
)
from cxr_train.flags.training import define_training_flags
from cxr_train.models.backbones import find_backbone
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import TransferLayout
from cxr_train.runs.notice import NOTICE
from cxr_train.runs.tables import write_tables
from cxr_train.transferring import plan, text
from cxr_train.transferring.document import make_tables
from cxr_train.transferring.methods import KINDS, PRIOR, Method, fitting, read_methods, refuse_for_heads
from cxr_train.transferring.plan import Budget, Comparison
from cxr_train.transferring.runner import cost_lines, run_here, run_in_processes
from cxr_train.transferring.stress import (
    Correlated,
    choose_correlated,
    parse_correlated,
    stress_splits,
    write_stress,
)
from cxr_train.transferring.subset import Splits
from cxr_train.transferring.targets import Target, find_targets, left_out_notes
from cxr_train.transferring.told_apart import told_apart

AUTO, NONE = "auto", "none"
# Of a comparison, where the command line says nothing else.
_USUAL = {"epochs": "10", "optimizer": "adamw", "monitor": "macro_auroc"}
_SPLITS = ("train", "validation", "test")


def _parse_sources(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(urllib.parse.unquote, names))


@dataclasses.dataclass(frozen=True)
class TransferOptions:
    """What is compared, and how; all other flags are those of `cxr_train.main`."""

    methods: str = setting(
        "",
        "Methods, the baseline first: names separated by commas, or a .json file {NAME: {FLAG: VALUE or "
        "[LOW, HIGH]}}; all domain methods by default.",
        path=True,
        local=True,
    )
    draws: int = setting(5, "Draws of the hyper-parameters of each method and seed.", at_least=1)
    seeds: tuple[int, ...] = setting(
        ("0", "1", "2"),
        "Seeds of the training, such as 0,1,2; each chooses its own draw.",
        parse=functools.partial(parse_numbers, "seeds"),
    )
    hold_out: tuple[str, ...] = setting(
        (),
        "Sources that are held out, one at a time, a comma in a name as %2C; every one that can be by "
        "default.",
        parse=_parse_sources,
    )
    stress: str = setting(
        AUTO,
        "Stress test: CLASS:SOURCE,CLASS:SOURCE that go together in training, a comma in a name as %2C; "
        "auto: the two sources and classes with the most patients in the rarest of the four; none: no such "
        "test.",
    )
    sensitivity: float = setting(
        0.9, "Sensitivity that the thresholds reach on validation patients of the training sources."
    )
    resamples: int = setting(
        2000, "Resamples of the paired bootstrap; a 95 % interval needs 100.", at_least=100
    )
    dry_run: bool = setting(False, "Whether to print what would run and what it costs, and run nothing.")

    def __post_init__(self) -> None:
        if not 0 < self.sensitivity <= 1:
            raise UsageError(f"--sensitivity={self.sensitivity}: must be above 0 and at most 1")


_OWN = tuple(field.name for field, _ in settings_of(TransferOptions))


def _make_config(manifest: Manifest, values: Mapping[str, str]) -> TrainConfig:
    """Return the configuration of a run from its flags. Raise UsageError: no run could use them."""
    return config_of(pathlib.Path(values["run_dir"]).name, values, manifest)


def _plan(options: TransferOptions) -> Comparison:
    values = flags.FLAGS
    manifest = read_manifest(values.data)
    if manifest.findings:
        raise UsageError(
            f"--data={values.data}: must have one class a picture, and has several findings; convert one "
            "finding as two classes"
        )
    for flag in ("train_split", "validation_split", "fold", "batch_size", "fda_split"):
        if values[flag].present:
            raise UsageError(f"--{flag}: is chosen for each held-out source; leave it out")
    for flag in ("domain_method", "domain_strength", "domain_warmup_steps"):
        if values[flag].present:
            raise UsageError(
                f"--{flag}: is what methods differ by; leave it out, and name them with --methods"
            )
    methods, notes = _methods(options.methods, values.backbone, manifest)
    if methods[0].kind != KINDS[0]:
        raise UsageError(
            f"--methods={options.methods}: the first is the baseline of every table, and must see nothing of "
            f"the held-out source, as {methods[0].name} does; name another one first"
        )
    _check_resamples(options.resamples, methods)
    given = flags_for_all_runs(_OWN)
    if manifest.embedding:
        refuse_for_heads(given, methods)
    budget = Budget(options.draws, options.seeds, {**_USUAL, **given})
    place = pathlib.Path(values.run_dir)
    targets = find_targets(manifest, *_SPLITS)
    measurable = [target for target in targets if not target.obstacle]
    obstacles = {target.source: target.obstacle for target in targets}
    for name in options.hold_out:
        check_choice("hold_out", name, list(obstacles))
        if obstacles[name]:
            raise UsageError(
                f"--hold_out={name}: cannot be held out: {obstacles[name]}; choose another source"
            )
    held_out = [one for one in measurable if not options.hold_out or one.source in options.hold_out]
    made = [method for method in methods if method.name != PRIOR]  # which takes runs of the baseline
    notes += [f"{one.source}: cannot be held out: {one.obstacle}" for one in targets if one.obstacle]
    notes += left_out_notes(manifest, held_out)
    notes += _encoder_notes(manifest, given)
    correlated, stress_data = _stress(options, manifest, targets, notes)
    if not held_out and correlated is None:
        raise UsageError(
            f"--data={values.data}: no source can be held out ({targets[0].source}: {targets[0].obstacle}); "
            "join smaller sources under one name, or test a run with cxr_train.evaluate --by=source"
        )
    make = functools.partial(_make_config, manifest)
    notes += plan.one_source_notes(made, held_out)
    return Comparison(
        manifest,
        methods,
        budget,
        targets,
        held_out,
        {one.source: plan.runs_without(make, budget, made, one, place, manifest) for one in held_out},
        {one.source: plan.runs_within(make, budget, methods[0], one, place, manifest) for one in held_out},
        correlated,
        stress_data,
        plan.runs_of_stress(make, budget, made, place, len(stress_data["data"]["train"]))
        if stress_data
        else [],
        notes,
    )


def _methods(text: str, backbone: str, manifest: Manifest) -> tuple[list[Method], list[str]]:
    """Return the methods, and why some of those that nobody named are left out.

    Raises:
      UsageError: one that was named cannot be used on this data or network.
    """
    methods = read_methods(text)
    _check_flags(methods)
    of_pictures = not manifest.embedding
    has_batch_norm = of_pictures and find_backbone(backbone).has_batch_norm
    fit = fitting(methods, of_pictures=of_pictures, has_batch_norm=has_batch_norm)
    left_out = [method.name for method in methods if method not in fit]
    why = "need pictures, not embeddings" if manifest.embedding else f"{backbone} has no BatchNorm"
    if left_out and text:
        raise UsageError(f"--methods={text}: {', '.join(left_out)}: {why}; leave them out")
    return fit, [f"left out: {', '.join(left_out)}: {why}"] if left_out else []


def _check_resamples(resamples: int, methods: Sequence[Method]) -> None:
    """Refuse so few resamples that no adjusted p-value could be below 0.05."""
    most = max(sum(one.kind == kind for one in methods[1:]) for kind in KINDS)
    if 2 * most >= 0.05 * (resamples + 1):
        raise UsageError(
            f"--resamples={resamples}: with {counted(most, 'method')} in a table, no difference could be "
            f"beyond chance; give at least {40 * most}"
        )


def _encoder_notes(manifest: Manifest, given: Mapping[str, str]) -> list[str]:
    """Return a note where the network comes from a training that this command does not know."""
    weights = given.get("weights", "")
    if manifest.embedding:
        network = f"the embeddings are of {manifest.embedding}"
    elif weights not in ("", "imagenet", "none"):
        network = f"the network begins with {weights}"
    else:
        return []
    return [f"{network}: whether it was trained on pictures of a held-out source is not known here"]


def _check_flags(methods: Sequence[Method]) -> None:
    known = flags_of_runs(_OWN)
    for method in methods:
        for flag in (*method.flags, *method.ranges):
            if flag not in known:
                raise UsageError(f"--methods: method {method.name!r}: --{flag} is no flag of cxr_train.main")


def _stress(
    options: TransferOptions, manifest: Manifest, targets: Sequence[Target], notes: list[str]
) -> tuple[Correlated | None, Mapping[str, Splits] | None]:
    if options.stress == NONE:
        return None, None
    if options.stress != AUTO:
        correlated = parse_correlated(options.stress, manifest)
        return correlated, stress_splits(manifest, correlated)
    found = choose_correlated({target.source: target.patients for target in targets})
    try:
        if found:
            return found, stress_splits(manifest, found)
    except UsageError:
        pass
    notes.append(
        "no stress test: found no two sources with enough patients of two classes in each part; name some "
        "with --stress"
    )
    return None, None


def _write(directory: pathlib.Path, found: dict[str, Any]) -> None:
    write_tables(TransferLayout(directory), found, csv=text.to_csv(found), text=text.to_text(found))
    from cxr_train.reporting.transfer_page import write_transfer_page

    write_transfer_page(directory, found, text.sentences(found), text.notes(found), text.SEES)


def main() -> int:
    """Run what is left of a comparison, and write its tables."""
    options, values = from_flags(TransferOptions), flags.FLAGS
    check_place(values.run_dir)
    found = _plan(options)
    for line in cost_lines(found):
        say(line)
    if options.dry_run:
        return 0
    directory = pathlib.Path(values.run_dir)
    directory.mkdir(parents=True, exist_ok=True)
    layout = TransferLayout(directory)
    with locked(layout.lock, waits=True) as lock:
        again = keep_flags(layout, "cxr_train.transfer")
        if found.stress_data:
            write_stress(found.manifest, found.stress_data, str(layout.stress))
        for target in found.held_out:
            if found.within[target.source]:
                plan.write_within(found.manifest, target, directory)
        if found.manifest.embedding:
            statuses, stopped = run_here(found)
        else:
            statuses, stopped = run_in_processes(found, lock)
    if stopped:
        say(f"stopped; continue with: {again}")
        return 0
    told = told_apart(found.manifest) if found.manifest.embedding else {}
    result = make_tables(found, told, resamples=options.resamples, sensitivity=options.sensitivity)
    _write(directory, result)
    print(f"\n{visible(text.to_text(result))}")
    say(f"written: {layout.table('json')}, .csv, .txt, .html")
    say(NOTICE)
    if statuses:
        say(f"not finished: {len(statuses)} of {counted(len(found.runs), 'run')}; try again with: {again}")
    return 1 if statuses else 0


def console_main() -> None:
    """Run the command."""
    define_training_flags()
    define_flags(TransferOptions)
    flags.mark_flags_as_required(["data", "run_dir"])
    command.run(main)


if __name__ == "__main__":
    console_main()
