"""Object stores (`s3://`, `gs://`) through `tf.io.gfile`, and what that keeps to itself.

An upload is atomic: an object is absent, old or whole, so nothing is renamed (that would be a
copy) and nothing can be appended to. Of an endpoint that cannot be reached, `tf.io.gfile` says
that its files are not there: where something is missing, its bucket is looked for too.

Failed requests are repeated by the client, `AWS_MAX_ATTEMPTS` times in all (5 by default), at
growing intervals; after that a `DataError` names the object.
"""
# ruff: noqa: D102 - storage.Store documents the methods.

import atexit
import contextlib
import ctypes
import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

from cxr_data.core.errors import CxrError, DataError
from cxr_data.core.shown import without_keys
from cxr_data.core.tensorflow_private import load_io_library

# The client's own way makes 11 attempts, and 44 of an upload, which take 26 s and 104 s to fail. One
# range is one request then, and not a second one that asks for the size again.
_CLIENT = {"AWS_RETRY_MODE": "standard", "AWS_MAX_ATTEMPTS": "5", "S3_DISABLE_MULTI_PART_DOWNLOAD": "1"}
_REQUESTS_AT_ONCE = 32
_CLOCKS_DIFFER_NS = 5 * 60 * 10**9
_REACH = "reach the bucket"


@functools.cache
def gfile() -> Any:
    """Return `tf.io.gfile`, with the file systems of tensorflow-io registered.

    Raises:
      CxrError: tensorflow-io is not installed, or does not load into this TensorFlow.
    """
    for name, value in _CLIENT.items():
        os.environ.setdefault(name, value)
    import tensorflow as tf

    try:
        load_io_library()
    except (ImportError, NotImplementedError, tf.errors.OpError) as error:
        reason = (
            "which is not installed"
            if isinstance(error, ModuleNotFoundError)
            else f"which does not load into TensorFlow {tf.__version__} ({str(error).splitlines()[0]})"
        )
        raise CxrError(
            f"s3:// and gs:// need tensorflow-io, {reason}: install this project with Python 3.11 or 3.12, "
            "whose pinned TensorFlow it fits, or copy the files here"
        ) from error
    atexit.register(_leave_without_destructors)
    return tf.io.gfile


def register_where_possible() -> None:
    """Register the file systems, if there are any, for what may be read from them later."""
    with contextlib.suppress(CxrError):
        gfile()


