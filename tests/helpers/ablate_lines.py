"""Gives command lines of `cxr_train.ablate` to one process, and prints what each said as JSON.

    python tests/helpers/ablate_lines.py < LINES

LINES is a JSON list of command lines, each a list. In one process, since TensorFlow takes seconds to load.
"""

import contextlib
import io
import json
import sys

from absl.testing import flagsaver

from cxr_data.commands import command
from cxr_train import ablate


def say(line: list[str]) -> dict[str, object]:
    """Runs one command line and returns its exit code, and what it printed."""
    out, errors = io.StringIO(), io.StringIO()
    code = None
    with flagsaver.flagsaver(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            run(ablate.main, ["ablate", *line])
        except SystemExit as end:
            code = end.code
    return {"code": code, "out": out.getvalue(), "errors": errors.getvalue()}


run = command.run
command.run = lambda main: None  # the flags are defined, and nothing is run yet
ablate.console_main()
answers = [say(line) for line in json.load(sys.stdin)]
print(json.dumps(answers))
