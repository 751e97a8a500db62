"""Inputs on an object store: what is read of them is bounded, however large they are."""

import contextlib
import hashlib

import pytest

from cxr_data.core import storage
from cxr_data.images.source_file import digest_of, read_head
from cxr_data.images.undecodable import Undecodable


class Store:
    """An object store with one object, which notes the largest part that was asked for."""

    is_local = False

    def __init__(self, content):
        self.content, self.largest = content, 0

    def size(self, path):
        return len(self.content)

    def read_bytes(self, path, known_bytes=None):
        return self.read_at(len(self.content), 0)

    def read_at(self, size, offset):
        self.largest = max(self.largest, size)
        return self.content[offset : offset + size]

    @contextlib.contextmanager
    def opened_at(self, path):
        yield self.read_at


@pytest.fixture
def store(monkeypatch):
    store = Store(bytes(range(200)) * (40 << 20 >> 7))
    monkeypatch.setattr(storage, "store_of", lambda path: store)
    return store


def test_of_an_object_only_the_head_is_read(store):
    assert read_head("s3://b/a.dcm", store.size("")) == store.content[:132]
    assert store.largest == 132
    store.content = b"short"
    assert read_head("s3://b/a.dcm", 5) == b"short"


def test_a_large_object_is_hashed_in_parts(store):
    assert digest_of("s3://b/a.dcm", 10**8) == hashlib.sha256(store.content).hexdigest()
    assert store.largest <= 16 << 20


def test_an_object_larger_than_any_image_is_not_hashed(store):
    store.content *= 2
    with pytest.raises(Undecodable, match="too_large"):
        digest_of("s3://b/a.dcm", 100)
    assert store.largest == 0
