"""A run directory on an object store: worked on in a local mirror of it.

An object store knows no append, no rename and no hard link, which checkpoints and `metrics.jsonl`
are made of. So a command gets a private local copy of `--run_dir=s3://...`, and what it writes
there is uploaded while it runs, at the end, and when it fails. A process that is killed has lost
what it wrote since the last look, and a checkpoint whose checksums are not there yet is passed
over by the resume.
"""

import contextlib
import logging
import pathlib
import tempfile
import threading
from collections.abc import Iterator, Sequence

from cxr_data.core import storage
from cxr_data.core.errors import CxrError, DataError
from cxr_data.core.local_store import TEMPORARY_SUFFIX
from cxr_train.runs.layout import CONFIG_NAME, LOCK_NAME, SUMS_NAME, WRITING

logger = logging.getLogger(__name__)

# A checkpoint counts once its checksums are there, a run once its configuration is.
_LAST = (SUMS_NAME, CONFIG_NAME)

_published: dict[str, str] = {}


class RunMirror:
    """Keeps a remote directory equal to a local one.

    Args:
      remote: such as `s3://bucket/runs/first`.
      local: an empty directory.
    """

    def __init__(self, remote: str, local: pathlib.Path) -> None:
        self._remote = remote.rstrip("/")
        self._store = storage.store_of(remote)
        self._local = local
        self._known: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def pull(self, leave: Sequence[str] = ()) -> None:
        """Copy the remote directory, but for the folders `leave`. Raises DataError."""
        for path, _ in self._store.walk(self._remote):
            name = path.removeprefix(self._remote + "/")
            if name.split("/")[0] not in leave:
                target = self._local / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(self._store.read_bytes(path))
                self._known[name] = _state(target)

    def push(self) -> None:
        """Upload what is new or changed, and remove what this process has removed. Raises DataError."""
        with self._lock:
            present = self._present()
            for name in sorted(present, key=lambda name: (name.endswith(_LAST), name)):
                if self._known.get(name) != present[name]:
                    self._upload(name)
            for name in self._known.keys() - present.keys():
                self._store.remove(f"{self._remote}/{name}")
                del self._known[name]

    def _upload(self, name: str) -> None:
        # The state before it is read: what is written meanwhile is uploaded the next time.
        with contextlib.suppress(FileNotFoundError):
            state = _state(self._local / name)
            self._store.replace(f"{self._remote}/{name}", (self._local / name).read_bytes())
            self._known[name] = state

    def _present(self) -> dict[str, tuple[int, int]]:
        present = {}
        for path, _ in storage.store_of(self._local).walk(str(self._local)):
            name = pathlib.Path(path).relative_to(self._local).as_posix()
            if not any(map(_is_unfinished, name.split("/"))):
                with contextlib.suppress(FileNotFoundError):
                    present[name] = _state(self._local / name)
        return present

    @contextlib.contextmanager
    def pushing(self, *, seconds: float = 10.0) -> Iterator[None]:
        """Push regularly for the length of a block, and at its end, also a failed one.

        A store that does not answer for a while does not end a training; it does at the end.

        Args:
          seconds: from one push to the next.
        """
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(seconds):
                try:
                    self.push()
                except DataError as error:
                    logger.warning("%s; tried again later", error)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.push()


def _is_unfinished(name: str) -> bool:
    """Return whether a name is of what means something to the process at work only."""
    return name.startswith(WRITING) or name.endswith(TEMPORARY_SUFFIX) or name == LOCK_NAME


def _state(path: pathlib.Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def published(path: str) -> str:
    """Return the name by which users know a run directory, or a path in it: the remote one of a mirror."""
    for local, remote in _published.items():
        if path == local or path.startswith(f"{local}/"):
            return remote.rstrip("/") + path.removeprefix(local)
    return path


@contextlib.contextmanager
def mirrored(remote: str, leave: Sequence[str] = ()) -> Iterator[str]:
    """Give a local mirror of a remote run directory, for the length of a block.

    Args:
      remote: such as `s3://bucket/runs/first`.
      leave: folders that the block does not need.

    Yields:
      The path of the mirror, that `published` knows.
    """
    with tempfile.TemporaryDirectory(prefix="cxr-run-") as local:
        mirror = RunMirror(remote, pathlib.Path(local))
        mirror.pull(leave)
        _published[local] = remote
        try:
            with mirror.pushing():
                yield local
        except CxrError as error:
            # Users know nothing of the mirror.
            raise type(error)(str(error).replace(local, remote)) from error
    logger.info("uploaded to %s", remote)
