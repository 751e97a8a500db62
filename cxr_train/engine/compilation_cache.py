"""Compiled steps that outlive the process: the next start of the same network loads what XLA made of it.

TensorFlow keeps each program that it compiles as a file, by the fingerprints of the program and of its
function's name, and loads it where both are the same again. What else a program depends on is in the name of
the folder: versions, devices, the processor's instructions, and XLA's flags. Names of functions hold a number
that counts up in the process; `align_names` makes it the same from start to start.

TensorFlow writes an entry whole or not at all, but takes what it finds there for right, and a damaged
program would end the process that runs it. So an entry is kept with a checksum, which is written when the
process ends in order. At a start what has none, or another, is removed, and compiled again.
"""

import contextlib
import hashlib
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Iterator

import crc32c
import tensorflow as tf

from cxr_data.core import storage
from cxr_data.core.errors import CxrError
from cxr_data.core.runtime import cores
from cxr_data.core.tensorflow_private import number_names_from
from cxr_train.engine.placement_names import CompilationOptions

logger = logging.getLogger(__name__)

_FLAG = "--tf_xla_persistent_cache_directory"
_PREFIX, _ENTRY, _CHECKSUM = "cxr", ".pb", ".crc32c"
# Of all folders, since each driver, version and choice of devices has its own; the oldest entries go.
_MOST_BYTES = 4_000_000_000
# TensorFlow would fail where it cannot write an entry.
_FREE_BYTES = 2_000_000_000
_GPU_DRIVER = pathlib.Path("/proc/driver/nvidia")
_SECONDS_TO_WRITE = 24 * 60 * 60
# More names than a process makes before its first step: 0.07 s of counting.
_NAMES_APART = 1 << 19


@contextlib.contextmanager
def kept_compilations(
    options: CompilationOptions, *, xla: str, deterministic: bool = False
) -> Iterator[None]:
    """Keep what is compiled in the context, and load what was kept before.

    TensorFlow reads its flags when it first looks for devices: nothing may have asked for them yet.

    Args:
      options: where.
      xla: the value of --xla; nothing is kept where it compiles nothing.
      deterministic: whether every operation must be deterministic, which XLA compiles differently.

    Raises:
      CxrError: in place of `tf.errors.OpError` in the context, if an entry cannot be written any more.
    """
    flags = os.environ.get("TF_XLA_FLAGS", "")
    compiles = xla == "on" or (xla == "auto" and _GPU_DRIVER.exists())
    if not compiles or not options.compilation_cache or _FLAG in flags:
        yield
        return
    folder = pathlib.Path(options.compilation_cache) / _key(deterministic)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_damaged(folder)
        _remove_oldest(folder.parent)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        logger.info("compilation_cache: off, %s: %s", folder, error.strerror)
        yield
        return
    if free < _FREE_BYTES or not os.access(folder, os.W_OK):
        logger.info("compilation_cache: off, %s has no room", folder)
        yield
        return
    kept_in = f"{_FLAG}={_quoted(folder)} --tf_xla_persistent_cache_prefix={_PREFIX}"
    os.environ["TF_XLA_FLAGS"] = f"{flags} {kept_in}".strip()
    try:
        yield
    except tf.errors.OpError as error:
        said = next((line for line in error.message.splitlines() if str(folder) in line), None)
        if said is None:
            raise
        raise CxrError(
            f"--compilation_cache={options.compilation_cache}: {said.rpartition('; ')[2]}; make room, choose "
            "another folder, or leave it empty to keep nothing"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # what has no checksum is compiled again
            seal(folder)


@tf.autograph.experimental.do_not_convert
def align_names(slot: int) -> None:
    """Give the functions that are traced next names that do not depend on what the process did before.

    Args:
      slot: of what is traced, at least 1; the first free one from it on is taken.
    """
    number_names_from(slot * _NAMES_APART, multiple_of=_NAMES_APART)


def seal(folder: pathlib.Path) -> None:
    """Write the checksums of new entries."""
    for entry in folder.glob(f"*{_ENTRY}"):
        if not _checksum_of(entry).exists():
            storage.replace(_checksum_of(entry), _crc32c(entry))


def remove_damaged(folder: pathlib.Path) -> None:
    """Remove entries that have changed since they were sealed.

    Other processes may do the same at the same time, and write new ones.
    """
    for entry in folder.glob(f"*{_ENTRY}"):
        with contextlib.suppress(FileNotFoundError):
            if not _checksum_of(entry).exists() or _checksum_of(entry).read_bytes() != _crc32c(entry):
                _remove(entry)
    for written in folder.glob(f"*{_ENTRY}.tmp"):  # by a process that was killed, or is at it
        with contextlib.suppress(FileNotFoundError):
            if time.time() - written.stat().st_mtime > _SECONDS_TO_WRITE:
                written.unlink()


def _remove_oldest(place: pathlib.Path) -> None:
    """Remove the oldest entries of all folders in `place` where they take too much room."""
    entries: list[tuple[float, int, pathlib.Path]] = []
    for entry in place.glob(f"tensorflow-*/{_PREFIX}*{_ENTRY}"):
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat()
            entries.append((status.st_mtime, status.st_size, entry))
    total = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries):
        if total <= _MOST_BYTES:
            break
        _remove(entry)
        total -= size


def _quoted(folder: pathlib.Path) -> str:
    """Return a path as TensorFlow reads it in TF_XLA_FLAGS, where a space would end it."""
    return '"' + str(folder).replace("\\", r"\\").replace('"', r"\"") + '"'


def _remove(entry: pathlib.Path) -> None:
    entry.unlink(missing_ok=True)
    _checksum_of(entry).unlink(missing_ok=True)


def _checksum_of(entry: pathlib.Path) -> pathlib.Path:
    return entry.with_suffix(_CHECKSUM)


def _crc32c(entry: pathlib.Path) -> bytes:
    return f"{crc32c.crc32c(entry.read_bytes()):08x}\n".encode()


def _key(deterministic: bool) -> str:
    """Return the name of the folder of programs that this process may run; asks TensorFlow for no device."""
    processor = {line for line in _lines("/proc/cpuinfo") if line.startswith(("model name", "flags"))}
    gpus = [_lines(path) for path in sorted(_GPU_DRIVER.glob("gpus/*/information"))]
    models = [line for lines in gpus for line in lines if line.startswith("Model")]
    names = ("XLA_FLAGS", "TF_XLA_FLAGS", "CUDA_VISIBLE_DEVICES")
    flags = [os.environ.get(name, "") for name in names]
    build = sorted(tf.sysconfig.get_build_info().items())
    parts = (sorted(processor), cores(), models, _lines(_GPU_DRIVER / "version"), flags, build, deterministic)
    return f"tensorflow-{tf.__version__}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def _lines(path: str | pathlib.Path) -> list[str]:
    """Return the lines of a file of the kernel's; none where there is no such file."""
    try:
        return pathlib.Path(path).read_text().splitlines()
    except OSError:
        return []
