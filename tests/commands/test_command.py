"""The door of every command: exit codes, one clear line, tracebacks for our own defects only."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from absl import flags
from cxr_data.commands import command
from cxr_data.core.errors import DataError, UsageError

flags.DEFINE_integer("count", 1, "How many.")

def main():
    match flags.FLAGS.count:
        case 1: return None
        case 2: raise UsageError("--count=2: choose\\n   another")
        case 3: raise DataError("a.tfrecord: record 7 is damaged")
        case 4: raise KeyboardInterrupt
        case 5: return 3
        case 6: raise ValueError("a defect")

command.run(main, ["/somewhere/count_things.py", *sys.argv[1:]])
"""


@pytest.mark.parametrize(
    ("arguments", "code", "stderr"),
    [
        ([], 0, ""),
        (["--count=2"], 2, "count_things: error: --count=2: choose another\n"),
        (["--count=3"], 1, "count_things: error: a.tfrecord: record 7 is damaged\n"),
        (["--count=4"], 130, "count_things: error: interrupted\n"),
        (["--count=5"], 3, ""),
        (["--count=many"], 2, "count_things: error: flag --count=many: invalid literal"),
        (["--kount=1"], 2, "count_things: error: Unknown command line flag 'kount'. Did you mean: count ?"),
        (["what"], 2, "count_things: error: unexpected argument 'what' (--help lists the flags)\n"),
    ],
)
def test_what_a_user_can_cause_is_one_line_and_a_code(arguments, code, stderr):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == code
    assert result.stderr.startswith(stderr)
    assert result.stderr.count("\n") == bool(stderr)


def test_a_missing_flag_is_called_missing():
    program = PROGRAM.replace(
        "def main", 'flags.DEFINE_string("data", None, "What.", required=True)\ndef main'
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == "count_things: error: --data is missing (--help lists the flags)\n"


def test_a_defect_of_ours_keeps_its_traceback():
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--count=6"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "ValueError: a defect" in result.stderr


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
