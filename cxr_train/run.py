"""From a folder of chest X-rays to a page of results, in one command.

    python -m cxr_train.run xrays/
    python -m cxr_train.run xrays/ --output=runs/second --epochs=20 --exclude_folders=masks

It converts the images to shards, audits them, trains a network, evaluates it, explains it, and says which
page to open. `xrays/` has a folder per class (`xrays/covid/*`, `xrays/normal/*`), or train/, validation/ and
test/ above the classes. Nothing is written there. Of images whose findings stand in tables it is the same:

    python -m cxr_train.run nih/images --labels=nih --table=nih/Data_Entry_2017.csv

Each step is one of the other commands, and is printed as it is run, so that it can be pasted, changed and
run again. Settings that are not given follow the number of images and the machine, and are printed with
their reasons. All other flags go to make_tfrecords or to cxr_train.main, whichever has them.

Stopped at any moment, by kill -9 too, the same command goes on: finished steps are not repeated. SIGTERM
and Ctrl-C are passed on to the step at work. The exit code is 0 only when the page is made; else it is
that of the step, or 143 after SIGTERM and 130 after Ctrl-C where the step has saved its state.
"""

import collections
import dataclasses
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.convert.split_file import splits_in_file
from cxr_data.core import storage
from cxr_data.core.choice import Choice
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.folder_lock import locked
from cxr_data.core.settings import check_folder, setting
from cxr_data.core.shown import say
from cxr_data.core.wording import counted, wrapped
from cxr_data.sources.discover import Found, find_inputs
from cxr_data.sources.finding_values import PRESENT
from cxr_data.sources.left_out import LeftOut
from cxr_train.flags.passed_on import PassedOn, check_training
from cxr_train.models.backbones import BACKBONES, check_image_size, check_weights_file
from cxr_train.runs.child_commands import ChildCommands, exit_reason
from cxr_train.runs.layout import WorkflowLayout
from cxr_train.workflow import defaults
from cxr_train.workflow.defaults import Source
from cxr_train.workflow.machine import find_machine, pretrained_weights
from cxr_train.workflow.plan import Plan, find_plan
from cxr_train.workflow.steps import Step, as_flags, steps_of


@dataclasses.dataclass(frozen=True)
class WorkflowOptions:
    """The settings of the workflow as a whole."""

    output: str | None = setting(
        None, "Folder for everything that is made; runs/NAME-OF-THE-FOLDER by default.", path=True, local=True
    )
    backbone: str = setting(
        "auto",
        f"Network without its top: one of {', '.join(BACKBONES)}; auto: chosen by the machine.",
        choices=("auto", *BACKBONES),
    )
    weights: str = setting(
        "auto",
        "Weights that the network begins with: imagenet, none, or a file of them without top; auto: imagenet "
        "where they can be had.",
        path=True,
        local=True,
    )
    dry_run: bool = setting(False, "Whether to only print the settings and the steps, and end.")


def main(arguments: Sequence[str]) -> int:
    """Run the workflow that the command line names."""
    return run_workflow(from_flags(WorkflowOptions), arguments)


def run_workflow(options: WorkflowOptions, arguments: Sequence[str]) -> int:
    """Run the steps that are not finished.

    Args:
      options: of the command.
      arguments: the folder of images, and the flags that are passed on to the steps.

    Returns:
      The exit code: 0 if the page is made.

    Raises:
      UsageError, DataError: images, flags and output do not fit together; nothing was begun.
    """
    passed_on = PassedOn(arguments)
    if len(passed_on.names) != 1:
        named = (
            f"not {len(passed_on.names)} ({', '.join(passed_on.names)})" if passed_on.names else "as xrays/"
        )
        raise UsageError(f"name one folder of images, {named} (--help says more)")
    (named,) = passed_on.names
    if not storage.store_of(named).is_local:
        raise UsageError(f"{named}: must be a local path; copy the images from the object store")
    source = os.path.normpath(named)
    layout = WorkflowLayout(pathlib.Path(options.output or pathlib.Path("runs", _name_of(source))))
    _check_places(source, layout)
    found, images = _find_images(source, layout, passed_on)
    own = {name: getattr(options, name) for name in ("backbone", "weights")}
    given = {name: value for name, value in own.items() if value != "auto"}
    flags = as_flags([Choice(*flag) for flag in (given | passed_on.conversion | passed_on.training).items()])
    print(wrapped(f"{source}: {_counts_text(found)}", rest="  "))

    def find() -> Plan | None:
        return find_plan(layout, source, found.discovered, flags)

    plan = find()
    made = plan or _make_plan(images, found, given, flags, passed_on)
    if options.dry_run:
        _print_settings(layout, plan, made)
        steps = steps_of(made, source, layout)
        print("\n".join(f"\n{_head(steps, step)}\n{step.text()}" for step in steps if not step.is_finished()))
        return 0
    layout.directory.mkdir(parents=True, exist_ok=True)
    with locked(layout.lock, waits=True) as lock:
        plan = find()  # again: another command may have begun here since
        made = plan or made
        _print_settings(layout, plan, made)
        made.save(layout.plan)
        steps = steps_of(made, source, layout)
        code = _run(steps, ChildCommands(lock))
    if code is not None:
        return code
    print()
    say(f"page: {layout.run.report}")
    say(f"open it in a browser: {layout.run.report.resolve().as_uri()}")
    return 0


def _print_settings(layout: WorkflowLayout, found: Plan | None, made: Plan) -> None:
    if found:
        print(wrapped(f"continues in {layout.directory}, with the settings in {layout.plan}", rest="  "))
        return
    for choice in (*made.conversion, *made.training):
        print(wrapped(str(choice), rest="  "))


