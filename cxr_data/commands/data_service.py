"""Starts input workers for training, on this machine or beside a dispatcher elsewhere.

    python -m tools.data_service --port=5050 --workers=8
    python -m tools.data_service --dispatcher=HOST:5050 --workers=8    # further machines
    python -m cxr_train.main --data_service=grpc://HOST:5050 ...

The workers must see the shards under the path that the trainer gives, or as the same s3:// or gs://.
"""

import os
import signal

from absl import flags

from cxr_data.commands import command
from cxr_data.core.errors import UsageError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_integer("port", 0, "Of the dispatcher; 0: a free one, which is printed.", 0, 65535)
    flags.DEFINE_integer("workers", -1, "Worker processes; -1: one a core.", lower_bound=-1)
    flags.DEFINE_string("host", "localhost", "Name under which other machines reach this one.")
    flags.DEFINE_string("dispatcher", "", "HOST:PORT of a dispatcher elsewhere; starts only workers.")


def main() -> int:
    """Serves until SIGTERM or Ctrl-C."""
    from cxr_data.core.runtime import start
    from cxr_data.input.data_service import DataService

    workers = len(os.sched_getaffinity(0)) if FLAGS.workers < 0 else FLAGS.workers
    if FLAGS.dispatcher and (FLAGS.port or not workers):
        raise UsageError("--dispatcher starts only workers: give --workers and no --port")
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopping.append(received))
    start()
    with DataService(FLAGS.port, workers, FLAGS.host, FLAGS.dispatcher, note=_say) as service:
        service.wait_until_ready()
        _say(f"data service: --data_service=grpc://{service.address}, {workers} workers")
        service.run(lambda: bool(stopping))
    _say("data service: stopped")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def console_main() -> None:
    """Entry point of the command."""
    define_flags()
    command.run(main)
