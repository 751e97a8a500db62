"""The benchmarks of scaling run and give every row."""

import json
import subprocess
import sys

import numpy as np
import pytest
from project import ROOT
from sharder_fixtures import encoded, picture, save
from shards import random_images, write_shards


def benchmark(*arguments):
    command = [sys.executable, "-m", "tools.benchmark", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_scaling_is_measured_and_modelled(tmp_path):
    for number in range(3):
        wide = np.kron(picture(number, 64, 64), np.ones((16, 16), np.uint8))
        save(tmp_path / f"in/{number}.png", encoded(wide))
    flags = ["--images=40", "--rounds=1", f"--scratch={tmp_path}", f"--json={tmp_path / 'out.json'}"]
    done = benchmark("scale", f"--source={tmp_path / 'in'}", *flags, "--start_seconds=0")
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out.json").read_text())["results"]
    assert document["strong"][0]["workers"] == 1
    assert document["strong"][0]["speedup"] == 1
    one, eight, _ = document["weak"]
    assert [model["workers"] for model in document["weak"]] == [1, 8, 64]
    assert eight["images"] == 8 * one["images"]
    # At best so many times faster, and never for less money.
    assert one["images_per_second"] < eight["images_per_second"] <= 8 * one["images_per_second"]
    assert eight["cost_per_million"] >= one["cost_per_million"]


@pytest.mark.slow
def test_the_service_is_compared_with_reading_here(tmp_path):
    write_shards(tmp_path / "data", {"train": random_images(128)})
    flags = ["--epochs=1", "--images_per_second=100", f"--json={tmp_path / 'out.json'}"]
    done = benchmark("service", f"--data={tmp_path / 'data'}", *flags)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [row["way"] for row in rows] == [
        "by position",
        "as streams",
        "service",
        "by position",
        "as streams",
    ]
    assert all(0 < row["utilisation"] < 1.1 for row in rows)
