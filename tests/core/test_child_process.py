"""Worker processes and a parent that is killed: none is left, whatever it was doing."""

import os
import signal
import subprocess
import sys

import pytest
from project import ROOT
from waiting import SECONDS, is_running, wait_until

PARENT = """
import concurrent.futures, multiprocessing, os, pathlib, signal, sys, time
from cxr_data.convert import workers
from cxr_data.convert.plan import Entry, ShardPlan
from cxr_data.core.child_process import begin_worker, parent_lives
from cxr_data.images.guarded import USUAL
from cxr_data.images.preprocess import PixelOptions

def compute():
    while True:
        pass

def work_while_parent_lives(place):
    while parent_lives():
        pathlib.Path(place, "at work").touch()
        time.sleep(0.01)
    pathlib.Path(place, "tidied up").touch()

def read_for_ever(*_):
    pathlib.Path(sys.argv[2], "at work").touch()
    compute()

def convert(*arguments):
    workers.read_picture = read_for_ever
    workers.serve(*arguments)

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
        case "converting":
            ours, theirs = context.Pipe()
            slot = context.RawArray("q", 8)
            options = PixelOptions(32, 1, "uint8", "gray")
            process = context.Process(target=convert, args=(theirs, slot, sys.argv[2], options, USUAL))
            process.start()
            pid = process.pid
            ours.send((ShardPlan("shard", "train", (Entry("a/b.png", "b.png", 0, "g", 1),)), None))
    while sys.argv[1] in ("asking", "converting") and not pathlib.Path(sys.argv[2], "at work").exists():
        time.sleep(0.01)
    print(pid, parent_lives(), flush=True)
    time.sleep(3600)
"""


@pytest.mark.parametrize("way", ["waiting", "computing", "asking", "converting"])
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


def test_a_worker_in_c_code_that_holds_the_interpreter_lock_ends_after_its_time():
    program = """
import re
from cxr_data.core.child_process import ends_after
with ends_after(60):
    pass
with ends_after(0.2):
    re.match("(a+)+b", "a" * 60)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, timeout=SECONDS, check=False)
    assert ended.returncode == -signal.SIGALRM
