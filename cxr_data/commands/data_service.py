"""Starts input workers for training, on this machine or for a dispatcher on another one.

    python -m tools.data_service --port=5050 --workers=8
    python -m tools.data_service --dispatcher=HOST:5050 --workers=8    # further machines
    python -m cxr_train.main --data_service=grpc://HOST:5050 ...

The workers must see the shards under the path that the trainer gives, or as the same s3:// or gs://.

The service has no passwords: whoever reaches its ports can read the files that its user can read.
"""

import dataclasses
import os
import signal

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core.errors import UsageError
from cxr_data.core.runtime import keep_large_allocations
from cxr_data.core.settings import setting
from cxr_data.core.shown import say


@dataclasses.dataclass(frozen=True)
class ServiceOptions:
    """Which input workers to start."""

    port: int = setting(
        0, "Port of the dispatcher; 0: a free one, which is printed.", at_least=0, at_most=65535
    )
    workers: int = setting(-1, "Worker processes; -1: one a core.", at_least=-1)
    host: str = setting("localhost", "Name under which other machines reach this one.")
    listen: str = setting(
        "host",
        "Addresses at which the ports answer: `host`, those of --host; `all`, all of this machine.",
        choices=("host", "all"),
    )
    dispatcher: str = setting(
        "", "HOST:PORT of a dispatcher on another machine; without it, one is started here."
    )


def main() -> int:
    """Serve until SIGTERM or Ctrl-C."""
    options = from_flags(ServiceOptions)
    workers = len(os.sched_getaffinity(0)) if options.workers < 0 else options.workers
    if options.dispatcher and (options.port or not workers):
        raise UsageError("--dispatcher starts only workers: give --workers and no --port")
    from cxr_data.input.data_service import DataService  # which needs TensorFlow

    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopping.append(received))
    keep_large_allocations()
    with DataService(options.port, workers, options.host, options.dispatcher, options.listen) as service:
        service.wait_until_ready()
        say(f"data service: --data_service=grpc://{service.address}, {workers} workers")
        say(f"open: ports {service.open_ports()}")
        say("no password: whoever reaches these ports can read every file that this user can read")
        service.run(lambda: bool(stopping))
    say("data service: stopped")
    return 0


def console_main() -> None:
    """Entry point of the command."""
    define_flags(ServiceOptions)
    command.run(main, info_to="stderr")  # on stdout are its addresses


if __name__ == "__main__":
    console_main()
