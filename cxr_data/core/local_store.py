"""The local file system as a store, and how a file on it gets its name: whole and on the disk, or not at all.

Whatever is made under a temporary name is published here. Nothing in this module imports TensorFlow.
"""
# ruff: noqa: D102 - storage.Store documents the methods.

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from cxr_data.core import exact_read
from cxr_data.core.errors import DataError

TEMPORARY_SUFFIX = ".tmp"
_RANDOM_BYTES = 8


class LocalStore:
    """Files on a mounted file system. `storage.Store` says what the methods do."""

    is_local = True
    can_append = True
    has_locks = True

    def place(self, path: str) -> str:
        return os.path.realpath(path)

    def read_bytes(self, path: str, known_bytes: int | None = None) -> bytes:
        try:
            with open(path, "rb", opener=open_regular) as file:
                return file.read()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error

    def local(self, path: str) -> AbstractContextManager[str]:
        return contextlib.nullcontext(path)

    @contextlib.contextmanager
    def opened_at(self, path: str) -> Iterator[Callable[[int, int], bytes]]:
        try:
            file = open_regular(path)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error

        def read_at(size: int, offset: int) -> bytes:
            try:
                return exact_read.read_at(file, size, offset)
            except EOFError as error:
                raise DataError(f"cannot read {path}: {error}") from error
            except OSError as error:
                raise DataError(f"cannot read {path}: {error.strerror}") from error

        try:
            yield read_at
        finally:
            os.close(file)

    def size(self, path: str) -> int | None:
        try:
            return os.stat(path).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataError(f"cannot look at {path}: {error.strerror}") from error

    def names(self, directory: str) -> list[str]:
        return sorted(os.listdir(directory)) if os.path.isdir(directory) else []

    def remove(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def make_directory(self, path: str) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)

    def replace(self, path: str, content: bytes, *, unique: bool = False) -> None:
        new = NewLocalFile(path, unique=unique)
        with contextlib.closing(new):  # a full disk must not stay full of half a file
            try:
                with open(new.descriptor, "wb", closefd=False) as file:
                    file.write(content)
            except OSError as error:
                error.filename = os.fspath(path)  # which the error of a descriptor lacks
                raise
            new.commit()

    def walk(self, directory: str) -> Iterator[tuple[str, int]]:
        for folder, _, files in os.walk(directory):
            for path in (os.path.join(folder, file) for file in files):
                if (size := self.size(path)) is not None:  # it was not removed meanwhile
                    yield path, size

    def new_file(self, path: str) -> "NewLocalFile":
        return NewLocalFile(path, unique=True)

    def remove_unfinished(self, directory: str, pattern: str) -> None:
        own = "[0-9a-f]" * 2 * _RANDOM_BYTES
        for leftover in Path(directory).glob(f"{pattern}.{own}{TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)

    def has_directory(self, path: str) -> bool:
        return os.path.isdir(path)

    def may_be_directory(self, path: str) -> bool:
        while not os.path.exists(path):
            path = os.path.dirname(os.path.abspath(path))
        return os.path.isdir(path)

    def lock(self, directory: str) -> AbstractContextManager[object]:
        held = contextlib.ExitStack()
        handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        held.callback(os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            held.close()
            raise
        return held

    def free_bytes(self, directory: str) -> int | None:
        return shutil.disk_usage(directory).free

    def modified_ns(self, path: str) -> int:
        return os.stat(path).st_mtime_ns

    def is_older(self, path: str, than_ns: int) -> bool:
        # Of the inode: it also counts a file that was copied over or renamed.
        return os.stat(path).st_ctime_ns < than_ns

    def is_intact(self, path: str, sha256: str) -> bool:
        return sha256_of(path) == sha256


class SpecialFileError(OSError):
    """What was opened as a file is a folder, a pipe or a device."""


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Open a local file to read, and return its descriptor. A pipe, whose reader would wait, is refused.

    Raises:
      SpecialFileError: it is no regular file.
      OSError: it cannot be opened.
    """
    file = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = os.fstat(file).st_mode
    if stat.S_ISREG(kind):
        return file
    os.close(file)
    if stat.S_ISDIR(kind):
        raise SpecialFileError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise SpecialFileError(errno.EINVAL, "it is a pipe or a device, not a file", os.fspath(path))


class NewLocalFile:
    """A file that is written under a temporary name, see `storage.NewFile`.

    Args:
      path: the name that it gets.
      unique: whether its temporary name is its own, since other processes may be at the same file.
    """

    def __init__(self, path: str | os.PathLike[str], *, unique: bool = False) -> None:
        self._path = path
        self._temporary = temporary_of(path, unique=unique)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.descriptor = os.open(self._temporary, flags | (os.O_EXCL if unique else os.O_TRUNC), 0o666)

    def commit(self) -> None:
        publish(self._temporary, self._path)

    def close(self) -> None:
        os.close(self.descriptor)
        self._temporary.unlink(missing_ok=True)


def temporary_of(path: str | os.PathLike[str], *, unique: bool = False) -> Path:
    """Return the name beside `path` under which it is made until `publish`.

    Args:
      path: a file or directory.
      unique: whether each call gives another name.
    """
    own = f".{secrets.token_hex(_RANDOM_BYTES)}" if unique else ""
    return Path(path).with_name(Path(path).name + own + TEMPORARY_SUFFIX)


def publish(temporary: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Give a finished file or directory its final name once all of it is on the disk."""
    for path in (Path(temporary), *Path(temporary).rglob("*")):
        _sync(path)
    os.replace(temporary, target)
    _sync(Path(target).parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append(path: str | os.PathLike[str], content: bytes) -> None:
    """Append bytes to a file; they are on the disk when this returns."""
    with open(path, "ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a local file, 64 hexadecimal digits."""
    with open(path, "rb", opener=open_regular) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
