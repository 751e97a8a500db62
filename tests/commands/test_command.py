"""The door of every command: exit codes, one clear line, tracebacks for our own defects only."""

import os
import signal
import subprocess
import sys

import pytest
from in_process import run

from cxr_data.commands import command

PROGRAM = """
import sys
from absl import flags
from cxr_data.commands import command
from cxr_data.core.errors import DataError, UsageError

flags.DEFINE_integer("count", 1, "How many.")
flags.DEFINE_float("share", 1, "How much.")
flags.DEFINE_bool("loud", False, "Whether to shout.")

def main():
    match flags.FLAGS.count:
        case 1: return None
        case 2: raise UsageError("--count=2: choose\\n   another")
        case 3: raise DataError("a.tfrecord: record 7 is damaged")
        case 4: raise KeyboardInterrupt
        case 5: return 3
        case 6: raise ValueError("a defect")
        case 7: raise OSError(28, "No space left on device", "out/table.csv")
        case 8: raise PermissionError(13, "Permission denied", "out")
        case 9: raise OSError(5, "Input/output error")

command.run(main, ["/somewhere/count_things.py", *sys.argv[1:]])
"""


def count(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(lambda: exec(program, {"__name__": "count"}), "-c", *arguments).completed


@pytest.mark.parametrize(
    ("arguments", "code", "stderr"),
    [
        ([], 0, ""),
        (["--count=2"], 2, "count_things: error: --count=2: choose another\n"),
        (["--count=3"], 1, "count_things: error: a.tfrecord: record 7 is damaged\n"),
        (["--count=4"], 130, "count_things: error: interrupted\n"),
        (["--count=5"], 3, ""),
        (["--count=7"], 1, "count_things: error: out/table.csv: No space left"),
        (["--count=8"], 1, "count_things: error: out: Permission denied; "),
        (["--count=many"], 2, "count_things: error: flag --count=many: must"),
        (["--share=0,5"], 2, "count_things: error: flag --share=0,5: must be a number"),
        (["--loud=maybe"], 2, "count_things: error: flag --loud=maybe: must be true or"),
        (["--flagfile=gone.txt"], 2, "count_things: error: --flagfile=gone.txt: "),
        (["--kount=1"], 2, "count_things: error: Unknown command line flag 'kount'. Did you mean: count ?"),
        (["what"], 2, "count_things: error: unexpected argument 'what' (--help lists the flags)\n"),
    ],
)
def test_what_a_user_can_cause_is_one_line_and_a_code(arguments, code, stderr):
    result = count(PROGRAM, *arguments)
    assert result.returncode == code
    assert result.stderr.startswith(stderr)
    assert result.stderr.count("\n") == bool(stderr)


HOLDING = """
import sys
from cxr_data.commands import command
from cxr_data.core.errors import DataError

class Held:
    def __del__(self):
        print("too late" if sys.is_finalizing() else "let go")

def fail(kept):
    held = Held()
    kept.append(1 / 0)

def main():
    kept, held = [], Held()
    try:
        fail(kept)
    except ZeroDivisionError as error:
        kept.append(error)  # a circle: error, traceback, frame, list
        raise KIND from error

command.run(main)
"""


@pytest.mark.parametrize(("kind", "code"), [("DataError('no')", 1), ("KeyboardInterrupt", 130)])
def test_what_an_error_holds_is_let_go_before_the_interpreter_ends(kind, code):
    result = subprocess.run(
        [sys.executable, "-c", HOLDING.replace("KIND", kind)], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout.split("\n")) == (code, ["let go", "let go", ""])


def test_a_missing_flag_is_called_missing():
    program = PROGRAM.replace(
        "def main", 'flags.DEFINE_string("data", None, "What.", required=True)\ndef main'
    )
    result = count(program)
    assert result.returncode == 2
    assert result.stderr == "count_things: error: --data is missing (--help lists the flags)\n"


@pytest.mark.parametrize(("number", "error"), [(6, "ValueError: a defect"), (9, "Input/output error")])
def test_a_defect_of_ours_keeps_its_traceback(number, error):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"--count={number}"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert error in result.stderr


IMPORTING = """
import importlib.abc, os, signal, sys
sys.argv = ["/bin/cxr-run", *sys.argv[1:]]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests with & ignores it
class Interrupts(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
from cxr_train.run import console_main
console_main()
"""


@pytest.mark.parametrize("at", ["absl", "cxr_train.run"])
def test_ctrl_c_during_the_imports_shows_nothing(at):
    result = subprocess.run(
        [sys.executable, "-c", IMPORTING, at], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("lost", ["stdout", "stderr"])
def test_a_command_whose_reader_has_gone_ends_quietly(lost):
    reading, writing = os.pipe()
    os.close(reading)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, lost: writing}
    program = PROGRAM.replace("match flags", "print('x' * 100_000)\n    match flags")
    count = {"stdout": 1, "stderr": 2}[lost]  # where the work ends well, and where an error is shown
    process = subprocess.Popen([sys.executable, "-c", program, f"--count={count}"], **streams, text=True)
    os.close(writing)
    said = process.communicate()
    assert process.returncode == 141
    assert "Error" not in "".join(filter(None, said))  # as of a traceback


def test_help_into_head_ends_quietly():
    line = f"{sys.executable} -m cxr_train.main --help | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize(
    ("error", "ends"), [(BrokenPipeError, BrokenPipeError), (KeyboardInterrupt, SystemExit)]
)
def test_what_ends_a_command_here(error, ends):
    # The pipe may be any of the program's own.
    with pytest.raises(ends), command.ending_as_a_program(["x"]):
        raise error


MODULE = "import sys; sys.argv[0] = 'installed'; from {0} import console_main; console_main()"


@pytest.mark.parametrize(
    ("started", "arguments", "parts"),
    [
        (["-m", "tools.make_sample"], [], ["--images: Number of labelled images", "(default: '120')"]),
        (
            ["-c", MODULE.format("tools.data_service")],
            [],
            ["Starts input workers", "--dispatcher: HOST:PORT"],
        ),
        (["-m", "tools.benchmark"], [], ["Measures this project", "service"]),
        (
            ["-m", "tools.benchmark"],
            ["service"],
            ["When the tf.data service pays", "--epochs: Passes", "--json"],
        ),
    ],
    ids=["module", "installed", "benchmark", "one_benchmark"],
)
def test_help_tells_what_a_command_does_and_all_its_flags(started, arguments, parts):
    result = subprocess.run(
        [sys.executable, *started, *arguments, "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for part in parts:
        assert part in result.stdout
    assert "TensorFlow" not in result.stdout.partition("flags:")[2]
