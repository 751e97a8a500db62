"""Worker processes and a parent that is killed: none is left, whatever it was doing."""

import os
import signal
import subprocess
import sys

import pytest
from project import ROOT
from waiting import is_running, wait_until

PARENT = """
import concurrent.futures, multiprocessing, os, pathlib, signal, sys, time
from cxr_data.core.child_process import begin_worker, parent_lives

def compute():
    while True:
        pass

def work_while_parent_lives(place):
    while parent_lives():
        pathlib.Path(place, "at work").touch()
        time.sleep(0.01)
    pathlib.Path(place, "tidied up").touch()

def interrupt_oneself():
    os.kill(os.getpid(), signal.SIGINT)
    return os.getpid()

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    match sys.argv[1]:
        case "waiting":
            pool = concurrent.futures.ProcessPoolExecutor(1, context, begin_worker)
            pid = pool.submit(interrupt_oneself).result()
        case "computing":
            pool = concurrent.futures.ProcessPoolExecutor(1, context, begin_worker)
            pid = pool.submit(os.getpid).result()
            pool.submit(compute)
        case "asking":
            process = context.Process(target=work_while_parent_lives, args=(sys.argv[2],))
            process.start()
            pid = process.pid
            while not pathlib.Path(sys.argv[2], "at work").exists():
                time.sleep(0.01)
    print(pid, parent_lives(), flush=True)
    time.sleep(3600)
"""


@pytest.mark.parametrize("way", ["waiting", "computing", "asking"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_of_a_killed_parent_ends(tmp_path, way, number):
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, program, way, tmp_path], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        worker, has_parent = parent.stdout.readline().split()
        assert has_parent == "True"
        assert is_running(int(worker))
        parent.send_signal(number)
        wait_until(lambda: not is_running(int(worker)))
    assert (tmp_path / "tidied up").exists() == (way == "asking")
