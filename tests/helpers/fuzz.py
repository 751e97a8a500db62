"""Whatever the documents of a data set or a run hold, opening it gives it, or one line: no traceback.

Real documents are changed in one to three places by values that somebody could have put there. Memory has a
limit, and so has time: what hangs ends the process, with the stacks.
"""

import contextlib
import dataclasses
import faulthandler
import functools
import hashlib
import json
import tracemalloc
import zipfile

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import tiny_model
from shards import random_images, write_shards
from written_run import write_run

from cxr_data.audit.text import audit_as_text
from cxr_data.convert import ledger
from cxr_data.convert.ledger import read_ledger
from cxr_data.convert.shard_writer import ShardResult
from cxr_data.core.errors import CxrError
from cxr_data.images.measure import FEATURES_DTYPE, encode_rows
from cxr_data.records.audit_document import read_audit
from cxr_data.records.index import read_features, read_index, write_features
from cxr_data.records.layout import FEATURES_NAME, INDEX_NAME, LEDGER_NAME, MANIFEST_NAME
from cxr_data.records.manifest import read_manifest
from cxr_data.records.verify import verify_dataset
from cxr_data.sources.quarantine import Quarantined
from cxr_train.evaluation.predictions import read_predictions
from cxr_train.evaluation.stored import stored_thresholds
from cxr_train.explanation.last_map import check_of_maps
from cxr_train.loop.checkpoint import Checkpoints
from cxr_train.loop.outputs import History
from cxr_train.recipe.loss_scale import LossScale
from cxr_train.reporting.charts import curves, throughput_charts
from cxr_train.reporting.page import write_report
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.monitor import Monitor
from cxr_train.runs.run_model import load_best_model, save_model
from cxr_train.runs.saved_run import best_epoch, epoch_rows

MOST_BYTES = 64e6
SECONDS = 60

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2**31, 2**60, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308]),
    st.sampled_from(
        [float("nan"), float("inf"), "", "\0", "..", "../../x", "/dev/zero", "\ud800", "x" * 10_000]
    ),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
    st.builds(lambda: [[[[[]]]], [[]]]),  # a new one each time: it may be changed too
)

PARTS = [b"\xff" * 8, b"\0", b"9" * 30, b"[" * 3000, b"{", b'"', b"\n", b","]


def places(document):
    """Yields every place in a document, as a path of keys."""
    parts = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in parts:
        yield (key,)
        if isinstance(value, dict | list):
            yield from ((key, *path) for path in places(value))