def _run(steps: Sequence[Step], commands: ChildCommands) -> int | None:
    """Run the steps that are not finished. Return the exit code of one that did not end well, else None."""
    has_run = False
    with commands.listening():
        for step in steps:
            if step.is_finished():
                print("\n" * has_run, end="")
                say(f"{_head(steps, step)}: done, see {step.output}")
                has_run = False
                continue
            print(f"\n{_head(steps, step)}\n{step.text()}\n", flush=True)
            has_run = True
            code = commands.run(step.command())
            if step.is_finished() and not code and not commands.stopped:
                continue
            again = shlex.join([*_program(), *sys.argv[1:]])
            how = exit_reason(code) if code and not commands.stopped else "stopped"
            print(file=sys.stderr)
            say(f"{step.name}: {how}; continue with: {again}", sys.stderr)
            if code:
                return code if code > 0 else 128 - code
            # A trainer that has saved its state exits with 0; the page is not there yet.
            return 128 + commands.stopped if commands.stopped else 1
    return None


def _head(steps: Sequence[Step], step: Step) -> str:
    return f"[{steps.index(step) + 1}/{len(steps)}] {step.name}"


def _program() -> list[str]:
    program = os.path.basename(sys.argv[0])
    return [program] if program.startswith("cxr-") else ["python", "-m", "cxr_train.run"]


def _name_of(source: str) -> str:
    """Return the name of a folder, or of a CSV without its ending."""
    name = os.path.basename(os.path.abspath(source))
    return name[: -len(".csv")] if name.lower().endswith(".csv") else name


def _check_places(source: str, layout: WorkflowLayout) -> None:
    check_folder("output", layout.directory)
    if storage.is_within(str(layout.directory), source):
        raise UsageError(
            f"--output={layout.directory} lies in {source}: nothing is written there; name a folder outside"
        )


def _find_images(source: str, layout: WorkflowLayout, passed_on: PassedOn) -> tuple[Found, Source]:
    """Return the images, and what is known of them: how many there are by split, "" where there are none.

    Raises:
      UsageError, DataError: there are none, or nothing could be learned from them.
    """
    config = passed_on.sharder_config(source, str(layout.shards))
    left_out = LeftOut(config.exclude_folders, config.exclude_files)
    found = find_inputs(source, config.tables, "", left_out=left_out, follow_links=config.follow_links)
    classes = {item.label for item in found.items}
    if len(classes) == 1 and not found.findings:
        (name,) = classes
        below = any(item.source for item in found.items)
        hint = f"; if the classes lie in it, name {os.path.join(source, name)}" if below else ""
        raise DataError(
            f"{source} has a single class, {name!r}: two are needed, each a folder of its own{hint}"
        )
    counts = collections.Counter(item.split or "" for item in found.items)
    if config.split_file:
        counts = splits_in_file(config.split_file)
    if set(counts) != {""} and "train" not in counts:
        raise DataError(
            f"{config.split_file or source} has images in {', '.join(sorted(counts))}, but none in train: "
            "nothing to learn"
        )
    return found, Source(counts, source, bool(config.split_file))


def _counts_text(found: Found) -> str:
    labels = collections.Counter(item.label for item in found.items)
    if found.findings:
        present = zip(*((value == PRESENT for value in item.labels) for item in found.items), strict=True)
        labels = collections.Counter(dict(zip(found.findings, map(sum, present), strict=True)))
    splits = collections.Counter(item.split for item in found.items if item.split)
    numbers = [", ".join(f"{name} {n:,}" for name, n in sorted(c.items())) for c in (labels, splits) if c]
    return f"{counted(len(found.items), 'image')} ({'; '.join(numbers)})"


def _make_plan(
    source: Source, found: Found, given: dict[str, str], flags: Sequence[str], passed_on: PassedOn
) -> Plan:
    """Return the settings: those that were given, and defaults for the rest. Raises UsageError."""
    machine = find_machine()
    print(wrapped(f"machine: {machine}", rest="  "), flush=True)
    weights = given.get("weights", "auto")
    if weights not in ("auto", "imagenet", "none") and "backbone" not in given:
        raise UsageError(f"--weights={weights}: name their network with --backbone")
    backbone = (
        Choice("backbone", given["backbone"]) if "backbone" in given else defaults.choose_backbone(machine)
    )
    begun_with = Choice("weights", weights)
    if weights == "auto":
        begun_with = defaults.choose_weights(len(found.items), *pretrained_weights(backbone.value))
    check_weights_file(begun_with.value)
    training = [
        backbone,
        begun_with,
        *defaults.training_defaults(
            source, machine, pretrained=begun_with.value != "none", given=passed_on.training
        ),
    ]
    conversion = defaults.conversion_defaults(source, machine)
    size = passed_on.training.get("image_size")
    settings = {"size": size} if size else {}
    settled = _with_given(conversion, settings | passed_on.conversion)
    plan = Plan(
        os.path.abspath(source.place),
        found.discovered,
        tuple(flags),
        source.explained_split(next(choice.value for choice in settled if choice.flag == "splits")),
        settled,
        _with_given(training, passed_on.training),
    )
    check_image_size(backbone.value, int(next(c.value for c in plan.conversion if c.flag == "size")))
    check_training({choice.flag: choice.value for choice in plan.training})
    return plan


def _with_given(choices: Sequence[Choice], given: dict[str, str]) -> tuple[Choice, ...]:
    """Return the settings with what was given in the place of defaults."""
    kept = [choice for choice in choices if choice.flag not in given]
    return (*kept, *(Choice(*flag) for flag in given.items()))


def console_main() -> None:
    """Run the command."""
    define_flags(WorkflowOptions)
    command.run_with_arguments(main, passes_on=True)


if __name__ == "__main__":
    console_main()
