"""Paths that are local or remote: the few file operations that cxr needs on both.

Local paths use the operating system directly, so that converting and reading
local data never imports TensorFlow. A path with a scheme (`s3://`, `gs://`) goes
through `tf.io.gfile`.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cxr_data.errors import DataError


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether `path` has a scheme, as in `s3://bucket/key`."""
    return "://" in os.fspath(path)


def join(directory: str | os.PathLike[str], *names: str) -> str:
    """`directory/name/...` as a string, for local and remote directories alike."""
    return "/".join([os.fspath(directory).rstrip("/") or "/", *names])


def gfile() -> Any:
    """`tf.io.gfile`, with the file systems of tensorflow-io registered."""
    import tensorflow as tf

    from cxr_data.runtime import load_tensorflow_io

    load_tensorflow_io()
    return tf.io.gfile


def read_bytes(path: str) -> bytes:
    """The whole content of a file. Raises DataError, naming the file, if it cannot be read."""
    if not is_remote(path):
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
    import tensorflow as tf

    try:
        with gfile().GFile(path, "rb") as file:
            content: bytes = file.read()
            return content
    except tf.errors.OpError as error:
        raise DataError(f"cannot read {path}: {error.message}") from error


def open_read(path: str) -> Any:
    """Opens a local or remote file to read bytes from front to back."""
    return gfile().GFile(path, "rb") if is_remote(path) else open(path, "rb")


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
    import tensorflow as tf

    with gfile().GFile(path, "rb") as remote:

        def read_at(size: int, offset: int) -> bytes:
            try:
                remote.seek(offset)
                content: bytes = remote.read(size)
                return content
            except tf.errors.OpError as error:
                raise DataError(f"cannot read {path}: {error.message}") from error

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
    import tensorflow as tf

    try:
        return int(gfile().stat(path).length)
    except tf.errors.NotFoundError:
        return None
    except tf.errors.OpError as error:
        raise DataError(f"cannot look at {path}: {error.message}") from error


def replace(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a local file so that it is either absent, old, or whole and on disk.

    Temporary file, fsync, rename, fsync of the directory.
    """
    target = Path(path)
    temporary = target.with_name(target.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    rename(temporary, target)


def rename(temporary: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Gives a finished, synced temporary file its final name, durably."""
    os.replace(temporary, target)
    directory = os.open(Path(target).parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
