"""Signals to a process that is busy in C, where Python runs no handler: real ones, to real processes."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

# Waits in one call of C that holds no interpreter lock, as a compilation by XLA does, for a line.
BUSY = """
import ctypes, sys, threading
from cxr_train.loop.stop import Stopped, StopRequest

libc = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(mutex)

def let_it_return():
    if sys.stdin.readline():
        libc.pthread_mutex_unlock(mutex)

threading.Thread(target=let_it_return, daemon=True).start()
with StopRequest(lambda: "the last saved state is ckpt-7").listening() as stop:
    print("busy", flush=True)
    libc.pthread_mutex_lock(mutex)
    print("returned", flush=True)
    try:
        stop.check()
    except Stopped:
        print("saved", flush=True)
"""


@pytest.fixture
def process():
    """It, in that call. An answer that does not come ends it: the test fails and does not hang."""
    with subprocess.Popen(
        [sys.executable, "-c", BUSY],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as started:  # fmt: skip
        watchdog = threading.Timer(60, started.kill)
        watchdog.start()
        assert started.stdout.readline() == "busy\n"
        yield started
        watchdog.cancel()
        started.kill()


def assert_answered(process, number):
    assert process.stderr.readline() == "\n"
    assert process.stderr.readline().startswith(f"{number.name}: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_answered_at_once_and_obeyed_when_the_call_returns(process, number):
    process.send_signal(number)
    # `timeout` signals its child twice.
    process.send_signal(number)
    assert_answered(process, number)
    assert process.communicate("return\n") == ("returned\nsaved\n", "")
    assert process.returncode == 0


def test_a_second_signal_ends_it_at_once_and_names_the_last_saved_state(process):
    process.send_signal(signal.SIGTERM)
    assert_answered(process, signal.SIGTERM)
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 1
    assert output == ""  # the call had not returned
    assert re.fullmatch(r"second SIGINT: .*\bckpt-7", errors.splitlines()[-1])


def test_the_handlers_found_are_put_back():
    from cxr_train.loop.stop import StopRequest

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    descriptors = set(os.listdir("/proc/self/fd"))
    with StopRequest().listening() as stop:
        assert signal.getsignal(signal.SIGTERM) is not before[0]
        assert not stop
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    # Others may have been closed meanwhile, none is new.
    assert set(os.listdir("/proc/self/fd")) <= descriptors
