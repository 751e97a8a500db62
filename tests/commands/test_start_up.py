"""Commands say what is wrong, and `--help`, without TensorFlow, whose import takes several seconds."""

import os
import pathlib
import subprocess
import sys

import pytest
from project import ROOT

from cxr_data.core.wording import tool
from cxr_train.runs.config import TrainConfig

SLOW = ("tensorflow", "tensorflow_io", "keras", "sklearn", "scipy", "matplotlib", "pandas", "pydicom")
# When the process ends, what was imported is said.
PROGRAM = f"""
import atexit, runpy, sys
atexit.register(lambda: print("imported:", *(name for name in {SLOW} if name in sys.modules)))
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__")
"""
COMMANDS = [
    "cxr_train.ablate",
    "cxr_train.evaluate",
    "cxr_train.explain",
    "cxr_train.export",
    "cxr_train.main",
    "cxr_train.predict",
    "cxr_train.report",
    "cxr_train.run",
    "tools.audit_dataset",
    "tools.data_service",
    "tools.index_tfrecords",
    "tools.make_sample",
    "tools.make_tfrecords",
    "tools.verify_tfrecords",
]


def start(module: str, *arguments: object, folder: pathlib.Path = ROOT) -> tuple[int, str, list[str]]:
    """The exit code of a command, what it said, and which slow modules it has imported."""
    line = [sys.executable, "-c", PROGRAM, module, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        line, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    *said, imported = result.stdout.splitlines()
    return result.returncode, "\n".join(said) + result.stderr, imported.split()[1:]


@pytest.mark.parametrize("module", COMMANDS)
def test_help_and_a_wrong_flag_import_nothing_slow(module):
    code, said, imported = start(module, "--help")
    assert (code, imported) == (0, [])
    assert "Try --helpfull" in said
    code, said, imported = start(module, "--no_such_flag")
    assert (code, imported) == (2, [])
    assert "no_such_flag" in said


@pytest.mark.parametrize("name", [name[6:] for name in COMMANDS if name.startswith("tools.")])
def test_a_command_starts_by_the_name_that_messages_give_it_outside_of_a_checkout(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert tool(name) == f"cxr_data.commands.{name}"
    code, said, _ = start(tool(name), "--no_such_flag", folder=tmp_path)
    assert code == 2
    assert "no_such_flag" in said


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("cxr_train.ablate", ["--data=nowhere", "--run_dir=runs"]),
        ("cxr_train.evaluate", ["--run_dir=nowhere"]),
        ("cxr_train.explain", ["--run_dir=nowhere"]),
        ("cxr_train.export", ["--run_dir=nowhere", "--output=out"]),
        ("cxr_train.main", ["--data=nowhere", "--run_dir=run"]),
        ("cxr_train.main", ["--run_dir=nowhere", "--resume"]),
        ("cxr_train.main", ["--run_dir=run", "--weights=nowhere"]),
        ("cxr_train.predict", ["--run_dir=nowhere", "image.png"]),
        ("cxr_train.report", ["--run_dir=nowhere"]),
        ("cxr_train.run", ["nowhere"]),
        ("tools.audit_dataset", ["--data=nowhere"]),
        ("tools.index_tfrecords", ["--data=nowhere", "--classes=a,b"]),
        ("tools.make_tfrecords", ["--source=nowhere", "--output=out"]),
        ("tools.verify_tfrecords", ["--data=nowhere"]),
    ],
)
def test_what_is_missing_is_said_before_anything_slow_is_imported(tmp_path, module, arguments):
    (tmp_path / "image.png").touch()
    code, said, imported = start(module, *arguments, folder=tmp_path)
    assert code in (1, 2)
    assert "nowhere" in said
    assert imported == []


def test_a_report_is_made_without_tensorflow(tmp_path):
    TrainConfig("vgg16", str(tmp_path), str(tmp_path)).save(tmp_path / "config.json")
    code, said, imported = start("cxr_train.report", f"--run_dir={tmp_path}")
    assert code == 0, said
    assert (tmp_path / "report/index.html").exists()
    assert {"tensorflow", "keras", "sklearn"}.isdisjoint(imported)
