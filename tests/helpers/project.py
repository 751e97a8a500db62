"""Where the project is, for tests that start its commands, and what a command that fails prints."""

import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
HELPERS = pathlib.Path(__file__).resolve().parent
RECORDED_TRAINING = str(HELPERS / "recorded_training.py")


def assert_one_clear_line(result: subprocess.CompletedProcess, code: int, *parts: str) -> None:
    """Asserts that a command ended with `code`, without a traceback, and that its last line has all parts."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    for part in parts:
        assert part in last, result.stderr
