"""Gives many command lines to one process, since TensorFlow takes seconds to load.

    python tests/helpers/command_lines.py MODULE < LINES

LINES is a JSON list of command lines of the module, each a list; what each said is printed as another.
"""

import contextlib
import importlib
import io
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from absl.testing import flagsaver
from project import HELPERS, ROOT
from waiting import SECONDS

from cxr_data.commands import command


def answers_of(module: str, lines: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Return by name what a command says to lines: its exit code, what it prints, and its errors."""
    done = subprocess.run(
        [sys.executable, HELPERS / "command_lines.py", module],
        input=json.dumps(list(lines.values())),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(lines, json.loads(done.stdout), strict=True))


def say(module: ModuleType, line: list[str]) -> dict[str, object]:
    """Run one command line and return its exit code, and what it printed."""
    out, errors = io.StringIO(), io.StringIO()
    code = None
    with flagsaver.flagsaver(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            run(module.main, [module.__name__.rpartition(".")[2], *line])
        except SystemExit as end:
            code = end.code
    return {"code": code, "out": out.getvalue(), "errors": errors.getvalue()}


if __name__ == "__main__":
    run = command.run
    command.run = lambda main: None  # the flags are defined, and nothing is run yet
    chosen = importlib.import_module(sys.argv[1])
    chosen.console_main()
    print(json.dumps([say(chosen, line) for line in json.load(sys.stdin)]))