def _leave_without_destructors() -> None:
    """Make `exit` end the process with its own code.

    The S3 client's static destructors run in a wrong order and abort (exit code 134). What is
    registered last runs first: the streams are flushed, and then the process is left.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "on_exit"):
        library.on_exit(library._exit, None)
        library.__cxa_atexit(library.fflush, None, None)


@contextlib.contextmanager
def _one_line(what: str, path: str) -> Iterator[None]:
    """Turn the errors of a store into a DataError that names the object."""
    import tensorflow as tf

    gfile()
    try:
        yield
    except tf.errors.OpError as error:
        missing = "bucket" if what == _REACH or "NoSuchBucket" in error.message else "object"
        raise DataError(f"cannot {what} {path}: {_reason(error, missing)}") from error


def _reason(error: Any, missing: str) -> str:
    """Return why the store refused; its own words are often only colons."""
    words = without_keys(error.message.split("}} ")[-1].split(" [Op:")[0].strip(": "))
    kind = type(error).__name__.removesuffix("Error")
    hints = {
        "NotFound": f"there is no such {missing}",
        "PermissionDenied": "permission denied; are the credentials right?",
        "Unauthenticated": "the credentials are not known",
        "Internal": "the store keeps failing",
        "Unimplemented": "no such file system; there are local folders, s3:// and gs://",
        "Unknown": "the store cannot be reached; for s3://, is S3_ENDPOINT right?",
    }
    return f"{hints.get(kind, kind)} ({words})" if words else hints.get(kind, kind)


class ObjectStore:
    """Objects: `storage.Store` says what the methods do. They raise DataError, which names the object."""

    is_local = False
    can_append = False
    has_locks = False

    def place(self, path: str) -> str:
        return path.rstrip("/")

    def read_bytes(self, path: str, known_bytes: int | None = None) -> bytes:
        import tensorflow as tf

        with _one_line("read", path):
            # Of an empty object there is no range of bytes: the store refuses it, and the client crashes.
            if not (gfile().stat(path).length if known_bytes is None else known_bytes):
                return b""
            # Not GFile.read, which makes a request for every 512 kB and one more for the size.
            content: bytes = tf.io.read_file(path).numpy()
            return content

    @contextlib.contextmanager
    def local(self, path: str) -> Iterator[str]:
        with tempfile.NamedTemporaryFile(prefix="cxr-") as copy:
            copy.write(self.read_bytes(path))
            copy.flush()
            yield copy.name

    @contextlib.contextmanager
    def opened_at(self, path: str) -> Iterator[Callable[[int, int], bytes]]:
        with _one_line("read", path):
            length = int(gfile().stat(path).length)
        with gfile().GFile(path, "rb") as file:

            def read_at(size: int, offset: int) -> bytes:
                if offset + size > length:  # asked for bytes behind the end, the client crashes
                    raise DataError(f"cannot read {path}: the object ends at byte {length}")
                with _one_line("read", path):
                    file.seek(offset)
                    content: bytes = file.read(size)
                if len(content) < size:
                    raise DataError(f"cannot read {path}: {len(content)} of {size} bytes came")
                return content

            yield read_at

    def size(self, path: str) -> int | None:
        status = _status(path)
        return None if status is None or status.is_directory else int(status.length)

    def names(self, directory: str) -> list[str]:
        import tensorflow as tf

        with _one_line("list", directory):
            try:
                return sorted(name.rstrip("/") for name in gfile().listdir(directory) if name.strip("/"))
            except tf.errors.NotFoundError:
                _check_bucket(directory)
                return []

    def walk(self, directory: str) -> Iterator[tuple[str, int]]:
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            folders = [directory.rstrip("/")]
            while folders:
                folder = folders.pop()
                paths = [f"{folder}/{name}" for name in self.names(folder + "/")]
                for path, status in zip(paths, pool.map(_status, paths), strict=True):
                    if status is not None and status.is_directory:
                        folders.append(path)
                    elif status is not None:
                        yield path, int(status.length)

    def remove(self, path: str) -> None:
        import tensorflow as tf

        with _one_line("remove", path), contextlib.suppress(tf.errors.NotFoundError):
            gfile().remove(path)

    def make_directory(self, path: str) -> None:
        pass

    def replace(self, path: str, content: bytes, *, unique: bool = False) -> None:
        with _whole(path, len(content)), gfile().GFile(path, "wb") as file:
            file.write(content)

    def new_file(self, path: str) -> "NewObject":
        return NewObject(path)

    def remove_unfinished(self, directory: str, pattern: str) -> None:
        pass

    def has_directory(self, path: str) -> bool:
        return True

    def may_be_directory(self, path: str) -> bool:
        self.names(path)
        return True

    def lock(self, directory: str) -> AbstractContextManager[object]:
        return contextlib.nullcontext()

    def free_bytes(self, directory: str) -> int | None:
        return None

    def modified_ns(self, path: str) -> int:
        status = _status(path)
        return (int(status.mtime_nsec) if status else 0) - _CLOCKS_DIFFER_NS

    def is_older(self, path: str, than_ns: int) -> bool:
        return False

    def is_intact(self, path: str, sha256: str) -> bool:
        return True


class NewObject:
    """An object in the making, see `storage.NewFile`: a local file that is uploaded when it is whole.

    The file has no name, so that nothing is left of it, whatever ends this process.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with tempfile.TemporaryFile() as scratch:
            self.descriptor = os.dup(scratch.fileno())

    def commit(self) -> None:
        with _whole(self._path, os.fstat(self.descriptor).st_size):
            gfile().copy(f"/proc/self/fd/{self.descriptor}", self._path, overwrite=True)

    def close(self) -> None:
        os.close(self.descriptor)


@contextlib.contextmanager
def _whole(path: str, size: int) -> Iterator[None]:
    """Remove what a failed upload of `size` bytes made: the client also uploads what a full /tmp cut off."""
    import tensorflow as tf

    with _one_line("write", path):
        try:
            yield
            if size and (found := int(gfile().stat(path).length)) != size:
                raise tf.errors.DataLossError(None, None, f"{found} of {size} bytes arrived")
        except tf.errors.OpError:
            with contextlib.suppress(tf.errors.OpError):
                gfile().remove(path)
            raise


def _status(path: str) -> Any:
    """Return the `FileStatistics` of an object or directory, or None where there is none."""
    import tensorflow as tf

    with _one_line("look at", path):
        try:
            return gfile().stat(path)
        except tf.errors.NotFoundError:
            _check_bucket(path)
            return None


def _check_bucket(path: str) -> None:
    """Raise DataError if the bucket of `path` is not there or cannot be reached."""
    scheme, _, rest = path.partition("://")
    bucket = f"{scheme}://{rest.split('/')[0]}/"
    with _one_line(_REACH, bucket):
        gfile().stat(bucket)
