"""Converts planned shards with Apache Beam: many machines, the same bytes.

    Create(shards) | Reshuffle | write_beside

A runner may run a shard twice, at once or after a failure. Each attempt writes under a name
of its own and ends with a rename, and all attempts write the same bytes: whichever is last, the
shard is whole. What the manifest needs of a shard is left beside it (`ledger.write_beside`),
so that it does not matter how many attempts there were, or whether the driver still lives.

All workers and the driver must see the output under the same path, or as the same `s3://` or `gs://`.
"""

import contextlib
import importlib
import logging
import shlex
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any

from cxr_data.convert import ledger
from cxr_data.convert.ledger import Header
from cxr_data.convert.plan import ShardPlan
from cxr_data.convert.shard_writer import ShardResult, remove_attempts, write_shard
from cxr_data.convert.workers import Counters
from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.wording import counted
from cxr_data.images.guarded import Limits, read_one, read_picture
from cxr_data.images.preprocess import PixelOptions
from cxr_data.records.layout import MANIFEST_NAME

_POLL_SECONDS = 0.5
# Questions to an object store are requests that cost time and money.
_REMOTE_POLL_SECONDS = 5.0
_SECONDS_BETWEEN_QUESTIONS = 30.0
# As apache_beam.runners.portability.local_job_service names it.
_WORKER_THREAD = "run_worker"
_DASK_RUNNER = "apache_beam.runners.dask.dask_runner"
_NO_REASON = "its runner names no error; see the log of its scheduler"
_EXTRA = "install the extra: pip install 'cxr[beam]'"


class _Unwatched:
    """Beam has no way to tell the driver of single images."""

    def begin(self, position: int) -> None:
        pass

    def done(self, read: int, written: int, quarantined: bool) -> None:
        pass


def write_shard_beside(
    plan: ShardPlan, directory: str, options: PixelOptions, limits: Limits, header: Header
) -> str:
    """Run in a Beam worker: writes a shard and, beside it, its result; return its name.

    Raises:
      OSError: the output cannot be written, or belongs to another run by now.
    """
    pause = 0.0 if storage.store_of(directory).is_local else _SECONDS_BETWEEN_QUESTIONS
    asked = -pause

    def is_wanted() -> bool:
        # A worker may outlive its driver: it must not write into what came after.
        nonlocal asked
        if time.monotonic() - asked < pause:
            return True
        asked = time.monotonic()
        manifest = storage.join(directory, MANIFEST_NAME)
        return ledger.belongs_to(directory, header) and storage.size(manifest) is None

    read = partial(read_one, partial(read_picture, options=options, limits=limits), limits=limits)
    result = write_shard(plan, directory, options, read, _Unwatched(), may_go_on=is_wanted)
    ledger.write_beside(directory, header, result)
    return plan.name


