"""Killed at any moment, the same command makes the same bytes."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from project import ROOT
from sharder_fixtures import content_of, encoded, make_source, picture, save
from waiting import children_of, is_running, wait_until

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.convert.ledger import Header, belongs_to, write_ledger
from cxr_data.core.errors import DataError

OPTIONS = {"size": 48, "shard_mb": 0.1, "quiet": True}

# For each line `STEP COUNT OUTPUT`: converts in a fork of this process, which kills itself when it
# comes to the step for the COUNTth time, and prints what became of it.
KILL_AT_STEPS = """
import os, signal, sys
from cxr_data.convert import config, convert, ledger
from cxr_data.core import local_store, storage

modules = {"storage": storage, "local_store": local_store, "ledger": ledger, "os": os}

def die_at(step, count, output):
    module, name = step.split(".")
    genuine = getattr(modules[module], name)
    calls = 0

    def deadly(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        return genuine(*args, **kwargs)

    setattr(modules[module], name, deadly)
    asked = config.SharderConfig(sys.argv[1], output, size=48, shard_mb=0.1, quiet=True, workers=0)
    convert.make_tfrecords(asked)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        die_at(*line.rstrip().split(" ", 2))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def run(source, output, **options):
    return make_tfrecords(SharderConfig(str(source), str(output), **{**OPTIONS, "workers": 0, **options}))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = make_source(tmp_path_factory.mktemp("source"), 30)
    save(root / "covid/bad.png", encoded(picture(1))[:-30])
    return root


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    run(source, output)
    return content_of(output)


STEPS = [
    ("ledger.write_ledger", 1),  # before the ledger is begun
    ("os.writev", 3),  # in a temporary file
    ("os.fsync", 4),  # after a temporary write
    ("local_store.publish", 3),  # before a shard's rename
    ("ledger.append_result", 2),  # after the rename, before the ledger knows
    ("local_store.append", 3),
    ("ledger.write_ledger", 2),  # after the last shard
    ("storage.replace", 2),  # before one of the final files
    ("storage.replace", 3),
    ("storage.replace", 4),
    ("storage.replace", 5),  # before the features
    ("storage.replace", 6),  # before the audit
    ("storage.replace", 7),  # before the manifest
]


@pytest.fixture(scope="module")
def killer(source):
    with subprocess.Popen(
        [sys.executable, "-c", KILL_AT_STEPS, str(source)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        yield process
        process.stdin.close()


@pytest.mark.parametrize(("step", "count"), STEPS)
def test_killed_at_a_step(source, undisturbed, killer, tmp_path, step, count):
    print(step, count, tmp_path / "out", file=killer.stdin, flush=True)
    assert int(killer.stdout.readline()) == -signal.SIGKILL
    assert not (tmp_path / "out/manifest.json").exists()
    run(source, tmp_path / "out")
    assert content_of(tmp_path / "out") == undisturbed


def start(source, output, workers):
    flags = [
        f"--source={source}",
        f"--output={output}",
        "--size=48",
        "--shard_mb=0.1",
        f"--workers={workers}",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "tools.make_tfrecords", *flags],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def test_a_torn_or_damaged_ledger_line_is_only_work_to_do_again(source, undisturbed, tmp_path):
    run(source, tmp_path)
    ledger = tmp_path / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join([*lines[:2], b'{"name": 5}\n', b"\xff\n", lines[3][: len(lines[3]) // 2]]))
    (tmp_path / "manifest.json").unlink()
    run(source, tmp_path)
    assert content_of(tmp_path) == undisturbed


def test_a_damaged_ledger_head_is_one_clear_line(source, tmp_path):
    run(source, tmp_path)
    (tmp_path / "ledger.jsonl").write_bytes(b"nonsense\n")
    with pytest.raises(DataError, match=rf"{tmp_path}/ledger\.jsonl .*--overwrite"):
        run(source, tmp_path)
    run(source, tmp_path, overwrite=True)


def test_a_ledger_shorter_than_a_header_is_not_of_its_run(tmp_path):
    header = Header({"size": 16}, "plan")
    write_ledger(str(tmp_path), header, [])
    assert belongs_to(str(tmp_path), header)
    for content in (b"", b"{"):
        (tmp_path / "ledger.jsonl").write_bytes(content)
        assert not belongs_to(str(tmp_path), header)


def test_overwrite_of_an_unfinished_output_goes_on_with_it(source, undisturbed, tmp_path):
    run(source, tmp_path)
    (tmp_path / "manifest.json").unlink()
    times = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.tfrecord")}
    run(source, tmp_path, overwrite=True)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.tfrecord")} == times
    assert content_of(tmp_path) == undisturbed


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_disk_full_and_resumed(source, undisturbed, small_disk, workers):
    output = small_disk / "out"
    with pytest.raises(DataError, match=f"{output}: No space left on device"):
        run(source, output, workers=workers)
    assert not list(output.glob("*.tmp"))
    shards = list(output.glob("*.tfrecord"))
    assert shards
    for shard in shards:
        assert shard.read_bytes() == undisturbed[shard.name]
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    run(source, output, workers=workers)
    assert content_of(output) == undisturbed


def test_a_limit_on_file_size_is_one_clear_line(source, undisturbed, tmp_path):
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (30000, resource.RLIM_INFINITY));"
        "from tools import make_tfrecords; make_tfrecords.console_main()"
    )
    flags = [f"--source={source}", f"--output={tmp_path / 'out'}", "--size=48", "--shard_mb=0.1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "out").glob("*.tfrecord"))
    run(source, tmp_path / "out")
    assert content_of(tmp_path / "out") == undisturbed


def test_the_worker_of_a_killed_run_does_no_harm(source, undisturbed, tmp_path):
    """It may wake up while the next run is at the same shard."""
    output = tmp_path / "out"
    process, children = stopped_in_a_shard(source, output)
    process.kill()
    process.wait()
    run(source, output)
    for child in children:
        os.kill(child, signal.SIGCONT)
    wait_until(lambda: not any(is_running(child) for child in children))
    assert content_of(output) == undisturbed


def stopped_in_a_shard(source, output) -> tuple[subprocess.Popen, list[int]]:
    """A run, and its children, stopped where a shard is half written: tried until one is met there."""
    while True:
        process = start(source, output, 1)
        while process.poll() is None:
            if not list(output.glob("*.tmp")):
                continue
            children = children_of(process)
            for child in children:
                os.kill(child, signal.SIGSTOP)
            if list(output.glob("*.tmp")):
                return process, children
            for child in children:
                os.kill(child, signal.SIGCONT)
        assert process.returncode == 0
        shutil.rmtree(output)
