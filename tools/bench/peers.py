"""This project's reader against other loaders, over the same images.

Every peer is set up as its own documentation advises, runs in a process of its own, and is
timed over whole, shuffled epochs up to the point where a batch is a float32 array in host
memory. A process warms up for one epoch, so the page cache is warm for everyone; nobody
keeps images in memory, but the rows that say so. The rounds take turns, and the median
counts. `CPU ms` is the processor time of an image, in all threads and workers: what the loader
takes from the training beside it. The peers' packages go into an environment of their own.
"""

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

from absl import flags

from cxr_data.commands.setting_flags import define_path_flag
from cxr_data.core.errors import DataError, UsageError
from tools.bench import loaders, output
from tools.bench.loaders import Peer
from tools.bench.loaders.environment import Environment, package_name
from tools.bench.peers_data import Data, prepare

FLAGS = flags.FLAGS

CAVEAT = "the page cache is warm: loaders are compared, not disks"

# What a peer is to be beaten by, from uncached storage.
TARGET = 1.5
# The mean of all pixels: exact for copies of the same arrays, close for another kernel.
_SAME_ARRAYS, _SAME_IMAGES = 1e-5, 2e-2
_PATIENCE_S = 900


@dataclass(frozen=True)
class Row:
    """One line of the table; numbers are None, and `reason` says why, where there are none."""

    key: str
    name: str
    version: str
    uncached: bool
    images_per_second: float | None
    slowest: float | None
    fastest: float | None
    ratio: float | None
    cpu_ms: float | None
    note: str
    reason: str


@dataclass
class Measured:
    """What the rounds of one peer gave."""

    speeds: list[float]
    cpu_ms: list[float] = field(default_factory=list)
    mean: float = 0.0
    reason: str = ""


def define_flags() -> None:
    """Define the flags of this benchmark."""
    known = ", ".join(peer.key for peer in loaders.PEERS)
    flags.DEFINE_integer("images", 512, "Images, drawn by tools.make_sample; a multiple of --batch_size.")
    flags.DEFINE_integer("batch_size", 16, "Images in a batch.")
    flags.DEFINE_integer("image_size", 360, "Height and width of the batches' images, in pixels.")
    flags.DEFINE_integer("rounds", 5, "Rounds; the median counts.")
    flags.DEFINE_float("seconds", 2, "Seconds that each round runs whole epochs for, at least.")
    flags.DEFINE_list("peers", [], f"Peers to measure, next to ours: {known}.")
    define_path_flag("scratch", "build/bench_peers", "Folder for images and copies; kept for the next run.")
    define_path_flag("environment", "build/bench_env", "Folder for the peers' packages; kept.")
    flags.DEFINE_boolean("install", True, "Whether to install what is missing there.")


# -- running -----------------------------------------------------------------------------------


def run_worker(python: str, peer: Peer, spec: Mapping[str, object]) -> dict[str, float]:
    """Run `peers.worker` in a process of its own.

    Raises:
      DataError: it failed; the message is its last line.
    """
    script = Path(loaders.__file__).with_name("worker.py")
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [python, str(script), json.dumps({**spec, "module": peer.module, "result": str(result)})]
        stderr = _run_to_end(command)
        if not result.exists():
            raise DataError(_exception(stderr) or "it ended without a result or a message")
        return dict(json.loads(result.read_text()))


def _run_to_end(command: Sequence[str]) -> str:
    """Run a command and end all that it started; return what it wrote to stderr."""
    with (
        tempfile.TemporaryFile("w+", errors="replace") as stderr,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        ) as process,
    ):
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise DataError(f"did not end within {_PATIENCE_S} s") from error
        finally:
            # A loader's workers may outlive it; they are in its session, and nobody else is.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        stderr.seek(0)
        return stderr.read()


