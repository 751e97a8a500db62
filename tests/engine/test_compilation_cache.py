"""Compiled steps are kept from start to start, change no bit of a result, and end no run."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest
import tensorflow as tf
from project import HELPERS, ROOT
from waiting import SECONDS

from cxr_data.core.errors import CxrError
from cxr_train.engine.compilation_cache import kept_compilations, remove_damaged, seal
from cxr_train.engine.placement_names import CompilationOptions

# A start each, in a process each: TensorFlow reads its flags once. It is imported once.
PROGRAM = """
import hashlib, os, pathlib, sys
import tensorflow as tf
import tiny_steps
from cxr_train.engine.batch_norm import PreciseStatistics
from cxr_train.engine.compilation_cache import kept_compilations
from cxr_train.engine.placement_names import CompilationOptions
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import Placement

cache = pathlib.Path(sys.argv[1])

def make_tensors(count):
    for _ in range(count):
        tf.constant(0)

def start(name, tensors_before=0, cache=str(cache)):
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        assert os.waitpid(pid, 0)[1] == 0, name
        return
    try:
        with kept_compilations(CompilationOptions(cache), xla="on"):
            make_tensors(tensors_before)
            model, step, records = tiny_steps.train(
                tiny_steps.one(), tiny_steps.batches(3), compile=True, batch_norm=True
            )
            make_tensors(tensors_before)
            placement = Placement(tiny_steps.one(), "float32", compile=True, choices=())
            batch = next(iter(tiny_steps.dataset(tiny_steps.batches(1))))
            with PreciseStatistics(model, placement).in_place([batch]):
                make_tensors(tensors_before)
                logits = PredictStep(model, placement)(batch)
        results = [*model.get_weights(), records.loss, logits]
        weights = b"".join(value.tobytes() for value in results)
        print(name, hashlib.sha256(weights).hexdigest(), flush=True)
        os._exit(0)
    except BaseException as error:
        print(name, repr(error), flush=True)
        os._exit(1)

def entries():
    return {path: path.stat().st_mtime_ns for path in cache.glob("*/*.pb")}

def damage(change):
    for path in cache.glob("*/*.pb"):
        path.write_bytes(change(path.read_bytes()))

start("without", cache="")
start("first")
kept = entries()
assert kept
start("second")
start("after_a_resume", tensors_before=1000)
assert entries() == kept, "loaded, and neither compiled nor written again"
damage(lambda content: content[: len(content) // 2])
start("after_a_cut")
cut = entries()
assert cut.keys() == kept.keys() and cut != kept
damage(lambda content: content[:1000] + bytes(255 - byte for byte in content[1000:]))
start("after_a_flip")
(cache.parent / "a_file").touch()
start("no_folder", cache=str(cache.parent / "a_file" / "below"))
"""


@pytest.mark.ci
def test_a_second_start_loads_what_the_first_compiled(tmp_path):
    """To the bit, whatever was before, and compiles again what is damaged."""
    line = [sys.executable, "-c", PROGRAM, str(tmp_path / "a cache")]
    paths = {"PYTHONPATH": f"{HELPERS}:{ROOT}", "PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3"}
    # XLA quotes the binary entry that it could not read as text.
    done = subprocess.run(
        line,
        cwd=ROOT,
        env=paths,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    starts = dict(line.split() for line in done.stdout.splitlines())
    assert len(starts) == 7
    assert len(set(starts.values())) == 1, starts


@pytest.mark.parametrize("is_full", [True, False])
def test_a_cache_that_becomes_full_is_named(tmp_path, monkeypatch, is_full):
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    place = tmp_path / "cache"

    def compile_a_step() -> None:
        with kept_compilations(CompilationOptions(str(place)), xla="on"):
            (folder,) = place.iterdir()
            entry = f"{folder if is_full else 'shards'}/cxr__1__2.pb.tmp"
            message = f"Graph execution error:\n\n{entry}; Disk quota exceeded\n\t [[node]]"
            raise tf.errors.ResourceExhaustedError(None, None, message)

    error, said = (CxrError, f"{place}: Disk quota") if is_full else (tf.errors.OpError, "shards")
    with pytest.raises(error, match=said):
        compile_a_step()


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    for name in ("whole", "cut", "changed", "not_sealed"):
        (tmp_path / f"{name}.pb").write_bytes(name.encode() * 1000)
    return tmp_path


def test_only_entries_that_are_as_they_were_sealed_stay(folder):
    (folder / "not_sealed.pb").rename(folder / "later")
    seal(folder)
    (folder / "later").rename(folder / "not_sealed.pb")
    (folder / "cut.pb").write_bytes(b"cut")
    (folder / "changed.pb").write_bytes(b"Changed" + b"changed" * 999)
    remove_damaged(folder)
    assert {path.name for path in folder.iterdir()} == {"whole.pb", "whole.crc32c"}


def test_a_removed_entry_is_no_failure(folder):
    seal(folder)
    (folder / "whole.pb").unlink()
    remove_damaged(folder)
    seal(folder)
    assert not (folder / "whole.pb").exists()


def test_tensorflow_is_given_the_whole_name_of_a_folder_with_spaces(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_clustering_debug")
    place = tmp_path / 'a "folder" \\ of mine'
    with kept_compilations(CompilationOptions(str(place)), xla="on"):
        words = shlex.split(os.environ["TF_XLA_FLAGS"])
    (folder,) = place.iterdir()
    assert words[0] == "--tf_xla_clustering_debug"
    assert words[1].partition("=")[2] == str(folder)


def test_what_other_versions_have_left_is_bounded_too(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    old, new = tmp_path / "tensorflow-1" / "cxr__1.pb", tmp_path / "tensorflow-2" / "cxr__1.pb"
    mine = tmp_path / "exported" / "saved_model.pb"
    for number, entry in enumerate((mine, old, new)):
        entry.parent.mkdir()
        entry.touch()
        os.truncate(entry, 3_000_000_000)  # holes, which take no room
        os.utime(entry, (number, number))
    with kept_compilations(CompilationOptions(str(tmp_path)), xla="on"):
        assert [entry.exists() for entry in (mine, old, new)] == [True, False, True]
