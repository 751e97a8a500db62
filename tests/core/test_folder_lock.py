"""A lock on a folder: who is kept out, by whom, and what a crash, a link or a file system leaves of it."""

import errno
import fcntl
import logging
import os
import socket
import subprocess
import sys

import pytest
from project import ROOT

from cxr_data.core.errors import DataError
from cxr_data.core.folder_lock import locked

HOLD = """
import pathlib, sys
from cxr_data.core.folder_lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "lock"


def test_a_second_process_is_named_the_first(lock):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout.readline() == b"held\n"
        said = f"{lock.parent} .*process {first.pid} on {socket.gethostname()}"
        with pytest.raises(DataError, match=said), locked(lock):
            pass
        first.kill()
        first.wait()
        with locked(lock):  # a crash leaves the file, and no lock
            assert f"process {os.getpid()} " in lock.read_text()
    with locked(lock):
        pass


def test_a_link_is_not_written_to(lock, tmp_path):
    target = tmp_path / "precious"
    target.write_text("mine")
    for make in (os.symlink, os.link):
        make(target, lock)
        with pytest.raises(DataError, match=str(lock)), locked(lock):
            pass
        assert target.read_text() == "mine"
        lock.unlink()


def test_a_pipe_is_refused_at_once(lock):
    os.mkfifo(lock)
    with pytest.raises(DataError, match=str(lock)), locked(lock):
        pass


def test_what_a_lock_says_cannot_write_to_a_terminal(lock):
    lock.write_text("\x1b]0;owned\x07" * 1000)
    with open(lock) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DataError) as raised, locked(lock):
            pass
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1000


def test_a_file_system_without_locks_is_said(lock, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with caplog.at_level(logging.WARNING), locked(lock):
        assert str(lock.parent) in caplog.text


def test_a_full_disk_does_not_hinder_a_lock_that_is_held(lock, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("ftruncate", "pwrite"):
        with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
            patched.setattr(os, name, full)
            with locked(lock):
                assert "No space left on device" in caplog.text
        caplog.clear()


def test_a_folder_that_cannot_be_written(lock):
    with pytest.raises(DataError, match="nowhere/lock"), locked(lock.parent / "nowhere" / "lock"):
        pass
