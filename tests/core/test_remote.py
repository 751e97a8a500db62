"""Shards on an object store: the same bytes as on a disk, and failures that are survived or named.

The store is a server of this process (`s3_server`); what reads and writes is tensorflow-io's S3
client, as for any other.
"""

import dataclasses
import errno
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from project import ROOT
from s3_server import S3Server, served
from sharder_fixtures import content_of, encoded, make_source, picture, save
from shards import random_images, write_shards
from waiting import SECONDS

from cxr_data.audit.audit import AuditConfig, as_document, audit_dataset, read_audit, write_audit
from cxr_data.audit.figures import draw_figures
from cxr_data.audit.leakage import Pair
from cxr_data.convert import beam, ledger
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.convert.ledger import Header
from cxr_data.convert.plan import Entry, ShardPlan
from cxr_data.core import object_store, storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.images.guarded import USUAL
from cxr_data.images.preprocess import PixelOptions
from cxr_data.input.data_errors import clear_data_errors
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.index import read_split_fields
from cxr_data.records.manifest import read_manifest
from cxr_data.records.quarantine_file import read_quarantine
from cxr_data.records.verify import verify_dataset


@pytest.fixture(scope="module")
def server():
    before = dict(os.environ)
    # The client reads it once a process. Two attempts fail fast enough for a test.
    os.environ["AWS_MAX_ATTEMPTS"] = "2"
    with served("bucket") as running:
        yield running
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def place(server, request):
    """A folder of its own on the store, as (`s3://...`, `bucket/...`)."""
    server.log.clear()
    return f"s3://bucket/{request.node.name}", f"bucket/{request.node.name}/"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = make_source(tmp_path_factory.mktemp("source"), 15)
    save(root / "covid/bad.png", encoded(picture(1))[:-30])
    save(root / "covid/empty.png", b"")
    return root


