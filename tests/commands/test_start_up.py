"""Commands say what is wrong, and `--help`, without TensorFlow, whose import takes several seconds."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from project import ROOT

from cxr_data.core.wording import tool
from cxr_train.runs.config import TrainConfig

SLOW = ("tensorflow", "tensorflow_io", "keras", "sklearn", "scipy", "matplotlib", "pandas", "pydicom")
# Forks for each command: as if Python had just started, but with packages that most commands import and that
# are not slow.
SERVER = f"""
import json, os, runpy, sys, tempfile, traceback
import absl.app, cv2, numpy
import cxr_data.commands.setting_flags, cxr_train.flags.training, cxr_train.runs.config

for line in sys.stdin:
    folder, *argv = json.loads(line)
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if not pid:
            nothing = os.open(os.devnull, os.O_RDONLY)
            for place, descriptor in enumerate((nothing, said.fileno(), said.fileno())):
                os.dup2(descriptor, place)
            os.chdir(folder)
            sys.argv, code = argv, 1
            try:
                runpy.run_module(argv[0], run_name="__main__")
                code = 0
            except SystemExit as ended:
                code = ended.code
            except BaseException:
                traceback.print_exc()
            print("\\nimported:", *(name for name in {SLOW} if name in sys.modules), flush=True)
            sys.stderr.flush()
            os._exit(code or 0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        print(json.dumps([code, said.read().decode()]), flush=True)
"""
COMMANDS = [
    "cxr_train.ablate",
    "cxr_train.embed",
    "cxr_train.evaluate",
    "cxr_train.explain",
    "cxr_train.export",
    "cxr_train.main",
    "cxr_train.predict",
    "cxr_train.report",
    "cxr_train.run",
    "cxr_train.search",
    "cxr_train.transfer",
    "tools.audit_dataset",
    "tools.data_service",
    "tools.index_tfrecords",
    "tools.make_sample",
    "tools.make_tfrecords",
    "tools.verify_tfrecords",
]


@pytest.fixture(scope="module")
def start():
    """The function that starts a command: it returns the exit code, what was said, and what was imported."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(module: str, *arguments: object, folder: pathlib.Path = ROOT) -> tuple[int, str, list[str]]:
        server.stdin.write(json.dumps([str(folder), module, *map(str, arguments)]) + "\n")
        server.stdin.flush()
        code, said = json.loads(server.stdout.readline())
        said, _, imported = said.rpartition("\nimported:")
        return code, said, imported.split()

    yield run
    server.stdin.close()
    server.wait()


@pytest.mark.parametrize("module", COMMANDS)
def test_help_and_a_wrong_flag_import_nothing_slow(start, module):
    code, said, imported = start(module, "--help")
    assert (code, imported) == (0, [])
    assert "Try --helpfull" in said
    code, said, imported = start(module, "--no_such_flag")
    assert (code, imported) == (2, [])
    assert "no_such_flag" in said


@pytest.mark.parametrize("name", [name[6:] for name in COMMANDS if name.startswith("tools.")])
def test_a_command_starts_by_the_name_that_messages_give_it_outside_of_a_checkout(
    start, name, tmp_path, monkeypatch
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
        ("cxr_train.embed", ["--data=nowhere", "--output=out", "--backbone=vgg16"]),
        ("cxr_train.evaluate", ["--run_dir=nowhere"]),
        ("cxr_train.explain", ["--run_dir=nowhere"]),
        ("cxr_train.export", ["--run_dir=nowhere", "--output=out"]),
        ("cxr_train.main", ["--data=nowhere", "--run_dir=run"]),
        ("cxr_train.main", ["--run_dir=nowhere", "--resume"]),
        ("cxr_train.main", ["--run_dir=run", "--weights=nowhere"]),
        ("cxr_train.predict", ["--run_dir=nowhere", "image.png"]),
        ("cxr_train.report", ["--run_dir=nowhere"]),
        ("cxr_train.run", ["nowhere"]),
        ("cxr_train.search", ["--data=nowhere", "--run_dir=runs"]),
        ("cxr_train.transfer", ["--data=nowhere", "--run_dir=runs"]),
        ("tools.audit_dataset", ["--data=nowhere"]),
        ("tools.index_tfrecords", ["--data=nowhere", "--classes=a,b"]),
        ("tools.make_tfrecords", ["--source=nowhere", "--output=out"]),
        ("tools.verify_tfrecords", ["--data=nowhere"]),
    ],
)
def test_what_is_missing_is_said_before_anything_slow_is_imported(start, tmp_path, module, arguments):
    (tmp_path / "image.png").touch()
    code, said, imported = start(module, *arguments, folder=tmp_path)
    assert code in (1, 2)
    assert "nowhere" in said
    assert imported == []


def test_a_report_is_made_without_tensorflow(start, tmp_path):
    TrainConfig("vgg16", str(tmp_path), str(tmp_path)).save(tmp_path / "config.json")
    code, said, imported = start("cxr_train.report", f"--run_dir={tmp_path}")
    assert code == 0, said
    assert (tmp_path / "report/index.html").exists()
    assert {"tensorflow", "keras", "sklearn"}.isdisjoint(imported)
