"""Gives command lines of `cxr_train.ablate`, or another command, to one process, and prints what each said.

    python tests/helpers/ablate_lines.py [MODULE] < LINES

LINES is a JSON list of command lines, each a list; so is what is printed. In one process, since TensorFlow
takes seconds to load.
"""

import contextlib
import importlib
import io
import json
import sys

from absl.testing import flagsaver

from cxr_data.commands import command


def say(line: list[str]) -> dict[str, object]:
    """Runs one command line and returns its exit code, and what it printed."""
    out, errors = io.StringIO(), io.StringIO()
    code = None
    with flagsaver.flagsaver(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            run(module.main, [name.rpartition(".")[2], *line])
        except SystemExit as end:
            code = end.code
    return {"code": code, "out": out.getvalue(), "errors": errors.getvalue()}


run = command.run
command.run = lambda main: None  # the flags are defined, and nothing is run yet
name = sys.argv[1] if len(sys.argv) > 1 else "cxr_train.ablate"
module = importlib.import_module(name)
module.console_main()
answers = [say(line) for line in json.load(sys.stdin)]
print(json.dumps(answers))
