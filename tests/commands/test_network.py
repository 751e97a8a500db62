"""No command contacts the network unasked: everything local works without one."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from in_process import run_command
from project import ROOT

COMMANDS = {
    f"{folder.replace('/', '.')}.{path.stem}"
    for folder in ("cxr_data/commands", "cxr_train")
    for path in (ROOT / folder).glob("*.py")
    if "def console_main" in path.read_text()
}


def without_network() -> list[str]:
    """What runs a command in a network namespace that has no routes, and not even a loopback."""
    line = ["unshare", "-Urn"]
    if shutil.which("unshare") is None or subprocess.run([*line, "true"], check=False).returncode:
        pytest.skip("unshare -Urn is not permitted here")
    return line


@pytest.mark.ci
def test_everything_local_works_without_a_network(tmp_path):
    program = [sys.executable, ROOT / "tests/helpers/offline_commands.py", tmp_path]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*without_network(), *program],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    *local, run, imagenet = map(json.loads, done.stdout.splitlines())
    assert [line for line in local if line[1:3] != [0, []]] == []
    assert {line[0] for line in local} | {run[0]} == COMMANDS
    # The weights are what these two ask for, and both say where else they may come from.
    assert run[1] == 0
    assert imagenet[1] == 1
    assert "--weights=imagenet: " in imagenet[3]
    for _, _, asked, _ in (run, imagenet):
        assert asked
        assert all("storage.googleapis.com" in one for one in asked)


def test_a_command_is_seen_to_contact_what_it_is_asked_to():
    done = run_command("cxr_data.commands.data_service", "--dispatcher=127.0.0.1:1", "--workers=1")
    assert done.code == 2
    assert ("socket.connect", ("127.0.0.1", 1)) in done.network
