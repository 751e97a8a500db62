"""The line that a command says before it loads TensorFlow; a stand-in is loaded here."""

import subprocess
import sys

import pytest
from project import ROOT

PROGRAM = """
import sys
from cxr_data.commands import command

def main():
    print("checked", flush=True)
    import keras, tensorflow

sys.path.insert(0, sys.argv[1])
command.run(main, ["count"]) if sys.argv[2] == "command" else main()
"""


@pytest.mark.parametrize(("way", "line"), [("command", ["loading TensorFlow"]), ("library", [])])
def test_a_command_says_once_and_first_that_it_loads_tensorflow(tmp_path, way, line):
    (tmp_path / "keras.py").write_text("import tensorflow")
    (tmp_path / "tensorflow.py").write_text("print('loaded')")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path, way], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["checked", *line, "loaded"]