@st.composite
def changed(draw, document):
    """Draws a document with one to three places changed or removed, as bytes."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        paths = list(places(document))
        if not paths:
            break
        *parents, last = draw(st.sampled_from(paths))
        place = document
        for key in parents:
            place = place[key]
        if draw(st.integers(0, 4)) == 0:
            del place[last]
        else:
            place[last] = draw(VALUES)
    return json.dumps(document).encode()


@st.composite
def mutated(draw, content):
    """Draws bytes with a few of them changed, cut off or put in."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        how = draw(st.integers(0, 3))
        if how == 0:
            content[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif how == 1:
            content[at : at + draw(st.integers(1, 64))] = b""
        elif how == 2:
            content[at:at] = draw(
                st.sampled_from([b"\xff" * 8, b"\0", b"9" * 30, b"[" * 3000, b"{", b'"', b"\n", b","])
            )
        else:
            del content[at:]
    return bytes(content)


@contextlib.contextmanager
def bounded():
    """One line or none, little memory, and an end."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    tracemalloc.start()
    try:
        with contextlib.suppress(CxrError):
            try:
                yield
            except CxrError as error:
                assert str(error).strip()
                raise
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set with everything that a conversion leaves."""
    directory = tmp_path_factory.mktemp("data")
    made = write_shards(directory, {"train": random_images(6), "validation": random_images(3)})
    features = np.zeros(made.records, FEATURES_DTYPE)
    document = json.loads((directory / MANIFEST_NAME).read_text())
    document["features_sha256"] = write_features(str(directory), features)
    (directory / MANIFEST_NAME).write_text(json.dumps(document))
    (directory / "quarantine.jsonl").write_text(
        json.dumps(dataclasses.asdict(Quarantined("x", "empty", ""))) + "\n"
    )
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


def open_data(directory):
    manifest = read_manifest(str(directory))
    read_index(manifest)
    read_features(manifest)
    verify_dataset(str(directory), 1)


def fuzzed(strategy, test, cases):
    """Runs `test` on `cases` draws."""

    @settings(max_examples=cases, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(strategy)
    def go(content):
        with bounded():
            test(content)

    go()


def fuzz_manifest(data, run, tmp_path, cases):
    path = data / MANIFEST_NAME
    whole = path.read_bytes()

    def opened(content):
        path.write_bytes(content)
        open_data(data)

    try:
        fuzzed(changed(json.loads(whole)) | mutated(whole), opened, cases)
    finally:
        path.write_bytes(whole)


def fuzz_table(name, field, data, run, tmp_path, cases):
    """The checksum in the manifest is that of the changed table: somebody else wrote both."""
    path, manifest = data / name, data / MANIFEST_NAME
    whole, document = path.read_bytes(), json.loads(manifest.read_text())

    def opened(content):
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        manifest.write_text(json.dumps({**document, field: sha256}))
        open_data(data)

    try:
        fuzzed(mutated(whole), opened, cases)
    finally:
        path.write_bytes(whole)
        manifest.write_text(json.dumps(document))


def fuzz_ledger(data, run, tmp_path, cases):
    result = ShardResult(
        "train-00000-of-00001.tfrecord", 1, 100, "0" * 64, ((0, 0, 50, 20, 7),), (("a.png", 9, "0" * 64),),
        (Quarantined("b.png", "empty", ""),), (1,), (1,), encode_rows(np.zeros(1, FEATURES_DTYPE)),
    )  # fmt: skip
    header = ledger.Header({"size": 8}, "plan")
    ledger.write_ledger(str(tmp_path), header, [result])
    path = tmp_path / LEDGER_NAME
    whole = path.read_bytes()
    first, second = (json.loads(line) for line in whole.splitlines())

    def opened(content):
        path.write_bytes(content)
        for found in (read_ledger(str(tmp_path)) or ({}, {}))[1].values():
            assert found.records == len(found.rows)

    fuzzed(changed(first).map(lambda line: line + b"\n" + whole.splitlines()[1]), opened, cases // 3 + 1)
    fuzzed(changed(second).map(lambda line: whole.splitlines()[0] + b"\n" + line), opened, cases // 3 + 1)
    fuzzed(mutated(whole), opened, cases // 3 + 1)


def fuzz_audit(data, run, tmp_path, cases):
    path = run / "data" / "audit.json"
    whole = path.read_bytes()

    def opened(content):
        path.write_bytes(content)
        directory = str(path.parent)
        audit_as_text(directory, read_audit(directory), 3)

    try:
        fuzzed(changed(json.loads(whole)) | mutated(whole), opened, cases)
    finally:
        path.write_bytes(whole)


def fuzz_history(data, run, tmp_path, cases):
    lines = (run / "metrics.jsonl").read_bytes().splitlines()
    path = tmp_path / "metrics.jsonl"

    def opened(content):
        path.write_bytes(content)
        rows, _ = epoch_rows(path)
        best_epoch(TrainConfig.load(run / "config.json"), rows)
        if rows:
            curves(rows, None)
            throughput_charts(rows)
        History(path).keep(2)
        assert len(path.read_bytes().splitlines()) <= 2

    line = changed(json.loads(lines[1])).map(lambda line: b"\n".join([lines[0], line, lines[2]]))
    fuzzed(line | mutated(b"\n".join(lines)), opened, cases)


def fuzz_predictions(data, run, tmp_path, cases):
    path = tmp_path / "predictions_test.csv"

    def opened(content):
        path.write_bytes(content)
        read = read_predictions(path)
        assert ((read.probabilities >= 0) & (read.probabilities <= 1)).all()

    fuzzed(mutated((run / "predictions_test.csv").read_bytes()), opened, cases)


def fuzz_config(data, run, tmp_path, cases):
    path = tmp_path / "config.json"
    whole = (run / "config.json").read_bytes()

    def opened(content):
        path.write_bytes(content)
        config = TrainConfig.load(path)
        assert config.run_dir == str(tmp_path)

    fuzzed(changed(json.loads(whole)) | mutated(whole), opened, cases)


def fuzz_document(name, data, run, tmp_path, cases):
    """A document that the page of a run shows."""
    path = run / name
    whole = path.read_bytes()

    def opened(content):
        path.write_bytes(content)
        write_report(run)
        check_of_maps(run)
        stored_thresholds(run)

    try:
        fuzzed(changed(json.loads(whole)) | mutated(whole), opened, cases)
    finally:
        path.write_bytes(whole)


def fuzz_checkpoint(data, run, tmp_path, cases):
    """The sums are right: whoever writes the state writes them too."""
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    best = tmp_path / "best.keras"
    made = Checkpoints(
        tmp_path / "checkpoints", model, keras.optimizers.SGD(), LossScale(), monitor=Monitor("loss"),
        best_model=best,
    )  # fmt: skip
    state = made.save()
    files = {name: (state / name).read_bytes() for name in ("state.index", "SHA256SUMS")}

    def opened(content):
        (state / "state.index").write_bytes(content)
        old, new = (hashlib.sha256(part).hexdigest() for part in (files["state.index"], content))
        (state / "SHA256SUMS").write_bytes(files["SHA256SUMS"].replace(old.encode(), new.encode()))
        made.restore()

    def summed(content):
        (state / "SHA256SUMS").write_bytes(content)
        made.restore()

    fuzzed(mutated(files["SHA256SUMS"]), summed, cases)
    fuzzed(mutated(files["state.index"]), opened, cases)


def fuzz_model(data, run, tmp_path, cases):
    whole = tmp_path / "whole.keras"
    save_model(tiny_model(3, 8), whole)
    path = tmp_path / "best.keras"
    with zipfile.ZipFile(whole) as file:
        members = {name: file.read(name) for name in file.namelist()}

    def opened(content):
        path.write_bytes(content)
        load_best_model(tmp_path)

    def opened_config(content):
        with zipfile.ZipFile(path, "w") as file:
            for name, part in (members | {"config.json": content}).items():
                file.writestr(name, part)
        load_best_model(tmp_path)

    fuzzed(mutated(whole.read_bytes()), opened, cases)
    fuzzed(changed(json.loads(members["config.json"])), opened_config, cases)


FUZZERS = {
    "manifest": fuzz_manifest,
    "index": functools.partial(fuzz_table, INDEX_NAME, "index_sha256"),
    "features": functools.partial(fuzz_table, FEATURES_NAME, "features_sha256"),
    "ledger": fuzz_ledger,
    "audit": fuzz_audit,
    "history": fuzz_history,
    "predictions": fuzz_predictions,
    "config": fuzz_config,
    "metrics of a run": functools.partial(fuzz_document, "metrics_test.json"),
    "explanation": functools.partial(fuzz_document, "explain/validation/explain.json"),
    "throughput": functools.partial(fuzz_document, "throughput.json"),
    "environment": functools.partial(fuzz_document, "environment.json"),
    "manifest of a run": functools.partial(fuzz_document, "manifest.json"),
    "checkpoint": fuzz_checkpoint,
    "model": fuzz_model,
}
"""By document: (data set, run directory, empty folder, number of cases) fuzz it."""

SHOWN = ("metrics of a run", "explanation", "throughput", "environment", "manifest of a run")
"""Those of which each case makes the page of a run: half a second."""
