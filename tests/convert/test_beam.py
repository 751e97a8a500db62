"""Beam's shards are the local runner's, byte for byte, however often and by whomever they are written."""

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from finding_tables import make_columns
from project import HELPERS, ROOT
from sharder_fixtures import content_of, encoded, make_source, picture, save
from waiting import SECONDS, wait_until

from cxr_data.convert import beam, ledger
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.convert.ledger import Header
from cxr_data.convert.plan import Entry, ShardPlan
from cxr_data.convert.shard_writer import write_shard
from cxr_data.core.errors import DataError, UsageError
from cxr_data.images.guarded import Limits
from cxr_data.images.preprocess import PixelOptions

PIXELS = PixelOptions(16, 1, "uint8", "gray", 10**8)
HEADER = Header({"size": 16}, "plan")


def run(source, output, **options):
    values = {"size": 48, "shard_mb": 0.1, "workers": 0, "quiet": True, **options}
    return make_tfrecords(SharderConfig(str(source), str(output), **values))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = make_source(tmp_path_factory.mktemp("source"), 40)
    save(root / "covid/bad.png", encoded(picture(1))[:-30])
    return root


@pytest.fixture(scope="module")
def local(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("local") / "out"
    run(source, output)
    return content_of(output)


@pytest.fixture
def plan(source):
    paths = sorted(source.glob("*/image*"))[:12]
    entries = [Entry(p.name, str(p), 0, p.name, p.stat().st_size) for p in paths]
    return ShardPlan("train-00000-of-00001.tfrecord", "train", tuple(entries))


@pytest.mark.parametrize("mode", ["in_memory", pytest.param("multi_processing", marks=pytest.mark.ci)])
def test_beam_writes_what_the_local_runner_writes(source, local, tmp_path, mode, monkeypatch):
    pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")

    def after_an_attempt_that_was_killed(plan, directory, *rest, **options):
        save(Path(directory, f"{plan.name}.0123456789abcdef.tmp"), b"half of a shard")
        return write_shard(plan, directory, *rest, **options)

    if mode == "in_memory":  # where workers see the change
        monkeypatch.setattr(beam, "write_shard", after_an_attempt_that_was_killed)
    options = f"--direct_running_mode={mode} --direct_num_workers=2"
    made = run(source, tmp_path / "out", runner="beam", beam_options=options)
    assert made.source_counts["quarantined"] == 1
    assert content_of(tmp_path / "out") == local


def test_beam_writes_the_findings_of_a_table_as_the_local_runner_does(tmp_path):
    pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
    made = make_columns(tmp_path)
    outputs = tmp_path / "local", tmp_path / "beam"
    run(made.source, outputs[0], **made.flags)
    options = "--direct_running_mode=in_memory --direct_num_workers=1"
    written = run(made.source, outputs[1], runner="beam", beam_options=options, **made.flags)
    assert written.class_names == ("effusion", "edema")
    assert {*written.sources} == {"north", "south"}
    assert content_of(outputs[0]) == content_of(outputs[1])


def test_a_killed_driver_is_resumed(source, local, tmp_path):
    pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
    output = tmp_path / "out"
    flags = [f"--source={source}", f"--output={output}", "--size=48", "--shard_mb=0.1", "--runner=beam"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.make_tfrecords", *flags, "--workers=1"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_until(lambda: list(output.glob("*.tfrecord")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run(source, output)
    assert content_of(output) == local


def processes_of(session: int, word: str) -> list[int]:
    """The processes of a session whose command line holds `word`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if os.getsid(int(folder.name)) == session and word.encode() in words:
                found.append(int(folder.name))
    return found


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_a_line_and_the_same_command_goes_on(source, local, tmp_path):
    pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
    output = tmp_path / "out"
    flags = [f"--source={source}", f"--output={output}", "--size=48", "--shard_mb=0.1", "--runner=beam"]
    command = [sys.executable, "-m", "tools.make_tfrecords", *flags, "--workers=2"]
    with open(tmp_path / "err", "w+") as err:
        process = subprocess.Popen(command, cwd=ROOT, stderr=err, start_new_session=True)
        wait_until(lambda: list(output.glob("*.tfrecord")), process)
        os.kill(processes_of(process.pid, "apache_beam.runners.worker.sdk_worker_main")[0], signal.SIGKILL)
        assert process.wait(SECONDS) == 1
        err.seek(0)
        assert "the Beam pipeline ended without" in err.read()
    whole = {path.name: path.read_bytes() for path in output.glob("*.tfrecord")}
    assert whole.items() <= local.items()
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL, check=False)
    assert done.returncode == 0
    assert content_of(output) == local


@contextlib.contextmanager
def dask_cluster(held: Path) -> Iterator[tuple[subprocess.Popen, list[str]]]:
    """Start a scheduler and two workers that hold the shard `held`; yield it, and the sharder's flags."""
    path = os.pathsep.join([str(ROOT), str(HELPERS)])
    environment = {**os.environ, "HELD_SHARD": str(held), "PYTHONPATH": path}
    file = held.with_name("scheduler.json")
    file.unlink(missing_ok=True)
    every = ["--no-dashboard", f"--scheduler-file={file}"]
    worker = ["worker", "--nthreads=1", f"--preload={HELPERS / 'held_shard.py'}"]
    started: list[subprocess.Popen] = []
    try:
        for words in (["scheduler", "--host=127.0.0.1", "--port=0"], worker, worker):
            line = [sys.executable, "-m", "dask", *words, *every]
            started.append(
                subprocess.Popen(
                    line, cwd=held.parent, env=environment, start_new_session=True,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
            )  # fmt: skip
        yield started[0], ["--beam_runner=DaskRunner", f"--beam_options=--dask_scheduler_file={file}"]
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["worker", "scheduler"])
def test_a_dask_cluster_writes_the_same_bytes_whatever_is_killed(source, local, tmp_path, killed):
    pytest.importorskip("distributed", reason="the extra [beam] is not installed")
    output, held = tmp_path / "out", tmp_path / "train-00004-of-00008.tfrecord"
    flags = [f"--source={source}", f"--output={output}", "--size=48", "--shard_mb=0.1", "--runner=beam"]
    command = [sys.executable, "-m", "tools.make_tfrecords", *flags]
    with dask_cluster(held) as (scheduler, ours), open(tmp_path / "err", "w+") as err:
        process = subprocess.Popen([*command, *ours], cwd=ROOT, stderr=err)
        wait_until(lambda: held.exists() and held.read_text(), process, scheduler)
        assert list(output.glob(f"{held.name}.*.tmp"))
        if killed == "worker":  # and its nanny, as when its machine is lost
            os.killpg(os.getpgid(int(held.read_text())), signal.SIGKILL)
            assert process.wait(SECONDS) == 0
        else:
            scheduler.kill()
            assert process.wait(SECONDS) == 1
            err.seek(0)
            assert "the Beam pipeline ended without" in err.read().splitlines()[-1]
    if killed == "scheduler":
        with dask_cluster(held) as (_, ours):
            subprocess.run([*command, *ours], cwd=ROOT, stderr=subprocess.DEVNULL, check=True)
    assert content_of(output) == local


@pytest.mark.slow
def test_the_job_script_of_the_documents_writes_the_same_bytes(source, local, tmp_path):
    pytest.importorskip("distributed", reason="the extra [beam] is not installed")
    output = tmp_path / "out"
    script = re.search(r"```bash\n(#!/bin/bash\n.*?)```", (ROOT / "docs/scaling.md").read_text(), re.DOTALL)[
        1
    ]
    script = script.replace("/mnt/tfrecords", f"{output} --size=48 --shard_mb=0.1")
    script = script.replace("/mnt/xrays", str(source)).replace("--port=0", "--port=0 --host=127.0.0.1")
    # As Slurm's for two tasks.
    srun = save(
        tmp_path / "srun", b'#!/bin/bash\nuntil [ "$1" = dask ]; do shift; done\n"$@" & "$@" & wait\n'
    )
    srun.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "1"}
    job = subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert job.wait(SECONDS) == 0
    finally:  # as Slurm does when the script has ended
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    assert content_of(output) == local


def test_a_failing_pipeline_is_one_line_and_the_same_command_goes_on(source, local, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
    options = "--direct_running_mode=in_memory --direct_num_workers=1"
    genuine = ledger.write_beside

    def once(directory, header, result):
        if len(list(Path(directory).glob("*.tfrecord"))) > 2:
            raise OSError(28, "No space left on device")
        genuine(directory, header, result)

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write_beside", once)
        with pytest.raises(DataError, match=r"\d+ shards, .*\.tfrecord.*No space left"):
            run(source, tmp_path / "out", runner="beam", beam_options=options)
    run(source, tmp_path / "out", runner="beam", beam_options=options)
    assert content_of(tmp_path / "out") == local


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("\n"), None])
def test_a_failure_without_words_is_one_line_too(plan, failure, tmp_path, monkeypatch):
    apache_beam = pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")

    def run(pipeline):
        if failure is not None:
            raise failure
        return mock.Mock()

    monkeypatch.setattr(apache_beam.Pipeline, "run", run)
    job = beam.BeamJob("DirectRunner", "", 1, str(tmp_path), PIXELS, Limits(), HEADER)
    reason = rf"{type(failure).__name__}\)" if failure else ""
    with pytest.raises(DataError, match=rf"{plan.name} \({reason}"):
        list(job.convert([plan], lambda counters: None))


