"""One set of methods for a local folder and an object store: what holds for both, and what only for one."""

import contextlib
import errno
import os
import subprocess
import sys

import pytest
from project import ROOT
from s3_server import served
from sharder_fixtures import content_of

from cxr_data.core import local_store, storage
from cxr_data.core.errors import DataError


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path, monkeypatch):
    """An empty folder on either store."""
    if request.param == "local":
        yield str(tmp_path / "folder")
    else:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        with served("bucket"):
            yield f"s3://bucket/{tmp_path.name}"


def test_a_store_has_what_was_written(folder):
    assert storage.names(folder) == []
    storage.make_directory(storage.join(folder, "below"))
    file, other = storage.join(folder, "file"), storage.join(folder, "below", "other")
    assert storage.size(file) is None
    storage.replace(file, b"old")
    storage.replace(file, b"0123456789")
    storage.replace(other, b"", unique=True)
    assert storage.names(folder) == ["below", "file"]
    assert (storage.size(file), storage.size(other)) == (10, 0)
    assert (storage.read_bytes(file), storage.read_bytes(file, 10), storage.read_bytes(other)) == (
        b"0123456789",
        b"0123456789",
        b"",
    )
    with storage.opened_at(file) as read_at:
        assert read_at(3, 4) == b"456"
        assert read_at(3, 7) == b"789"
        for size, offset in ((4, 7), (1, 10), (1, 99)):  # fewer bytes would be taken for all
            with pytest.raises(DataError, match=file):
                read_at(size, offset)
    with storage.local(file) as copy, open(copy, "rb") as opened:
        assert opened.read() == b"0123456789"
    assert sorted(storage.store_of(folder).walk(folder)) == [(other, 0), (file, 10)]
    storage.remove(file)
    storage.remove(file)
    assert storage.names(folder) == ["below"]
    with pytest.raises(DataError, match=file):
        storage.read_bytes(file)


def test_a_new_file_has_its_name_when_it_is_committed(folder):
    storage.make_directory(folder)
    store = storage.store_of(folder)
    path = storage.join(folder, "a.tfrecord")
    for content in (b"first", b"second"):
        with (
            contextlib.closing(store.new_file(path)) as new,
            contextlib.closing(store.new_file(path)) as twin,
        ):
            os.write(twin.descriptor, b"another attempt")
            os.write(new.descriptor, content)
            assert storage.size(path) == (None if content == b"first" else 5)
            new.commit()
            assert storage.read_bytes(path) == content
    assert storage.names(folder) == ["a.tfrecord"]


def test_paths_inside_of_a_directory(folder):
    assert storage.is_within(folder + "/", folder)
    assert storage.is_within(f"{folder}/x/y", folder + "/")
    assert not storage.is_within(folder + "x", folder)
    assert not storage.is_within(folder, f"{folder}/x")


def test_a_link_leads_inside(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert storage.is_within(str(tmp_path / "link/x"), str(tmp_path / "folder"))


def test_one_process_at_a_time_holds_a_lock(tmp_path):
    store = storage.store_of(tmp_path)
    with store.lock(str(tmp_path)), pytest.raises(BlockingIOError):
        store.lock(str(tmp_path))
    with store.lock(str(tmp_path)):
        pass


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    wanted = ["a.tfrecord", "a.tfrecord.x.tmp", "b.json.0123456789abcdef.tmp"]
    for name in [*wanted, "a.tfrecord.0123456789abcdef.tmp", "a.tfrecord.done.0123456789abcdef.tmp"]:
        (tmp_path / name).touch()
    storage.store_of(tmp_path).remove_unfinished(str(tmp_path), "*.tfrecord*")
    assert sorted(content_of(tmp_path)) == wanted


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    for unique in (False, True):
        with pytest.raises(OSError, match=rf"Errno {errno.ENOSPC}\b"):
            storage.replace(tmp_path / "file", b"new", unique=unique)
    assert content_of(tmp_path) == {"file": b"old"}


def test_everything_in_a_directory_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    made, target = local_store.temporary_of(tmp_path / "made"), tmp_path / "made"
    (made / "below").mkdir(parents=True)
    (made / "below/file").touch()
    synced = []

    def note(descriptor):
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), target.exists()))

    monkeypatch.setattr(os, "fsync", note)
    local_store.publish(made, target)
    assert sorted(synced[:3]) == [(str(path), False) for path in (made, made / "below", made / "below/file")]
    assert synced[3:] == [(str(tmp_path), True)]


def test_local_files_need_no_tensorflow(tmp_path):
    code = (
        "import sys; from cxr_data.core import storage; storage.replace(sys.argv[1], b'x');"
        "print(storage.read_bytes(sys.argv[1]), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "file"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "b'x' False\n"


def test_an_error_of_a_full_disk_names_the_file(tmp_path, monkeypatch):
    class Full:
        def __enter__(self):
            raise OSError(errno.ENOSPC, "No space left on device")

        def __exit__(self, *error):
            raise AssertionError(error)

    monkeypatch.setattr(local_store, "open", lambda *_, **__: Full(), raising=False)
    with pytest.raises(OSError, match="table.csv") as raised:
        storage.replace(str(tmp_path / "table.csv"), b"1")
    assert raised.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []
