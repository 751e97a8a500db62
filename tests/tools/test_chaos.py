"""Random attacks: they do harm, count it, and name the seed of what does not survive."""

import json
import os
import resource
import subprocess
import sys
import time

import pytest
from project import ROOT, assert_one_clear_line

from tools.chaos.attack import Attack, run
from tools.chaos.life import Life, have_ended


def chaos(*line):
    return subprocess.run(
        [sys.executable, "-m", "tools.chaos", *line], cwd=ROOT, capture_output=True, text=True, check=False
    )


def counts_of(path):
    outcomes = json.loads(path.read_text())["outcomes"]
    return {outcome["attack"]: (outcome["tries"], outcome["failures"]) for outcome in outcomes}


def test_kills_damage_and_full_disks_leave_the_sharder_right(tmp_path):
    counted = tmp_path / "counts.json"
    done = chaos("sharder", "inputs", "disks", "--tries=3", f"--folder={tmp_path}", f"--json={counted}")
    if "namespaces" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = counts_of(counted)
    assert list(counts) == ["sharder", "inputs", "disks"]
    assert all(tries >= 3 and failures == {} for tries, failures in counts.values())


@pytest.mark.slow
def test_more_kills_of_the_sharder_and_of_the_trainer(tmp_path):
    counted = tmp_path / "counts.json"
    done = chaos("sharder", "trainer", "--tries=20", "--seed=1000", "--minutes=60", f"--json={counted}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert counts_of(counted).keys() == {"sharder", "trainer"}


def test_an_unknown_attack_is_a_wrong_command_line():
    done = chaos("sharks")
    assert_one_clear_line(done, 2, "'sharks'", "sharder")
    assert done.stderr.startswith("chaos: error: ")


class Thirds(Attack):
    """Fails for each third seed, and misses the moment for the seed after it."""

    name, unit, usual = "thirds", "thirds", 4

    def prepare(self):
        assert self.folder.is_dir()

    def attempt(self, seed):
        assert seed % 3, f"{self.name} of {seed}"
        return seed % 3 - 1


def test_a_failure_is_counted_with_its_seed_and_can_be_repeated(tmp_path, capsys):
    outcome = run(Thirds(tmp_path / "1"), None, 0, 60)
    assert (outcome.tries, outcome.wanted) == (4, 4)
    assert list(outcome.failures) == [0, 3]
    assert "--seed=3 --tries=1" in capsys.readouterr().out
    again = run(Thirds(tmp_path / "2"), 1, 3, 60)
    assert "thirds of 3" in again.failures[3]
    assert run(Thirds(tmp_path / "3"), 10**9, 0, 0.05).tries > 0  # the time ends it


def test_a_life_ends_as_its_work_does(tmp_path):
    def fail():
        raise ValueError("a reason")

    Life(lambda: None, tmp_path / "log").succeed()
    with pytest.raises(AssertionError, match="ValueError: a reason"):
        Life(fail, tmp_path / "log").succeed()
    life = Life(lambda: time.sleep(600), tmp_path / "log")
    assert life.wait(0.01) is None
    life.end()
    assert life.wait() == -9
    assert have_ended([life.pid])
    assert not have_ended([os.getpid()], within=0.01)


def test_a_life_can_be_ended_at_once(tmp_path):
    for _ in range(20):  # the process may not have run yet
        life = Life(lambda: time.sleep(600), tmp_path / "log")
        life.end()
        assert life.wait(10) == -9


def test_a_life_is_waited_for_where_a_thousand_files_are_open(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        Life(lambda: None, tmp_path / "log").succeed()
    finally:
        for descriptor in held:
            os.close(descriptor)
