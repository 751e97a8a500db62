"""Running commands one after the other: real ones, with real signals."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
from project import ROOT
from waiting import SECONDS

from cxr_train.runs.child_commands import ChildCommands, exit_reason, locked

# Runs a run that ends well on SIGTERM, as `cxr_train.main` does, and then would run another.
GRID = '''
import pathlib, sys
from cxr_data.commands.messages import shown_messages
from cxr_train.runs.child_commands import ChildCommands, locked

RUN = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("at work", flush=True)
time.sleep(60)
"""
directory = pathlib.Path(sys.argv[1])
with shown_messages(), locked(directory / "lock") as lock:
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
    assert told == f"waits for process {killed.pid} or its run, process {run}, at work in {tmp_path}\n"
    os.kill(run, signal.SIGTERM)
    assert [second.stdout.readline() for _ in range(2)] == ["locked\n", "at work\n"]
    second.send_signal(signal.SIGINT)
    # The run answers SIGINT as Python does, with a traceback that is not ours.
    second.communicate(timeout=SECONDS)
    assert second.returncode == 0


@pytest.mark.parametrize(
    ("code", "reason"),
    [("raise SystemExit(3)", "exit code 3"), ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL")],
)
def test_why_a_run_failed(tmp_path, code, reason):
    with locked(tmp_path / "lock") as lock:
        assert exit_reason(ChildCommands(lock).run([sys.executable, "-c", code])).startswith(reason)
