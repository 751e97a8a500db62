"""The sharder's benchmark runs, and refuses what it cannot measure."""

import json
import subprocess
import sys

import numpy as np
import pytest
from project import ROOT
from sharder_fixtures import encoded, picture, save


def benchmark(*arguments):
    command = [sys.executable, "-m", "tools.benchmark", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "choose a benchmark"),
        (("nothing",), 2, "not 'nothing'"),
        (("sharder",), 2, "--source is missing"),
        (("sharder", f"--source={ROOT / 'tests'}"), 1, "holds no grayscale PNGs of 1024x1024"),
    ],
)
def test_mistakes_are_one_line(arguments, code, message):
    done = benchmark(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_small_run_gives_every_row(tmp_path):
    for number in range(3):
        wide = np.kron(picture(number, 64, 64), np.ones((16, 16), np.uint8))
        save(tmp_path / f"in/{number}.png", encoded(wide))
    flags = ["--images=40", "--rounds=1", f"--scratch={tmp_path}", f"--json={tmp_path / 'out.json'}"]
    done = benchmark("sharder", f"--source={tmp_path / 'in'}", *flags)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["results"]
    assert {row["format"] for row in rows} == {"PNG", "JPEG"}
    assert len(rows) == 14
    assert all(row["images_per_second"] > 0 and row["peak_mb"] > 0 for row in rows)
