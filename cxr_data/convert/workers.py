"""Worker processes: each writes one shard at a time, is watched, and cannot make the run hang.

Processes, because decoding in Python threads holds the interpreter lock too often.
A worker is a fresh interpreter (spawn) that imports neither TensorFlow nor the
caller's state. It says through shared memory which image it is converting, so that a worker
that dies or hangs is reported with its file; the file gets a second chance in
another worker and is quarantined after that.
"""

import contextlib
import multiprocessing
import os
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from cxr_data.convert.plan import ShardPlan
from cxr_data.convert.shard_writer import NOTHING, ShardResult, remove_attempts, write_shard
from cxr_data.core import child_process
from cxr_data.core.errors import DataError
from cxr_data.core.isolated import TIMEOUT
from cxr_data.images.guarded import Limits, Picture, SourceFile, lost_file, read_one, read_picture
from cxr_data.images.preprocess import PixelOptions
from cxr_data.sources.quarantine import Quarantined

_POLL_SECONDS = 0.1
# Of workers at one shard: a cause outside of the images would end any number of them.
_MOST_ENDS_BETWEEN_IMAGES = 3
# Fields of a worker's slot in shared memory.
_POSITION, _DONE, _QUARANTINED, _READ, _WRITTEN, _FIELDS = range(6)


@dataclass(frozen=True)
class Counters:
    """What all workers have done so far, in finished and unfinished shards."""

    images: int = 0
    quarantined: int = 0
    read: int = 0
    written: int = 0


@dataclass
class _SlotWatcher:
    """Writes what a worker does into its slot."""

    slot: Any

    def begin(self, position: int) -> None:
        self.slot[_POSITION] = position

    def done(self, read: int, written: int, quarantined: bool) -> None:
        self.slot[_DONE] += 1
        self.slot[_QUARANTINED] += quarantined
        self.slot[_READ] += read
        self.slot[_WRITTEN] += written


def serve(connection: Connection, slot: Any, directory: str, options: PixelOptions, limits: Limits) -> None:
    """Work as a process of its own: take shards and what to skip, give results or errors."""
    child_process.begin_worker()
    watcher = _SlotWatcher(slot)

    def read(file: SourceFile) -> Picture:
        with child_process.ends_after(limits.image_timeout + child_process.PATIENCE_SECONDS):
            return read_picture(file, options, limits)

    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            plan, condemned = connection.recv()
            answer: ShardResult | OSError | DataError | str
            try:
                answer = write_shard(
                    plan, directory, options, read, watcher, condemned, child_process.parent_lives
                )
            except OSError as error:
                answer = OSError(error.errno, error.strerror, error.filename)
            except DataError as error:  # of an object store, which stayed away
                answer = DataError(str(error))
            except Exception:  # noqa: BLE001 - a defect of ours, which the parent shows
                answer = traceback.format_exc()
            slot[_POSITION] = NOTHING
            connection.send(answer)


