"""Running what is left of a comparison, heads in this process, pictures in a process each; and its cost."""

import contextlib
import logging
import pathlib
import shlex
import statistics
import time
from collections.abc import Iterator, Sequence

from cxr_data.core.errors import CxrError
from cxr_data.core.wording import counted, wrapped
from cxr_data.records.folds import count_images
from cxr_data.records.manifest import read_manifest
from cxr_train.runs.child_commands import ChildCommands, exit_reason
from cxr_train.runs.documents import Throughput, read_document
from cxr_train.transferring.plan import Comparison
from cxr_train.transferring.run import ORACLE, STRESS, TransferRun

logger = logging.getLogger(__name__)


def cost_lines(found: Comparison) -> Iterator[str]:
    """Yield what there is to run and what it costs."""
    cells = [
        *((f"without {name}", runs) for name, runs in found.without.items()),
        *((f"within {name}", runs) for name, runs in found.within.items() if runs),
        *(
            (cell, [run for run in found.stress if run.cell == cell])
            for cell in (STRESS, ORACLE)
            if found.stress
        ),
    ]
    runs = found.runs
    finished = {id(run) for run in runs if run.is_finished}
    width = max([len(name) for name, _ in cells] or [0]) + 2
    yield f"{'':{width}}{'runs':>8}{'finished':>10}{'epochs':>8}{'batch':>7}{'images/epoch':>14}"
    for name, of_cell in cells:
        first = of_cell[0]
        images = _training_images(found, first)
        done = sum(id(run) in finished for run in of_cell)
        yield (
            f"{name:{width}}{len(of_cell):>8}{done:>10}{first.config.epochs:>8}"
            f"{first.config.batch_size:>7}{images:>14,}"
        )
    seconds = _seconds_of([run for run in runs if id(run) in finished])
    yield (
        f"{counted(len(found.methods), 'method')}, each with {counted(found.budget.draws, 'draw')} and "
        f"{counted(len(found.budget.seeds), 'seed')}; {len(finished)} of {counted(len(runs), 'run')} "
        f"finished; {_to_go(seconds, len(runs) - len(finished))}"
    )
    for note in found.notes:
        yield from wrapped(note, rest="  ").splitlines()


def _training_images(found: Comparison, run: TransferRun) -> int:
    if found.stress_data and run.cell in (STRESS, ORACLE):
        return len(found.stress_data["data"]["train"])
    own_train = {target.source: target.own_train for target in found.targets}
    return count_images(found.manifest, own_train[run.cell] if run.is_copied else run.config.train_split)


def _to_go(seconds: Sequence[float], left: int) -> str:
    """Return how long so many runs take, in words, by what finished ones took."""
    if not seconds:
        return "how long a run takes is not known yet"
    mean = statistics.fmean(seconds)
    return f"about {left * mean / 60:.1f} min to go, at {mean:.1f} s a run"


def _seconds_of(finished: Sequence[TransferRun]) -> list[float]:
    """Return what finished runs took, of those that say so."""
    documents = (read_document(run.layout.throughput, Throughput) for run in finished)
    return [seconds for document in documents if (seconds := document.get("seconds")) is not None]


def run_here(found: Comparison) -> tuple[dict[str, str], bool]:
    """Train heads in this process; return why some are not finished, by label, and whether it was stopped."""
    from cxr_data.input.pipeline import Pipeline
    from cxr_train.loop.stop import Stopped, StopRequest
    from cxr_train.transferring.heads import HeadTrainer  # which need TensorFlow

    statuses: dict[str, str] = {}
    left: list[TransferRun] = []
    finished: list[TransferRun] = []
    for run in found.runs:
        (finished if run.is_finished else left).append(run)
    seconds = _seconds_of(finished)
    stop = StopRequest()
    trainers: dict[str, HeadTrainer] = {}
    with stop.listening(), contextlib.suppress(Stopped):
        for number, run in enumerate(left):
            stop.check()
            if run.config.data not in trainers:
                trainers[run.config.data] = HeadTrainer(Pipeline(read_manifest(run.config.data)), stop.check)
            try:
                trainers[run.config.data].train(run)
            except CxrError as error:
                statuses[f"{run.cell}: {run.label}"] = str(error)
                logger.info("%s: %s: %s", run.cell, run.label, error)
                continue
            seconds += _seconds_of([run])
            done = number + 1
            if done % 10 == 0 or done == len(left):
                logger.info(
                    "[%d of %d] %s: %s; %s",
                    done,
                    len(left),
                    run.cell,
                    run.label,
                    _to_go(seconds, len(left) - done),
                )
    return statuses, bool(stop)


def run_in_processes(found: Comparison, lock: int) -> tuple[dict[str, str], bool]:
    """Run each in processes of its own, as `run_here`."""
    statuses: dict[str, str] = {}
    left = [run for run in found.runs if not run.is_finished]
    seconds: list[float] = []
    failed: dict[pathlib.Path, str] = {}
    commands = ChildCommands(lock)
    with commands.listening():
        for number, run in enumerate(left):
            begun = time.monotonic()
            if run.directory in failed:  # a run that is tested in two ways is not trained in vain twice
                statuses[f"{run.cell}: {run.label}"] = failed[run.directory]
                continue
            if number:
                logger.info("\n%s", _to_go(seconds, len(left) - number))
            commands_left = run.commands_left
            if not run.is_trained:
                run.forget_end()
            for line in commands_left:
                if commands.stopped:
                    return statuses, True
                logger.info(
                    "\n[%d of %d] %s: %s\n%s", number + 1, len(left), run.cell, run.label, shlex.join(line)
                )
                if code := commands.run(line):
                    statuses[f"{run.cell}: {run.label}"] = failed[run.directory] = exit_reason(code)
                    break
            else:
                seconds.append(time.monotonic() - begun)
    return statuses, bool(commands.stopped)
