"""Paths that are local or remote: the few file operations that cxr needs on both.

Local paths use the operating system directly, so that converting and reading
local data never imports TensorFlow. A path with a scheme (`s3://`, `gs://`) goes
through `object_store`.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from cxr_data.core import object_store
from cxr_data.core.errors import DataError

_CLOCKS_DIFFER_NS = 5 * 60 * 10**9


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether `path` has a scheme, as in `s3://bucket/key`."""
    return "://" in os.fspath(path)


def join(directory: str | os.PathLike[str], *names: str) -> str:
    """`directory/name/...` as a string, for local and remote directories alike."""
    return "/".join([os.fspath(directory).rstrip("/") or "/", *names])


def place(path: str) -> str:
    """The one name of a path that has several: links resolved, without a slash at its end."""
    return path.rstrip("/") if is_remote(path) else os.path.realpath(path)


def read_bytes(path: str, known_bytes: int | None = None) -> bytes:
    """The whole content of a file. Raises DataError, naming the file, if it cannot be read.

    Args:
      path: local or remote.
      known_bytes: its size, if it is known; that saves a request where it is remote.
    """
    if not is_remote(path):
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
    return object_store.read_bytes(path, known_bytes)


@contextlib.contextmanager
def local(path: str) -> Iterator[str]:
    """A local file with the content of `path`, for the length of a block: itself, or a copy.

    Raises:
      DataError: it is remote and cannot be read.
    """
    if is_remote(path):
        with object_store.downloaded(path) as copy:
            yield copy
    else:
        yield path


@contextlib.contextmanager
def opened_at(path: str) -> Iterator[Callable[[int, int], bytes]]:
    """Gives a function that reads (bytes, offset) of a local or remote file.

    Raises:
      DataError: it cannot be opened or read; names the file.
    """
    if not is_remote(path):
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        try:
            yield functools.partial(os.pread, file)
        finally:
            os.close(file)
        return
    with object_store.opened_at(path) as read_at:
        yield read_at


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a local file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size(path: str) -> int | None:
    """The size of a file in bytes, or None where there is no such file."""
    if not is_remote(path):
        try:
            return os.stat(path).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataError(f"cannot look at {path}: {error.strerror}") from error
    return object_store.size(path)


def modified_ns(path: str) -> int:
    """When a file was written, in ns; minutes less for an object, since clocks differ."""
    if is_remote(path):
        return object_store.modified_ns(path) - _CLOCKS_DIFFER_NS
    return os.stat(path).st_mtime_ns


def names(directory: str) -> list[str]:
    """The names of what lies in a directory, sorted; empty where there is no such directory."""
    if is_remote(directory):
        return object_store.names(directory)
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def remove(path: str) -> None:
    """Removes a file, if it is there."""
    if is_remote(path):
        object_store.remove(path)
    else:
        Path(path).unlink(missing_ok=True)


def replace(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file so that it is either absent, old, or whole and on disk.

    Locally: temporary file, fsync, rename, fsync of the directory. An upload is atomic by itself.
    """
    if is_remote(path):
        object_store.write_bytes(os.fspath(path), content)
        return
    target = Path(path)
    temporary = target.with_name(target.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, target)
    finally:  # a full disk must not stay full of half a file
        temporary.unlink(missing_ok=True)


def rename(temporary: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Gives a finished, synced temporary file its final name, durably."""
    os.replace(temporary, target)
    directory = os.open(Path(target).parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