@dataclass
class _Worker:
    process: Any
    connection: Connection
    slot: Any
    plan: ShardPlan | None = None
    before: Sequence[int] = (-1, 0, 0, 0, 0)
    position: int = -1
    since: float = field(default_factory=time.monotonic)

    def in_hand(self) -> int:
        return int(self.slot[_POSITION])

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class Pool:
    """Converts planned shards in worker processes.

    Args:
      count: number of processes; with 0 this one writes, and another one reads.
      directory: where shards appear.
      options: how images become records.
      limits: of one file; one that takes longer is taken for one that hangs its decoder.
      note: is given one line for everything a user should know.
    """

    def __init__(
        self,
        count: int,
        directory: str,
        options: PixelOptions,
        limits: Limits,
        note: Callable[[str], None],
    ) -> None:
        self._count = count
        self._directory = directory
        self._options = options
        self._limits = limits
        self._note = note
        self._workers: list[_Worker] = []
        self._deaths: Counter[tuple[str, int]] = Counter()
        self._condemned: dict[str, dict[int, Quarantined]] = {}
        self._past = Counters()

    def convert(
        self, shards: Sequence[ShardPlan], tick: Callable[[Counters], None]
    ) -> Generator[ShardResult, None, None]:
        """Yield a result for each shard, as they are finished.

        Args:
          shards: what to write.
          tick: called several times a second.

        Raises:
          OSError: a worker cannot write.
          DataError: workers die between two images, again and again at one shard, or an object store
            does not answer.
        """
        try:
            if self._count == 0:
                yield from self._convert_here(shards, tick)
            else:
                yield from self._convert_there(deque(shards), tick)
        finally:
            for worker in self._workers:
                worker.stop()
            remove_attempts(self._directory)

    def _convert_here(
        self, shards: Sequence[ShardPlan], tick: Callable[[Counters], None]
    ) -> Iterator[ShardResult]:
        slot = [-1, 0, 0, 0, 0]

        @dataclass
        class Ticking(_SlotWatcher):
            def done(self, read: int, written: int, quarantined: bool) -> None:
                super().done(read, written, quarantined)
                tick(Counters(*slot[_DONE:]))

        reading = partial(read_picture, options=self._options, limits=self._limits)
        read = partial(read_one, reading, limits=self._limits)
        for plan in shards:
            yield write_shard(plan, self._directory, self._options, read, Ticking(slot))

    def _convert_there(
        self, waiting: deque[ShardPlan], tick: Callable[[Counters], None]
    ) -> Iterator[ShardResult]:
        for _ in range(min(self._count, len(waiting))):
            self._workers.append(self._start())
        while waiting or any(worker.plan for worker in self._workers):
            for worker in self._workers:
                if worker.plan is None and waiting:
                    self._give(worker, waiting.popleft())
            busy = [worker for worker in self._workers if worker.plan]
            ready = wait([worker.connection for worker in busy], _POLL_SECONDS)
            for worker in busy:
                if worker.connection in ready:
                    result = self._answer(worker)
                    if result is None:
                        waiting.appendleft(self._bury(worker, self._cause_of_death(worker)))
                    else:
                        yield result
                elif self._hangs(worker):
                    waiting.appendleft(self._bury(worker, TIMEOUT))
            tick(self._counters())

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        slot = context.RawArray("q", _FIELDS)
        slot[_POSITION] = NOTHING
        process = context.Process(
            target=serve, args=(theirs, slot, self._directory, self._options, self._limits), daemon=True
        )
        with _worker_environment():
            process.start()
        theirs.close()
        return _Worker(process, ours, slot)

    def _give(self, worker: _Worker, plan: ShardPlan) -> None:
        worker.plan, worker.since, worker.position = plan, time.monotonic(), -1
        worker.before = list(worker.slot)
        # A worker that died in the meantime is found by its sentinel.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send((plan, self._condemned.get(plan.name)))

    def _answer(self, worker: _Worker) -> ShardResult | None:
        """Return the result of a worker's shard, or None if it died."""
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):  # the other end of the pipe is closed, perhaps in mid-message
            return None
        worker.plan = None
        if isinstance(answer, ShardResult):
            return answer
        if isinstance(answer, OSError | DataError):
            raise answer
        raise RuntimeError(f"a worker failed:\n{answer}")

    def _cause_of_death(self, worker: _Worker) -> str:
        worker.process.join()
        return child_process.cause_of_end(worker.process.exitcode)

    def _hangs(self, worker: _Worker) -> bool:
        position = worker.in_hand()
        if position != worker.position:
            worker.position, worker.since = position, time.monotonic()
        return position >= 0 and time.monotonic() - worker.since > self._limits.image_timeout

    def _bury(self, worker: _Worker, cause: str) -> ShardPlan:
        """Replace a worker that died or hangs; return its shard, to be done again."""
        plan, position = worker.plan, worker.in_hand()
        assert plan is not None
        self._retire(worker)
        self._workers.append(self._start())
        if position < 0:
            self._note_end_between_images(plan, cause)
            return plan
        entry = plan.entries[position]
        self._deaths[plan.name, position] += 1
        again = self._deaths[plan.name, position] > 1
        verdict = "it is quarantined" if again else "it gets a second try"
        self._note(f"a worker process ended ({cause}) while it converted {entry.id}: {verdict}")
        if again:
            lost = lost_file(cause, self._limits)
            quarantined = Quarantined(entry.id, lost.reason, lost.detail)
            self._condemned.setdefault(plan.name, {})[position] = quarantined
        return plan

    def _note_end_between_images(self, plan: ShardPlan, cause: str) -> None:
        self._deaths[plan.name, NOTHING] += 1
        what = f"a worker process ended ({cause}) between two images of {plan.name}"
        if self._deaths[plan.name, NOTHING] == _MOST_ENDS_BETWEEN_IMAGES:
            raise DataError(f"{what}, {_MOST_ENDS_BETWEEN_IMAGES} times; try fewer --workers")
        self._note(f"{what}: another one does it")

    def _retire(self, worker: _Worker) -> None:
        worker.stop()
        self._workers.remove(worker)
        # Its shard is done again from the start, so only what it did before counts.
        self._past = _plus(self._past, worker.before)

    def _counters(self) -> Counters:
        total = self._past
        for worker in self._workers:
            total = _plus(total, worker.slot)
        return total


def _plus(counters: Counters, slot: Any) -> Counters:
    return Counters(
        counters.images + slot[_DONE],
        counters.quarantined + slot[_QUARANTINED],
        counters.read + slot[_READ],
        counters.written + slot[_WRITTEN],
    )


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """Set what processes that are started meanwhile read at their start."""
    before = {name: os.environ.get(name) for name in child_process.WORKER_ENVIRONMENT}
    os.environ.update(child_process.WORKER_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
