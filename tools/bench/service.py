"""When the tf.data service pays: an emulated accelerator, fed by one core, or also by input workers' cores.

The trainer runs on one core of this machine, as beside an accelerator whose host is busy; the service's
workers have the others, as on another machine. Beside it: the same trainer without a service, by position
and as streams, and on all cores. Every way feeds an accelerator of `--images_per_second`; what counts is the
accelerator utilisation (`cxr_data.input.emulate`). Loopback is faster than a network: 10 Gbit/s carry 800
float32 images a second of 1.5 MB, or 9,600 of one byte a pixel.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from absl import flags

from cxr_data.commands.setting_flags import define_path_flag
from cxr_data.core.errors import DataError, UsageError
from tools.bench.output import table

FLAGS = flags.FLAGS

CAVEAT = "a service on this machine is reached faster than through a network, and shares its memory"


@dataclass(frozen=True)
class Row:
    """One way of feeding the accelerator."""

    way: str
    trainer_cores: int
    worker_cores: int
    images_per_second: float
    utilisation: float


def define_flags() -> None:
    """Define the flags of this benchmark."""
    define_path_flag("data", None, "Folder of shards with at least a thousand training images.")
    flags.DEFINE_float("images_per_second", 2000, "Rate of the emulated accelerator, in images a second.")
    flags.DEFINE_integer("epochs", 3, "Passes over the data of each way.")


@contextmanager
def service(cores: set[int]) -> Iterator[str]:
    """Start a service with a worker for each of `cores`, on these; yield its address."""
    command = [sys.executable, "-m", "tools.data_service", f"--workers={len(cores)}"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    ) as process:
        try:
            found = re.search(r"--data_service=(\S+),", process.stdout.readline() if process.stdout else "")
            if not found:
                raise DataError("the data service did not start")
            yield found[1]
        finally:
            process.terminate()
            process.communicate()


def emulate(way: str, cores: set[int], worker_cores: int, *extra: str) -> Row:
    """Feed the emulated accelerator once, on `cores`."""
    command = [sys.executable, "-m", "cxr_train.main", f"--data={FLAGS.data}", f"--epochs={FLAGS.epochs}"]
    command += [f"--emulate_images_per_second={FLAGS.images_per_second}", "--batch_size=32", *extra]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    found = re.search(r"accelerator utilisation ([\d.]+)% .*: (\d+) images/s", done.stdout)
    if not found:
        raise DataError(f"{way}: {(done.stderr.strip() or done.stdout).splitlines()[-1]}")
    row = Row(way, len(cores), worker_cores, float(found[2]), float(found[1]) / 100)
    print(f"{way}: {row.images_per_second:.0f} images/s", file=sys.stderr, flush=True)
    return row


def main() -> list[dict[str, object]]:
    """Read the flags, measure, print a table and return it for JSON."""
    if not FLAGS.data:
        raise UsageError("--data is missing")
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        raise UsageError("benchmark service: needs two cores, one for the trainer and one for workers")
    own = {min(cores)}
    rows = [
        emulate("by position", own, 0, "--reader=indexed"),
        emulate("as streams", own, 0, "--reader=stream"),
    ]
    with service(cores - own) as address:
        rows.append(emulate("service", own, len(cores) - 1, f"--data_service={address}"))
    rows += [
        emulate("by position", cores, 0, "--reader=indexed"),
        emulate("as streams", cores, 0, "--reader=stream"),
    ]
    print(f"emulated accelerator of {FLAGS.images_per_second:g} images/s, fed from {FLAGS.data}")
    columns = {
        "way": lambda row: row.way,
        "trainer cores": lambda row: str(row.trainer_cores),
        "worker cores": lambda row: str(row.worker_cores),
        "img/s": lambda row: f"{row.images_per_second:.0f}",
        "utilisation": lambda row: f"{row.utilisation:.0%}",
        "x streams on one core": lambda row: f"{row.images_per_second / rows[1].images_per_second:.2f}",
    }
    print(table(rows, columns))
    return [asdict(row) for row in rows]
