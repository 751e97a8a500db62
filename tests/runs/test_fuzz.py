"""Documents of a data set and a run that somebody else made up: a line or none, see `helpers/fuzz.py`.

The quick part is a few cases of each, the slow part thousands, or hundreds of those that take half a second.
"""

import os
import subprocess
import sys

import pytest
from fuzz import FUZZERS, SHOWN, data, run  # noqa: F401 - the fixtures
from fuzz_many_runs import COSTLY, OF_MANY_RUNS
from project import ROOT
from shards import random_images, write_shards

EVERY = FUZZERS | OF_MANY_RUNS


@pytest.mark.parametrize("name", EVERY)
def test_a_few_of_each(name, data, run, tmp_path):  # noqa: F811
    EVERY[name](data, run, tmp_path, 4 if name in (*SHOWN, *COSTLY) else 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_many_of_each(name, data, run, tmp_path):  # noqa: F811
    EVERY[name](data, run, tmp_path, 200 if name in ("checkpoint", "model", *SHOWN, *COSTLY) else 3000)


@pytest.mark.slow
def test_guided_by_coverage(tmp_path):
    """Atheris is no dependency: it has wheels of Linux for a few versions of Python only."""
    pytest.importorskip("atheris", reason="pip install atheris")
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    write_shards(tmp_path / "seed", {"train": random_images(4)})
    (seeds / "manifest").write_bytes(b"\0" + (tmp_path / "seed" / "manifest.json").read_bytes())
    (seeds / "index").write_bytes(b"\3" + (tmp_path / "seed" / "index.npy").read_bytes())
    (seeds / "predictions").write_bytes(b"\2id,group,label,predicted,p_a,p_b\nx,y,a,b,0.25,0.75\n")
    limits = ["-runs=50000", "-max_total_time=300", "-timeout=30", "-rss_limit_mb=4096", "-max_len=8192"]
    script = ROOT / "tests/helpers/fuzz_atheris.py"
    ended = subprocess.run(
        [sys.executable, script, str(tmp_path), *limits, str(seeds)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
