"""A run directory on an object store: what a command writes is there, whole, and can be gone on with."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from project import RECORDED_TRAINING, ROOT
from s3_server import served
from sharder_fixtures import content_of
from shards import random_images, write_shards
from waiting import SECONDS, wait_until

from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.core.local_store import LocalStore
from cxr_train.runs.mirror import RunMirror


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with served("bucket") as running:
        yield running


@pytest.fixture
def store(monkeypatch, tmp_path):
    """A folder that a run is mirrored to, and a list of what was written in which order."""
    root, written = tmp_path / "store", []
    root.mkdir()

    class Folders(LocalStore):
        """A local store that needs no folders, as an object store."""

        def replace(self, path, content, *, unique=False):
            self.make_directory(os.path.dirname(path))
            super().replace(path, content, unique=unique)
            written.append(os.path.relpath(path, root))

    monkeypatch.setattr(storage, "store_of", lambda path: Folders())
    return root, written


def write(folder: Path, **files: str) -> None:
    for name, content in files.items():
        target = folder / name.replace("__", "/").replace("_dot_", ".")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)


def test_what_changes_is_uploaded_and_what_is_removed_goes(store, tmp_path):
    root, written = store
    local = tmp_path / "local"
    write(local, checkpoints__ckpt1__SHA256SUMS="x", checkpoints__ckpt1__state="1", config_dot_json="{}")
    write(local, writing_dot_keras="half", metrics_dot_jsonl="a\n", page_dot_tmp="half")
    mirror = RunMirror(f"{root}/", local)
    mirror.push()
    assert set(content_of(root)) == set(content_of(local)) - {"writing.keras", "page.tmp"}
    assert written[-2:] == ["checkpoints/ckpt1/SHA256SUMS", "config.json"]
    written.clear()
    write(local, metrics_dot_jsonl="a\nb\n", checkpoints__ckpt2__state="2")
    (local / "checkpoints/ckpt1/state").unlink()
    mirror.push()
    assert written == ["checkpoints/ckpt2/state", "metrics.jsonl"]
    assert not (root / "checkpoints/ckpt1/state").exists()


def test_a_pulled_run_is_not_uploaded_again_and_what_was_left_stays(store, tmp_path):
    root, written = store
    write(root, checkpoints__ckpt1__state="1", best_dot_keras="best")
    local = tmp_path / "local"
    local.mkdir()
    mirror = RunMirror(str(root), local)
    mirror.pull(leave=("checkpoints",))
    assert content_of(local) == {"best.keras": b"best"}
    write(local, report__index_dot_html="page")
    with mirror.pushing():
        pass
    assert written == ["report/index.html"]
    assert (root / "checkpoints/ckpt1/state").exists()


def test_a_store_that_fails_for_a_while_does_not_end_a_run(store, tmp_path, monkeypatch, caplog):
    root, _ = store
    local = tmp_path / "local"
    write(local, metrics_dot_jsonl="a\n")
    working, failed = storage.store_of(root).replace, []

    def fail_once(store, path, content, *, unique=False):
        if not failed:
            failed.append(path)
            raise DataError(f"cannot write {path}")
        working(path, content)

    monkeypatch.setattr(type(storage.store_of(root)), "replace", fail_once)
    with RunMirror(str(root), local).pushing(seconds=0.01):
        wait_until((root / "metrics.jsonl").exists)
    (said,) = caplog.messages
    assert f"{root}/metrics.jsonl" in said


TRAIN = [sys.executable, RECORDED_TRAINING]


def train(tmp_path, server, *flags, seconds=0.0):
    words = [
        *TRAIN,
        str(tmp_path / "record"),
        str(seconds),
        "1",
        "--backbone=tiny",
        "--weights=none",
        "--head=",
    ]
    words += ["--epochs=3", "--batch_size=4", "--xla=off", "--data=s3://bucket/data", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_run_on_a_store_is_stopped_resumed_and_evaluated(server, tmp_path):
    made = tmp_path / "data"
    write_shards(made, {"train": random_images(24, size=32), "validation": random_images(9, size=32)})
    for name, content in content_of(made).items():
        server.objects[f"bucket/data/{name}"] = content
    run = "--run_dir=s3://bucket/run"
    first = train(tmp_path, server, run, seconds=0.3)
    wait_until(lambda: "bucket/run/metrics.jsonl" in server.objects, first)
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=SECONDS)
    assert first.returncode == 0, err
    assert "--resume" in out
    second = train(tmp_path, server, run, "--resume")
    out, err = second.communicate(timeout=SECONDS)
    assert second.returncode == 0, err
    assert "resume: epoch" in out
    assert "uploaded to s3://bucket/run" in out
    rows = [json.loads(line) for line in server.objects["bucket/run/metrics.jsonl"].splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    steps = [
        int(line.split()[1]) for line in (tmp_path / "record").read_text().splitlines() if "step" in line
    ]
    assert steps == list(range(1, 19))
    assert json.loads(server.objects["bucket/run/config.json"])["run_dir"] == "s3://bucket/run"
    kept = {name.split("/")[3] for name in server.objects if "/checkpoints/" in name}
    assert len(kept) == 1  # a finished run keeps its last state only, here as in a folder
    assert b"--run_dir=s3://bucket/run" in server.objects["bucket/run/flags.txt"]
    del server.objects["bucket/run/predictions_validation.csv"]
    config = server.objects["bucket/run/config.json"]
    server.objects["bucket/run/config.json"] = config.replace(b'"tiny"', b'"mobilenet_v2"')  # a known name
    done = subprocess.run(
        [sys.executable, "-m", "cxr_train.evaluate", run, "--split=validation"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "bucket/run/predictions_validation.csv" in server.objects
    # Users know nothing of the mirror.
    assert "report: s3://bucket/run/report/index.html" in out
    assert "report: s3://bucket/run/report/index.html" in done.stdout
    assert "cxr-run-" not in out + done.stdout
    page = server.objects["bucket/run/report/index.html"].decode()
    assert "Run run, started" in page
    assert "cxr-run-" not in page
    assert not re.search(r"/tmp/cxr-run-\w+: ", done.stderr)