def test_attempts_at_once_leave_one_whole_shard(plan, tmp_path):
    ledger.write_ledger(str(tmp_path), HEADER, [])
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda _: beam.write_shard_beside(plan, str(tmp_path), PIXELS, Limits(), HEADER), range(8)
            )
        )
    content = content_of(tmp_path)
    assert sorted(content) == ["ledger.jsonl", plan.name, plan.name + ".done"]
    beam.write_shard_beside(plan, str(tmp_path), PIXELS, Limits(), HEADER)
    assert content_of(tmp_path) == content
    (result,) = ledger.take_beside(str(tmp_path), HEADER, [plan.name])
    assert (result.records, result.bytes) == (12, len(content[plan.name]))
    assert not list(tmp_path.glob("*.done"))


def test_an_attempt_that_dies_leaves_nothing_under_a_final_name(plan, tmp_path, monkeypatch):
    ledger.write_ledger(str(tmp_path), HEADER, [])

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("cxr_data.core.local_store.publish", die)
    with pytest.raises(KeyboardInterrupt):
        beam.write_shard_beside(plan, str(tmp_path), PIXELS, Limits(), HEADER)
    assert sorted(content_of(tmp_path)) == ["ledger.jsonl"]


def test_a_worker_of_an_earlier_run_writes_nothing(plan, tmp_path):
    ledger.write_ledger(str(tmp_path), Header({"size": 32}, "plan"), [])
    with pytest.raises(OSError, match=rf"Errno {errno.ECANCELED}\b"):
        beam.write_shard_beside(plan, str(tmp_path), PIXELS, Limits(), HEADER)
    assert sorted(content_of(tmp_path)) == ["ledger.jsonl"]


