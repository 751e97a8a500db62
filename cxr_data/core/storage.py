"""Paths that are local or remote, and the file operations that cxr needs on both.

`store_of` chooses the store of a path; nothing else looks at a path's scheme. A path with one (`s3://`,
`gs://`) is an object's, any other is local: converting and reading local data never imports TensorFlow.
"""
# ruff: noqa: D102 - what has no docstring in Store is described where its function is.

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from cxr_data.core.errors import UsageError
from cxr_data.core.local_store import LocalStore
from cxr_data.core.object_store import ObjectStore
from cxr_data.core.shown import KEYS_ELSEWHERE, holds_key, without_keys


class NewFile(Protocol):
    """A file in the making, which has no name until it is whole.

    Attributes:
      descriptor: of a local file, open for writing.
    """

    descriptor: int

    def commit(self) -> None:
        """Make the file appear under its name, whole and durable; it replaces what is there."""

    def close(self) -> None:
        """Close it, and remove it unless it was committed."""


class Store(Protocol):
    """A kind of storage. What a method does that is also a function of this module is described there.

    Attributes:
      is_local: whether files lie on a mounted file system, where any program opens them by path, and where
        a read at any position costs no request.
      can_append: whether a file can grow.
      has_locks: whether `lock` keeps other processes out.
    """

    is_local: bool
    can_append: bool
    has_locks: bool

    def place(self, path: str) -> str: ...
    def read_bytes(self, path: str, known_bytes: int | None = None) -> bytes: ...
    def local(self, path: str) -> AbstractContextManager[str]: ...
    def opened_at(self, path: str) -> AbstractContextManager[Callable[[int, int], bytes]]: ...
    def size(self, path: str) -> int | None: ...
    def names(self, directory: str) -> list[str]: ...
    def remove(self, path: str) -> None: ...
    def make_directory(self, path: str) -> None: ...
    def replace(self, path: str, content: bytes, *, unique: bool = False) -> None: ...

    def walk(self, directory: str) -> Iterator[tuple[str, int]]:
        """Yield (path, bytes) of every file below a directory. Raises DataError as `names` does."""

    def new_file(self, path: str) -> NewFile:
        """Begin a file; any number of processes may be at the same one. Raises OSError."""

    def remove_unfinished(self, directory: str, pattern: str) -> None:
        """Remove what killed processes left of new files whose final names match a glob pattern."""

    def has_directory(self, path: str) -> bool:
        """Return whether there is such a directory; an object store has any, and is not asked."""

    def may_be_directory(self, path: str) -> bool:
        """Return whether files can be made below `path`: neither it nor what it lies in is a file.

        Raises:
          DataError: its bucket is not there or cannot be reached.
        """

    def lock(self, directory: str) -> AbstractContextManager[object]:
        """Keep other processes that lock the same directory out until the context is left.

        An object store has no locks: nobody is kept out.

        Raises:
          BlockingIOError: another process holds the lock.
          OSError: the directory cannot be opened.
        """

    def free_bytes(self, directory: str) -> int | None:
        """Return how many bytes can still be written, or None where there is no limit."""

    def modified_ns(self, path: str) -> int:
        """Return when a file was written, in ns; minutes less for an object, since clocks differ."""

    def is_older(self, path: str, than_ns: int) -> bool:
        """Return whether a file is known, without a request, not to have changed since a time in ns."""

    def is_intact(self, path: str, sha256: str) -> bool:
        """Return whether a file has the SHA-256 (hexadecimal) that it was written with.

        An object has: its store keeps checksums of its own.
        """


_LOCAL: Store = LocalStore()
_REMOTE: Store = ObjectStore()


def store_of(path: str | os.PathLike[str]) -> Store:
    """Return the store that a path belongs to: with a scheme, as in `s3://bucket/key`, an object store.

    Raises:
      UsageError: the path of an object holds a key or a password, which ledgers and errors would repeat.
    """
    if "://" not in os.fspath(path):
        return _LOCAL
    if holds_key(os.fspath(path)):
        raise UsageError(f"{without_keys(os.fspath(path))}: {KEYS_ELSEWHERE}")
    return _REMOTE


def join(directory: str | os.PathLike[str], *names: str) -> str:
    """Return `directory/name/...` as a string, for local and remote directories alike."""
    return "/".join([os.fspath(directory).rstrip("/") or "/", *names])


def is_within(path: str, directory: str) -> bool:
    """Return whether `path` is `directory` or lies below it, whatever names lead there."""
    return f"{place(path)}/".startswith(f"{place(directory)}/")


def place(path: str) -> str:
    """Return the one name of a path that has several: links resolved, without a slash at its end."""
    return store_of(path).place(path)


def read_bytes(path: str, known_bytes: int | None = None) -> bytes:
    """Return the whole content of a file. Raises DataError, naming the file, if it cannot be read.

    Args:
      path: local or remote.
      known_bytes: its size, if it is known; that saves a request where it is remote.
    """
    return store_of(path).read_bytes(path, known_bytes)


def local(path: str) -> AbstractContextManager[str]:
    """Give a local file with the content of `path` for the length of a block: itself, or a copy.

    Raises:
      DataError: it is remote and cannot be read.
    """
    return store_of(path).local(path)


def opened_at(path: str) -> AbstractContextManager[Callable[[int, int], bytes]]:
    """Give a function that reads (bytes, offset) of a file, all of them, for the length of a block.

    Raises:
      DataError: it cannot be opened or read, or ends before the last byte asked for; names the file.
    """
    return store_of(path).opened_at(path)


def size(path: str) -> int | None:
    """Return the size of a file in bytes, or None where there is no such file.

    Raises:
      DataError: it cannot be looked at, or its bucket cannot be reached.
    """
    return store_of(path).size(path)


def names(directory: str) -> list[str]:
    """Return the names of what lies directly in a directory, sorted; none where there is no directory.

    Raises:
      DataError: a bucket is not there or cannot be reached.
    """
    return store_of(directory).names(directory)


def remove(path: str) -> None:
    """Remove a file, if it is there."""
    store_of(path).remove(path)


def make_directory(path: str) -> None:
    """Make a directory and those above it; an object store needs none."""
    store_of(path).make_directory(path)


def replace(path: str | os.PathLike[str], content: bytes, *, unique: bool = False) -> None:
    """Write a file so that it is either absent, old, or whole and durable.

    Args:
      path: of the file.
      content: of the whole file.
      unique: whether several processes may write the file at the same time.

    Raises:
      OSError: a local file cannot be written; nothing is left of it then.
      DataError: an object cannot be written; the same holds.
    """
    store_of(path).replace(os.fspath(path), content, unique=unique)