class BeamJob:
    """Converts planned shards in a Beam pipeline.

    Args:
      runner: `DirectRunner`, `DaskRunner`, `FlinkRunner`, or another one that Beam knows.
      flags: Beam's own, as on a command line.
      workers: processes of the DirectRunner, unless `flags` say otherwise.
      directory: the output, under the same path on every machine.
      options: how images become records.
      limits: of one file.
      header: of the run's ledger, which has been begun.

    Raises:
      UsageError: Beam is not installed, or refuses the flags.
    """

    def __init__(
        self,
        runner: str,
        flags: str,
        workers: int,
        directory: str,
        options: PixelOptions,
        limits: Limits,
        header: Header,
    ) -> None:
        try:
            from apache_beam.options.pipeline_options import PipelineOptions

            if runner == "DaskRunner":
                importlib.import_module(_DASK_RUNNER)
                # `_fail` says in one line that the scheduler is gone; Dask would add a traceback at the exit.
                logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        except ImportError as error:
            raise UsageError(f"--runner=beam: {error.name} is not installed; {_EXTRA}") from error
        try:
            words = shlex.split(flags)
        except ValueError as error:
            raise UsageError(f"--beam_options={flags}: {error}") from error
        # The last of two equal flags counts: the user's.
        ours = {
            "DirectRunner": [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"],
            # Beam has no short name for it. A worker takes one shard at a time, where 128 are Beam's default.
            "DaskRunner": [f"--runner={_DASK_RUNNER}.DaskRunner", "--dask_partition_size=1"],
        }.get(runner, [])
        try:
            self._options = PipelineOptions([f"--runner={runner}", *ours, *words])
            self._options.get_all_options()
        except SystemExit as error:  # argparse has said on stderr what is wrong
            raise UsageError(f"--beam_options={flags}: Beam refuses them") from error
        self._write = partial(
            write_shard_beside,
            directory=storage.place(directory),
            options=options,
            limits=limits,
            header=header,
        )
        self._directory, self._header = directory, header
        self._running: Any = None
        self._failure: BaseException | None = None

    def convert(
        self, shards: Sequence[ShardPlan], tick: Callable[[Counters], None]
    ) -> Generator[ShardResult, None, None]:
        """Yield a result for each shard, soon after a worker has finished it.

        Args:
          shards: what to write.
          tick: called at every look at the output.

        Raises:
          UsageError: Beam knows no such runner.
          DataError: the pipeline failed.
        """
        waiting = {shard.name for shard in shards}
        # Some runners return when all is done, others at once: a thread waits for either.
        thread = threading.Thread(target=self._run, args=(list(shards),), daemon=True)
        with _watching_workers(self._note_failure):
            thread.start()
            yield from self._results(thread, waiting, tick)

    def _note_failure(self, error: BaseException) -> None:
        self._failure = error

    def _results(
        self, thread: threading.Thread, waiting: set[str], tick: Callable[[Counters], None]
    ) -> Generator[ShardResult, None, None]:
        images = quarantined = written = 0
        pause = _POLL_SECONDS if storage.store_of(self._directory).is_local else _REMOTE_POLL_SECONDS
        try:
            while waiting:
                thread.join(pause)
                ended = not thread.is_alive() or self._failure is not None
                for result in ledger.take_beside(self._directory, self._header, waiting):
                    waiting.remove(result.name)
                    images += result.records + len(result.quarantined)
                    quarantined += len(result.quarantined)
                    written += result.bytes
                    yield result
                tick(Counters(images, quarantined, 0, written))
                if ended and waiting:
                    self._fail(sorted(waiting))
            thread.join()
            remove_attempts(self._directory)
        finally:
            if thread.is_alive() and self._running is not None:
                self._running.cancel()

    def _run(self, shards: list[ShardPlan]) -> None:
        import apache_beam as beam

        try:
            pipeline = beam.Pipeline(options=self._options)
            names = pipeline | beam.Create(shards) | beam.Reshuffle()
            names | "write" >> beam.Map(self._write)
            self._running = pipeline.run()
            self._running.wait_until_finish()
        except Exception as error:  # noqa: BLE001 - a runner may raise anything; the driver's thread shows it
            self._note_failure(error)

    def _fail(self, missing: list[str]) -> None:
        failure = self._failure
        text = (str(failure).strip() or type(failure).__name__) if failure else _NO_REASON
        reason = next((line for line in text.splitlines() if "Error" in line), text.splitlines()[0])[:300]
        if isinstance(self._failure, ValueError) and "runner" in text:
            raise UsageError(f"--beam_runner: {reason}")
        raise DataError(
            f"the Beam pipeline ended without {counted(len(missing), 'shard')}, the first "
            f"{missing[0]} ({reason}); run the same command again to finish the rest"
        ) from self._failure


@contextlib.contextmanager
def _watching_workers(tell: Callable[[BaseException], None]) -> Iterator[None]:
    """Tell of a worker process that died.

    The DirectRunner waits for it for ever; only the thread that had started it fails, and says so to nobody.
    """
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if failed.thread is not None and failed.thread.name == _WORKER_THREAD and failed.exc_value:
            tell(failed.exc_value)
        else:
            before(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