def _exception(stderr: str) -> str:
    """Return the line of a traceback that names the exception, or else the last line."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
    return (named or lines or [""])[-1].strip()


def missing_package(peer: Peer, versions: Mapping[str, str], failed: Mapping[str, str]) -> str:
    """Return why a peer cannot run; empty if it can."""
    if peer.environment == loaders.OWN:
        return ""
    for package in map(package_name, (peer.package, *peer.needs)):
        if package in failed:
            return f"{package} cannot be installed: {failed[package]}"
        if package not in versions:
            return f"{package} is not installed (--install)"
    return ""


def measure(
    chosen: Sequence[Peer],
    run: Callable[[Peer, Mapping[str, object]], dict[str, float]],
    data: Data,
    broken: Mapping[str, str],
) -> dict[str, Measured]:
    """Return all rounds, in turns; a peer that fails once is not run again."""
    measured = {peer.key: Measured([], reason=broken.get(peer.key, "")) for peer in chosen}
    for number in range(FLAGS.rounds):
        for peer in chosen:
            one = measured[peer.key]
            if one.reason:
                continue
            spec = {
                "data": str(data.folder / peer.data),
                "batch_size": FLAGS.batch_size,
                "size": data.size,
                "images": data.images,
                "seconds": FLAGS.seconds,
                "options": dict(peer.options),
            }
            try:
                result = run(peer, spec)
            except DataError as error:
                one.reason = str(error)
                print(f"round {number + 1} {peer.label}: {error}", file=sys.stderr, flush=True)
                continue
            one.speeds.append(result["images"] / result["seconds"])
            one.cpu_ms.append(result["cpu_seconds"] / result["images"] * 1e3)
            one.mean = result["mean"]
            print(f"round {number + 1} {peer.label}: {one.speeds[-1]:.1f} img/s", file=sys.stderr, flush=True)
    return measured


# -- results -----------------------------------------------------------------------------------


def check_same_images(chosen: Sequence[Peer], measured: Mapping[str, Measured]) -> None:
    """Mark the peers whose pixels are not ours, by the mean of all of them."""
    ours = measured["ours"]
    for peer in chosen:
        one = measured[peer.key]
        if one.reason or ours.reason:
            continue
        # `image_dataset_from_directory` leaves the pixels in [0, 255].
        mean = one.mean / 255 if peer.module == "keras_directory" else one.mean
        allowed = _SAME_IMAGES if peer.data == "images" else _SAME_ARRAYS
        if abs(mean - ours.mean) > allowed:
            one.reason = f"gives other pixels: their mean is {mean:.4f}, ours {ours.mean:.4f}"


def make_rows(
    chosen: Sequence[Peer], measured: Mapping[str, Measured], versions: Mapping[str, Mapping[str, str]]
) -> list[Row]:
    """Median and ratios, in the order of `chosen`."""
    reference = None if measured["ours"].reason else statistics.median(measured["ours"].speeds)
    rows = []
    for peer in chosen:
        one = measured[peer.key]
        version = versions[peer.environment].get(package_name(peer.package), "")
        common = (peer.key, peer.label, version, peer.uncached)
        if one.reason:
            rows.append(Row(*common, None, None, None, None, None, peer.note, one.reason))
            continue
        median = statistics.median(one.speeds)
        ratio = reference / median if reference else None
        numbers = (median, min(one.speeds), max(one.speeds), ratio, statistics.median(one.cpu_ms))
        rows.append(Row(*common, *numbers, peer.note, one.reason))
    return rows


def rows_to_text(rows: Sequence[Row]) -> str:
    """Return the rows as text."""
    columns = {
        "loader": lambda row: row.name,
        "version": lambda row: row.version,
        "img/s": lambda row: _number(row.images_per_second, 1),
        "slowest": lambda row: _number(row.slowest, 1),
        "fastest": lambda row: _number(row.fastest, 1),
        "ours / it": lambda row: _number(row.ratio, 2),
        "CPU ms": lambda row: _number(row.cpu_ms, 2),
        "": lambda row: f"not measured: {row.reason}" if row.reason else row.note,
    }
    return output.table(rows, columns)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def verdict(rows: Sequence[Row]) -> str:
    """Name the nearest peer that reads from storage, and all that come closer than the target."""
    rivals = [row for row in rows if row.uncached and row.ratio and not row.key.startswith("ours")]
    if not rivals:
        return "No peer was measured."
    rivals.sort(key=lambda row: row.ratio or 0)
    nearest = rivals[0]
    text = f"Nearest from uncached storage: {nearest.name}; ours is {nearest.ratio:.2f} times as fast."
    closer = [f"{row.name} ({row.ratio:.2f})" for row in rivals if (row.ratio or 0) < TARGET]
    if closer:
        return f"{text} Closer than {TARGET}: {', '.join(closer)}."
    return f"{text} All {len(rivals)} are at least {TARGET} times slower."


def choose(keys: Sequence[str]) -> list[Peer]:
    """Return the peers of --peers, ours always among them.

    Raises:
      UsageError: one is not known.
    """
    known = [peer.key for peer in loaders.PEERS]
    for key in keys:
        if key not in known:
            raise UsageError(f"--peers={key}: choose from {', '.join(known)}")
    return [peer for peer in loaders.PEERS if not keys or peer.key in keys or peer.key == "ours"]


def main() -> list[dict[str, object]]:
    """Read the flags, prepare data and packages, measure, print a table and return it for JSON."""
    chosen = choose(FLAGS.peers)
    if FLAGS.batch_size < 1 or FLAGS.images < 6 or FLAGS.images % FLAGS.batch_size:
        raise UsageError(
            f"--images={FLAGS.images}: choose a multiple of --batch_size={FLAGS.batch_size}, at least 6"
        )
    if FLAGS.rounds < 1 or FLAGS.seconds <= 0:
        raise UsageError("--rounds and --seconds must be above 0")
    environment = Environment(Path(FLAGS.environment))
    if FLAGS.install and any(peer.environment != loaders.OWN for peer in chosen):
        environment.install(loaders.PINS)
    pythons = {loaders.OWN: sys.executable, "": str(environment.python)}
    theirs = environment.versions()
    broken = {peer.key: missing_package(peer, theirs, environment.failed) for peer in chosen}

    def run(peer: Peer, spec: Mapping[str, object]) -> dict[str, float]:
        return run_worker(pythons[peer.environment], peer, spec)

    data, unwritten = prepare(Path(FLAGS.scratch), FLAGS.images, FLAGS.image_size, chosen, broken, run)
    broken.update(unwritten)
    measured = measure(chosen, run, data, broken)
    check_same_images(chosen, measured)
    own = {package_name(entry.name): entry.version for entry in metadata.distributions()}
    rows = make_rows(chosen, measured, {loaders.OWN: own, "": theirs})
    megabytes = FLAGS.batch_size * data.image_bytes / 1e6
    print(
        f"{data.images} images, batches of {FLAGS.batch_size} ({megabytes:.1f} MB float32), "
        f"{FLAGS.rounds} rounds in turns, full epochs, page cache warm"
    )
    print(rows_to_text(rows))
    print(verdict(rows))
    return [asdict(row) for row in rows]
