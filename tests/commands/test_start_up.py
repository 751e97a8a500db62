"""Commands that read files start without TensorFlow, whose import takes several seconds."""

import subprocess
import sys

import pytest
from project import ROOT

HEAVY = ("tensorflow", "tensorflow_io", "keras")
# After --help, which ends the process, what was imported is said.
PROGRAM = f"""
import atexit, runpy, sys
atexit.register(lambda: print("imported:", *(name for name in {HEAVY} if name in sys.modules)))
sys.argv = [sys.argv[1], "--help"]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


def imported_for_help(module: str) -> list[str]:
    line = [sys.executable, "-c", PROGRAM, module]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert "Try --helpfull" in result.stdout, result.stderr
    return result.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("module", ["cxr_train.report", "tools.verify_tfrecords"])
def test_help_imports_no_tensorflow(module):
    assert imported_for_help(module) == []


def test_another_command_does():
    assert "tensorflow" in imported_for_help("cxr_train.evaluate")