def test_results_that_no_driver_took_are_found_by_the_next(source, local, tmp_path):
    """As after a driver that died when all shards were written."""
    for name, content in local.items():
        if name not in ("manifest.json", "ledger.jsonl"):
            save(tmp_path / name, content)
    header, *lines = local["ledger.jsonl"].splitlines(keepends=True)
    save(tmp_path / "ledger.jsonl", header)
    for name in local:
        if name.endswith(".tfrecord"):
            line = next(line for line in lines if name.encode() in line)
            save(tmp_path / f"{name}.done", header + line)
    times = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.tfrecord")}
    run(source, tmp_path)
    assert content_of(tmp_path) == local
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.tfrecord")} == times


@pytest.mark.parametrize(
    ("runner", "module"),
    [
        ("DirectRunner", "apache_beam.options.pipeline_options"),
        ("DaskRunner", "apache_beam.runners.dask.dask_runner"),
    ],
)
def test_without_beam_or_dask_one_line_says_what_to_install(runner, module, source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"--runner=beam: .*cxr\[beam\]"):
        run(source, tmp_path / "out", runner="beam", beam_runner=runner)


@pytest.mark.parametrize("options", ["--direct_num_workers=many", "'--x"])
def test_options_that_beam_refuses_are_named_before_anything_runs(options, source, tmp_path):
    pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
    with pytest.raises(UsageError, match=f"--beam_options={options}"):
        run(source, tmp_path / "out", runner="beam", beam_options=options)


def test_beam_options_without_beam_are_refused(source, tmp_path):
    with pytest.raises(UsageError, match="--beam_options .*--runner=beam"):
        run(source, tmp_path / "out", beam_options="--x")
