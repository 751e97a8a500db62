"""The processes that train one model together, as `TF_CONFIG` names them.

Each of them, a worker, runs the same program in lockstep: the same host calls of the same number of
steps, each on its own part of every global batch. What one worker alone knows (a signal, a clock, its
part of the predictions) is brought to all of them by `gather_from_workers`, so that all decide the
same. Only the chief, worker 0, writes.

TensorFlow's coordination service notices a worker that is lost: a broken connection at once, a
silent one after ten seconds. The collective operations of all others then fail.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import re
import signal
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from cxr_data.core.errors import CxrError, UsageError
from cxr_data.input.order import InputWorker

logger = logging.getLogger(__name__)

TF_CONFIG_EXAMPLE = (
    """TF_CONFIG='{"cluster": {"worker": ["host0:2222", "host1:2222"]}, """
    """"task": {"type": "worker", "index": 0}}'"""
)
# The first is the coordination service's report, the second that of a broken connection.
_REPORTED_TASK = re.compile(r"(?:reported from|remote target) (/job:\w+)(?:/replica:\d+)?(/task:\d+)")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run, and which of them this process is.

    Attributes:
      addresses: `host:port` of each worker, the chief's first.
      tasks: TensorFlow's names of them.
      number: of this worker, from 0.
    """

    addresses: tuple[str, ...] = ("this process",)
    tasks: tuple[str, ...] = ("/job:localhost/task:0",)
    number: int = 0

    @property
    def size(self) -> int:
        """How many workers there are."""
        return len(self.addresses)

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the one that writes."""
        return self.number == 0

    @property
    def input_worker(self) -> InputWorker:
        """Which part of each global batch this worker reads."""
        return InputWorker(self.number, self.size)

    def name(self, number: int) -> str:
        """Return a worker in words."""
        return f"worker {number} ({self.addresses[number]})"


def read_cluster() -> Cluster | None:
    """Read `TF_CONFIG` from the environment; None where it is not set or names no cluster.

    Its form is TensorFlow's: `cluster` lists the addresses of the jobs `worker` and, if the chief is
    not worker 0, `chief`; `task` says which of them this process is.

    Raises:
      UsageError: it is set, and says something else.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return None
    try:
        config = json.loads(text)
        jobs = dict(config.get("cluster") or {})
        task = dict(config.get("task") or {})
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"TF_CONFIG is not a cluster in JSON ({error}); write {TF_CONFIG_EXAMPLE}"
        ) from error
    if not jobs:
        return None
    if unknown := jobs.keys() - {"chief", "worker"}:
        raise UsageError(
            f"TF_CONFIG names the job {min(unknown)!r}: only workers (and one chief) train; "
            f"write {TF_CONFIG_EXAMPLE}"
        )
    for job, hosts in jobs.items():
        if not isinstance(hosts, list):
            raise UsageError(f"TF_CONFIG has no list of addresses for {job!r}; write {TF_CONFIG_EXAMPLE}")
    # TensorFlow counts in this order too.
    places = [(job, index) for job in ("chief", "worker") for index in range(len(jobs.get(job, ())))]
    addresses = tuple(jobs[job][index] for job, index in places)
    for address in addresses:
        if not re.fullmatch(r"\S+:\d+", str(address)):
            raise UsageError(
                f"TF_CONFIG has the address {address!r}: write host:port, as in {TF_CONFIG_EXAMPLE}"
            )
        if addresses.count(address) > 1:
            raise UsageError(
                f"TF_CONFIG has the address {address!r} twice: each worker needs its own host:port"
            )
    index = task.get("index")
    # As TensorFlow takes it: templates often write it as a text.
    place = (task.get("type"), int(index) if isinstance(index, str) and index.isdecimal() else index)
    if place not in places:
        raise UsageError(
            f"TF_CONFIG says that this process is task {place[1]} of job {place[0]!r}, which its cluster of "
            f"{len(addresses)} lacks; write {TF_CONFIG_EXAMPLE}"
        )
    tasks = tuple(f"/job:{job}/task:{index}" for job, index in places)
    return Cluster(addresses, tasks, places.index(place))


def join_cluster(cluster: Cluster) -> tf.distribute.Strategy:
    """Start this worker's server and wait until all workers have come, at most an hour.

    TensorFlow must not have started its devices yet.

    Raises:
      CxrError: the port is taken, or not all of them came.
    """
    me = cluster.name(cluster.number)
    # Python's handler would answer Ctrl-C only once TensorFlow returns; there is nothing to save yet.
    answer = signal.signal(signal.SIGINT, signal.SIG_DFL)
    logger.info("%s of %d waits for the others; worker 0 writes and reports", me, cluster.size)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise CxrError(f"{me} cannot join the others of TF_CONFIG: {reason}") from error
    finally:
        signal.signal(signal.SIGINT, answer)
    # All workers have the same number of batches. By default they would ask each other before every
    # step whether one of them has none left.
    strategy.extended.experimental_enable_get_next_as_optional = False
    return strategy


def gather_from_workers(strategy: tf.distribute.Strategy, cluster: Cluster, value: np.ndarray) -> np.ndarray:
    """Bring the values of all workers to all of them; each must call it at the same point.

    Args:
      value: numbers [...] that float64 holds exactly, of the same shape and dtype on every worker.

    Returns:
      [cluster.size, ...], the same on every worker.
    """
    # Every worker fills its own place and adds nothing to the others'.
    places = np.zeros([cluster.size, value.size])
    places[cluster.number] = value.ravel()
    gathered: np.ndarray = _sum_over_workers(strategy)(places).numpy()
    return gathered.reshape([cluster.size, *value.shape]).astype(value.dtype)


@functools.cache
def _sum_over_workers(strategy: tf.distribute.Strategy) -> tf.types.experimental.PolymorphicFunction:
    local_replicas = len(strategy.extended.worker_devices)

    def of_replica(value: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        # One replica speaks for its worker. (And the sum needs a tensor that has a device.)
        speaks = tf.equal(tf.convert_to_tensor(replica.replica_id_in_sync_group) % local_replicas, 0)
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(speaks, value, tf.zeros_like(value)))

    # One trace for values of any shape.
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float64)])
    def summed(value: tf.Tensor) -> tf.Tensor:
        return strategy.experimental_local_results(strategy.run(of_replica, args=(value,)))[0]

    return summed


@contextlib.contextmanager
def clear_cluster_errors(cluster: Cluster) -> Iterator[None]:
    """Turn the failure of a collective operation into one line that names the lost worker.

    Raises:
      CxrError: in place of `tf.errors.OpError`, if there are several workers and one was lost.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if cluster.size == 1 or not _is_loss_of_a_worker(error):
            raise
        raise CxrError(
            f"{_lost_worker(cluster, error)} was lost (its own output may say why), and worker "
            f"{cluster.number} cannot go on without it; start all {cluster.size} again with --resume"
        ) from error


@contextlib.contextmanager
def only_the_chief_speaks(cluster: Cluster) -> Iterator[None]:
    """Let the other workers log failures only."""
    if cluster.is_chief:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _is_loss_of_a_worker(error: tf.errors.OpError) -> bool:
    broken = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
    return isinstance(error, broken) or "Collective ops is aborted" in error.message


def _lost_worker(cluster: Cluster, error: tf.errors.OpError) -> str:
    """Return the worker that TensorFlow reports; an error that came by way of others names the first cause
    first.
    """
    found = _REPORTED_TASK.search(error.message)
    if found and (task := f"{found[1]}{found[2]}") in cluster.tasks:
        return cluster.name(cluster.tasks.index(task))
    return "another worker"