@pytest.fixture(scope="module")
def local(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("local") / "out"
    convert(source, output)
    return content_of(output)


def convert(source, output, **options):
    values = {"size": 32, "shard_mb": 0.05, "workers": 0, "quiet": True, **options}
    return make_tfrecords(SharderConfig(str(source), str(output), **values))


def without_source(content: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out where the audit says that the pictures come from."""
    audit = json.loads(content["audit.json"])
    assert audit["conversion"].pop("source")
    return {**content, "audit.json": json.dumps(audit).encode()}


def put(server: S3Server, prefix: str, content: dict[str, bytes]) -> None:
    server.objects.update({prefix + name: data for name, data in content.items()})


def below(server: S3Server, prefix: str) -> dict[str, bytes]:
    return {name: server.objects[prefix + name] for name in server.names(prefix)}


def test_from_a_store_to_a_store_is_what_a_disk_gets(server, place, source, local):
    url, prefix = place
    put(server, prefix + "in/", content_of(source))
    made = convert(f"{url}/in", f"{url}/out")
    assert without_source(below(server, prefix + "out/")) == without_source(local)
    checked = verify_dataset(made.directory, threads=2)
    assert (checked.records, checked.problems) == (made.records, ())
    puts = server.requests("PUT")
    convert(f"{url}/in", f"{url}/out")
    assert server.requests("PUT") - puts <= 6  # index, features, quarantine, ledger, manifest; no shard


def test_failures_that_end_are_survived(server, place, source, local):
    url, prefix = place
    put(server, prefix + "in/", content_of(source))
    with (
        server.failing("error", 1, "GET", "image003") as read,
        server.failing("reset", 1, "GET", "image004") as cut_off,
        server.failing("error", 1, "PUT", "train-00000") as written,
        server.failing("reset", 1, "PUT", "train-00001") as broken_off,
    ):
        convert(f"{url}/in", f"{url}/out")
    assert [fault.times for fault in (read, cut_off, written, broken_off)] == [0, 0, 0, 0]
    assert without_source(below(server, prefix + "out/")) == without_source(local)


def test_a_store_that_quotes_the_keys_is_not_repeated(server, place, source, tmp_path, monkeypatch):
    directory, log = place[0], tmp_path / "log"
    secrets = {"AWS_ACCESS_KEY_ID": "name-of-a-key", "AWS_SECRET_ACCESS_KEY": "a/secret+of-forty"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    config = SharderConfig(str(source), directory, size=16, workers=0, audit=False, log_json=str(log))
    with server.failing("denied", 99, "PUT"), pytest.raises((DataError, OSError)) as written:
        make_tfrecords(config)
    with server.failing("denied", 99, "GET"), pytest.raises(DataError) as read:
        storage.read_bytes(f"{directory}/x", known_bytes=1)
    for said in (str(written.value), log.read_text(), str(read.value)):
        assert directory in said
        assert "AccessDenied" in said
        assert not [value for value in (*secrets.values(), "user:word") if value in said]


def test_a_shard_that_cannot_be_uploaded_is_named_and_the_same_command_goes_on(server, place, source, local):
    url, prefix = place
    name = sorted(name for name in local if name.endswith(".tfrecord"))[2]
    with server.failing("error", 1000, "PUT", f"{name}"), pytest.raises(DataError) as caught:
        convert(source, url)
    assert f"{url}/{name}" in str(caught.value)
    left = server.names(prefix)
    assert name not in left
    assert "manifest.json" not in left
    done = [key for key in left if key.endswith(".tfrecord")]
    assert [f"{key}.done" for key in done] == [key for key in left if key.endswith(".done")]
    server.log.clear()
    convert(source, url)
    assert without_source(below(server, prefix)) == without_source(local)
    assert all(server.requests("PUT", f"{key}") == 0 for key in done)


def test_a_source_that_cannot_be_read_is_named(server, place, source):
    url, prefix = place
    put(server, prefix + "in/", content_of(source))
    with (
        server.failing("error", 1000, "GET", "image003"),
        pytest.raises(DataError, match=r"s3://.*image003"),
    ):
        convert(f"{url}/in", f"{url}/out")


def test_beam_workers_need_no_shared_folder(server, place, source):
    url, prefix = place
    paths = sorted(source.glob("*/image*"))[:6]
    plan = ShardPlan(
        "train-00000-of-00001.tfrecord",
        "train",
        tuple(Entry(p.name, str(p), 0, p.name, p.stat().st_size) for p in paths),
    )
    header, other = Header({"size": 16}, "plan"), Header({"size": 32}, "plan")
    pixels = PixelOptions(16, 1, "uint8", "gray", 10**8)
    ledger.write_ledger(url, header, [])
    beam.write_shard_beside(plan, url, pixels, USUAL, header)
    content = below(server, prefix)
    assert sorted(content) == ["ledger.jsonl", plan.name, plan.name + ".done"]
    beam.write_shard_beside(plan, url, pixels, USUAL, header)
    assert below(server, prefix) == content
    assert [result.records for result in ledger.take_beside(url, header, [plan.name])] == [6]
    with pytest.raises(OSError, match=rf"Errno {errno.ECANCELED}\b"):
        beam.write_shard_beside(plan, url, pixels, USUAL, other)


def batches_of(directory: str, **options):
    pipeline = Pipeline(read_manifest(directory), ReadOptions(**options))
    dataset = pipeline.training_dataset("train", batch_size=4, seed=1, epoch=0, epochs=2)
    return pipeline, [(b["index"].numpy(), b["image"].numpy()) for b in dataset]


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_a_slow_store_gives_the_examples_that_a_disk_gives(server, place, tmp_path, cache):
    url, prefix = place
    images = random_images(22)
    write_shards(tmp_path / "data", {"train": images}, records_per_shard=5)
    put(server, prefix, content_of(tmp_path / "data"))
    options = {"cache": cache, "cache_dir": str(tmp_path / "cache")}
    with server.failing("slow", 2, part=".tfrecord", pause=0.02) as fault:
        pipeline, batches = batches_of(url, **options)
    assert fault.times == 0
    expected = sorted(np.concatenate([i for i, _ in batches_of(str(tmp_path / "data"))[1]]))
    assert sorted(np.concatenate([index for index, _ in batches])) == expected
    for index, image in batches:
        np.testing.assert_array_equal(image, images[index])
    fields = read_split_fields(pipeline.manifest, "train")
    assert [field.id for field in fields] == [f"train/{number}.png" for number in range(22)]


def test_a_shard_that_cannot_be_read_in_training_is_named(server, place, tmp_path):
    url, prefix = place
    made = write_shards(tmp_path, {"train": random_images(12)})
    put(server, prefix, content_of(tmp_path))
    made = dataclasses.replace(made, directory=url)
    with (
        server.failing("error", 1000, part="00002-of-00003"),
        pytest.raises(DataError, match=rf"{url}/train-00002-of-00003\.tfrecord"),
        clear_data_errors(made),
    ):
        batches_of(url, cache="none")
    with pytest.raises(tf.errors.InternalError, match="ours"), clear_data_errors(made):
        raise tf.errors.InternalError(None, None, "ours")


def test_an_empty_object_is_empty(server, place):
    """Nothing was quarantined, say: the client asked for a range of it, and ended the process."""
    url, prefix = place
    put(server, prefix, {"quarantine.jsonl": b""})
    assert storage.read_bytes(f"{url}/quarantine.jsonl") == b""
    assert read_quarantine(url) == ()


def test_what_is_missing_is_told_from_what_cannot_be_reached(server, place):
    url, _ = place
    assert storage.size(f"{url}/nothing") is None
    assert storage.names(url) == []
    with pytest.raises(DataError, match=f"{url}/nothing: .*object"):
        storage.read_bytes(f"{url}/nothing")
    for look in (storage.size, storage.names):
        with pytest.raises(DataError, match="bucket s3://nobody/"):
            look("s3://nobody/folder")
    with pytest.raises(DataError, match=r"ftp://host/file: .*s3://"):
        storage.size("ftp://host/file")


def test_an_upload_that_was_cut_off_leaves_no_object(server, place, monkeypatch):
    url, prefix = place
    write = object_store.gfile().GFile.write
    monkeypatch.setattr(object_store.gfile().GFile, "write", lambda file, content: write(file, content[:-1]))
    with pytest.raises(DataError, match=rf"{url}/file: .*9 of 10"):
        storage.replace(f"{url}/file", b"0123456789")
    assert server.names(prefix) == []


def test_an_output_inside_of_the_source_is_refused(place):
    url, _ = place
    with pytest.raises(UsageError, match=f"--output={url}/out .*{url}"):
        convert(url, f"{url}/out")


def run_command(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip


@pytest.mark.slow
def test_worker_processes_read_and_write_a_store(server, place, source, local):
    url, prefix = place
    put(server, prefix + "in/", content_of(source))
    name = sorted(name for name in local if name.endswith(".tfrecord"))[2]
    with server.failing("error", 1000, "PUT", name), pytest.raises(DataError, match=f"{url}/out/{name}"):
        convert(f"{url}/in", f"{url}/out", workers=2)
    convert(f"{url}/in", f"{url}/out", workers=2)
    assert without_source(below(server, prefix + "out/")) == without_source(local)


@pytest.mark.slow
def test_a_command_ends_with_its_own_exit_code(server, place, source, local):
    url, prefix = place
    put(server, prefix + "out/", local)
    done = run_command("tools.verify_tfrecords", f"--data={url}/out")
    assert done.returncode == 0, done.stderr


def test_a_run_of_other_flags_in_the_same_output_stops_the_first(server, place, source, monkeypatch):
    url, prefix = place
    append = ledger.append_result

    def overtaken(directory, header, result):
        append(directory, header, result)
        ledger.write_ledger(directory, Header({"size": 64}, "another plan"), [])

    monkeypatch.setattr(ledger, "append_result", overtaken)
    with pytest.raises(DataError, match=f"{url}/out.*--output"):
        convert(source, f"{url}/out")
    assert len([name for name in below(server, prefix + "out/") if name.endswith(".done")]) == 1


def test_the_audit_of_a_store_is_that_of_a_disk(server, place, source, tmp_path):
    url, prefix = place
    convert(source, tmp_path, duplicates="keep")
    put(server, prefix, content_of(tmp_path))
    audited = [audit_dataset(AuditConfig(where, quiet=True)) for where in (str(tmp_path), url)]
    here, there = (as_document(made) for made in audited)
    assert there == here
    write_audit(url, audited[1])
    assert read_audit(url)["pictures"] == audited[0].own.labels.size
    twice = dataclasses.replace(audited[1], pairs=(Pair(0, 1, 1.0, is_exact=True),))
    (path,) = draw_figures(f"{url}/audit", twice)
    assert server.objects[prefix + "audit/pairs.png"].startswith(b"\x89PNG")
    assert path == f"{url}/audit/pairs.png"


@pytest.mark.ci
def test_an_endpoint_that_is_not_there_is_one_line(source):
    pytest.importorskip("tensorflow_io")
    with socket.socket() as silent:  # it has the port, and does not listen: a connection is refused
        silent.bind(("127.0.0.1", 0))
        done = run_command(
            "tools.make_tfrecords", f"--source={source}", "--output=s3://bucket/out",
            S3_ENDPOINT="http://{}:{}".format(*silent.getsockname()), AWS_MAX_ATTEMPTS="2",
        )  # fmt: skip
    assert done.returncode == 1
    assert "bucket s3://bucket/" in done.stderr
    assert "S3_ENDPOINT" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "make_tfrecords" in line]) == 1
