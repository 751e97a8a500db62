"""Signals to a process that is busy in C, where Python runs no handler: real ones, to real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

# Hashing for seconds in one call that holds no interpreter lock, as a compilation by XLA does.
BUSY = """
import hashlib, sys
from cxr_train.stop import Stopped, StopRequest

with StopRequest(lambda: "the last saved state is ckpt-7").listening() as stop:
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[1]))
    print("returned", flush=True)
    try:
        stop.check()
    except Stopped:
        print("saved", flush=True)
"""
_SHORT, _LONG = 3_000_000, 60_000_000


def start(iterations: int) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(iterations)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "busy\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_answered_at_once_and_obeyed_when_the_call_returns(number):
    process = start(_SHORT)
    process.send_signal(number)
    # `timeout` signals its child twice.
    process.send_signal(number)
    assert process.stderr.readline() == "\n"
    assert process.stderr.readline().startswith(f"{number.name}: stops after the step in hand, and saves")
    assert process.poll() is None
    output, errors = process.communicate(timeout=60)
    assert (output, errors, process.returncode) == ("returned\nsaved\n", "", 0)


def test_a_second_signal_ends_it_at_once_and_names_the_last_saved_state():
    process = start(_LONG)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.2)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert time.monotonic() - asked < 2
    assert process.returncode == 1
    assert output == ""
    assert errors.splitlines()[-1] == "second SIGINT: the last saved state is ckpt-7"


def test_the_handlers_found_are_put_back():
    from cxr_train.stop import StopRequest

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    descriptors = len(os.listdir("/proc/self/fd"))
    with StopRequest().listening() as stop:
        assert signal.getsignal(signal.SIGTERM) is not before[0]
        assert not stop
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert len(os.listdir("/proc/self/fd")) == descriptors
