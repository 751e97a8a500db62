"""The steps of a workflow: the command of each, and whether what it makes is there already."""

import dataclasses
import functools
import os
import pathlib
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence

from cxr_data.core.choice import Choice
from cxr_data.core.errors import DataError
from cxr_data.core.shown import one_line
from cxr_data.core.wording import tool
from cxr_data.records.layout import AUDIT_NAME, MANIFEST_NAME
from cxr_train.runs.documents import read_document
from cxr_train.runs.layout import EXPLANATION_NAME, WorkflowLayout
from cxr_train.runs.metrics_document import OfModel
from cxr_train.runs.saved_run import model_sha256
from cxr_train.workflow.plan import Plan

_WIDTH = 96


@dataclasses.dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
      name: as `convert`.
      output: what it makes, or the file that says that it has ended.
      is_finished: returns whether that is there.
      arguments: returns what Python gets to begin it, or to continue it.
    """

    name: str
    output: pathlib.Path
    is_finished: Callable[[], bool]
    arguments: Callable[[], list[str]]

    def command(self) -> list[str]:
        """Return the process that does it."""
        return [sys.executable, *self.arguments()]

    def text(self) -> str:
        """Return the same for a shell, in lines of a terminal's width."""
        words = [one_line(shlex.quote(word)) for word in (_python(), *self.arguments())]
        words[:3] = [" ".join(words[:3])]
        lines = [words[0]]
        for word in words[1:]:
            if len(lines[-1]) + len(word) < _WIDTH:
                lines[-1] += f" {word}"
            else:
                lines.append(f"  {word}")
        return " \\\n".join(lines)


def steps_of(plan: Plan, source: str, layout: WorkflowLayout) -> list[Step]:
    """Return the steps of a plan, in order.

    Args:
      plan: of the workflow.
      source: the folder of images, as the user wrote it.
      layout: of the output.
    """
    data, run = layout.shards, layout.run
    run_dir, of_run = run.directory, [f"--run_dir={run.directory}", f"--data={data}"]
    explanation = run.explanation(plan.split)

    def train() -> list[str]:
        if run.config.exists():
            return ["-m", "cxr_train.main", f"--flagfile={run.flags}", *of_run, "--resume"]
        return ["-m", "cxr_train.main", *of_run, *as_flags(plan.training)]

    def explain() -> list[str]:
        again = ["--overwrite"] if explanation.exists() else []
        return ["-m", "cxr_train.explain", *of_run, f"--split={plan.split}", *again]

    def page_is_new() -> bool:
        return run.report.exists() and _is_older(explanation / EXPLANATION_NAME, run.report)

    of_model = functools.partial(_is_of_model, run_dir=run_dir)
    return [
        Step(
            "convert",
            data / MANIFEST_NAME,
            (data / MANIFEST_NAME).exists,
            lambda: [
                "-m",
                tool("make_tfrecords"),
                f"--source={source}",
                f"--output={data}",
                *as_flags(plan.conversion),
                "--noaudit",  # which the next step does
            ],
        ),
        Step(
            "audit",
            data / AUDIT_NAME,
            (data / AUDIT_NAME).exists,
            lambda: ["-m", tool("audit_dataset"), f"--data={data}"],
        ),
        Step("train", run_dir, lambda: run.config.exists() and run.throughput.exists(), train),
        Step(
            "evaluate",
            run.metrics(plan.split),
            lambda: of_model(run.metrics(plan.split)),
            lambda: ["-m", "cxr_train.evaluate", *of_run, f"--split={plan.split}"],
        ),
        Step(
            "explain",
            explanation,
            lambda: of_model(explanation / EXPLANATION_NAME),
            explain,
        ),
        Step("page", run.report, page_is_new, lambda: ["-m", "cxr_train.report", f"--run_dir={run_dir}"]),
    ]


def as_flags(choices: Sequence[Choice]) -> list[str]:
    """Return settings as a command takes them."""
    return [f"--{choice.flag}={choice.value}" for choice in choices]


def _is_of_model(document: pathlib.Path, *, run_dir: pathlib.Path) -> bool:
    """Return whether a JSON file is there that says something of the run's best model as it is now."""
    try:
        said_of = read_document(document, OfModel).get("model_sha256")
    except DataError:
        return False
    return said_of is not None and said_of == model_sha256(run_dir)


def _is_older(path: pathlib.Path, other: pathlib.Path) -> bool:
    return path.exists() and path.stat().st_mtime_ns <= other.stat().st_mtime_ns


def _python() -> str:
    """Return how this Python is called from a shell: `python` where that is this one."""
    found = shutil.which("python")
    return "python" if found and os.path.dirname(found) == os.path.dirname(sys.executable) else sys.executable
