"""Running commands one after the other: real ones, with real signals."""

import contextlib
import json
import os
import pathlib
import pty
import signal
import socket
import subprocess
import sys
import time

import pytest
from embedded_sources import write_embedded_sources
from in_process import run_command
from project import ROOT
from waiting import SECONDS

from cxr_data.core.errors import CxrError
from cxr_data.core.folder_lock import locked
from cxr_train.runs.child_commands import ChildCommands, exit_reason

# Runs a run that ends well on SIGTERM, as `cxr_train.main` does, and then would run another.
GRID = '''
import pathlib, sys
from cxr_data.commands.messages import shown_messages
from cxr_data.core.folder_lock import locked
from cxr_train.runs.child_commands import ChildCommands

RUN = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("at work", flush=True)
for _ in range(600):
    time.sleep(0.1)  # a signal that comes just before a sleep is seen after it
"""
directory = pathlib.Path(sys.argv[1])
with shown_messages(), locked(directory / "lock", waits=True) as lock:
    print("locked", flush=True)
    with ChildCommands(lock).listening() as runner:
        while not runner.stopped:
            print("ended with", runner.run([sys.executable, "-c", RUN]), flush=True)
'''


def grid(directory: pathlib.Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", GRID, str(directory)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_a_signal_is_passed_on_to_the_run(tmp_path):
    process = grid(tmp_path)
    assert [process.stdout.readline() for _ in range(2)] == ["locked\n", "at work\n"]
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=SECONDS)
    assert (rest, process.returncode) == ("ended with 0\n", 0)


def test_a_run_that_outlives_its_grid_keeps_others_out(tmp_path):
    killed = grid(tmp_path)
    assert [killed.stdout.readline() for _ in range(2)] == ["locked\n", "at work\n"]
    killed.kill()
    killed.wait()
    run = int((tmp_path / "lock").read_text().split()[-1])
    second = grid(tmp_path)
    told = second.stdout.readline()
    host = socket.gethostname()
    held_by = f"process {killed.pid} on {host} or its run, process {run},"
    assert told.startswith(f"this process waits for {held_by}")
    assert told.endswith(f" {tmp_path}\n")
    os.kill(run, signal.SIGTERM)
    assert [second.stdout.readline() for _ in range(2)] == ["locked\n", "at work\n"]
    second.send_signal(signal.SIGINT)
    # The run answers SIGINT as Python does, with a traceback that is not ours.
    second.communicate(timeout=SECONDS)
    assert second.returncode == 0


# Runs a run that counts how often it is asked to stop, on a terminal of its own.
ON_A_TERMINAL = """
import pathlib, sys
from cxr_data.core.folder_lock import locked
from cxr_train.runs.child_commands import ChildCommands

RUN = '''
import signal, time
came = []
signal.signal(signal.SIGINT, lambda *_: came.append(1))
print("at work", flush=True)
while not came:
    time.sleep(0.01)
time.sleep(0.5)
print("asked", len(came), flush=True)
'''
with locked(pathlib.Path(sys.argv[1], "lock")) as lock, ChildCommands(lock).listening() as runner:
    code = runner.run([sys.executable, "-c", RUN])
print("ended with", code, runner.stopped, flush=True)
"""


@pytest.mark.parametrize("way", ["kill of the parent", "Ctrl-C"])
def test_on_a_terminal_a_run_is_asked_to_stop_once(tmp_path, way):
    parent, terminal = pty.fork()
    if parent == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", ON_A_TERMINAL, str(tmp_path)])
    said = b""
    while b"at work" not in said:
        said += os.read(terminal, 1000)
    if way == "Ctrl-C":
        os.write(terminal, b"\x03")
    else:
        os.kill(parent, signal.SIGINT)
    with contextlib.suppress(OSError):  # so a terminal ends
        while more := os.read(terminal, 1000):
            said += more
    os.close(terminal)
    assert os.waitpid(parent, 0)[1] == 0
    assert said.split()[-5:] == [b"1", b"ended", b"with", b"0", b"2"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [("raise SystemExit(3)", "exit code 3"), ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL")],
)
def test_why_a_run_failed(tmp_path, code, reason):
    with locked(tmp_path / "lock") as lock:
        assert exit_reason(ChildCommands(lock).run([sys.executable, "-c", code])).startswith(reason)


@pytest.mark.parametrize(
    ("command", "flag", "content"),
    [
        ("ablate", "grid", {"a": {"head": "8"}}),
        ("search", "space", {"head": ["", "8"]}),
        ("transfer", "methods", {"erm": {}}),
    ],
)
def test_a_second_command_in_one_directory_waits_for_the_first(command, flag, content, tmp_path, monkeypatch):
    (tmp_path / "file.json").write_text(json.dumps(content))
    write_embedded_sources(tmp_path / "data")
    runs = tmp_path / "runs"
    runs.mkdir()

    def waited(seconds: float) -> None:
        raise CxrError("it waits")

    line = [f"--data={tmp_path / 'data'}", f"--run_dir={runs}", f"--{flag}={tmp_path / 'file.json'}"]
    with locked(runs / "lock"):
        monkeypatch.setattr(time, "sleep", waited)
        done = run_command(f"cxr_train.{command}", *line, "--backbone=none", "--epochs=2")
    assert done.code == 1
    assert "it waits" in done.output
    assert f"process {os.getpid()} on {socket.gethostname()}" in done.output
    assert [path.name for path in runs.iterdir()] == ["lock"]
