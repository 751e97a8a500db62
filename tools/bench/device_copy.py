"""Whether this machine copies to its GPU while the GPU computes: the limit of what a trainer can reach.

From page-locked memory, as the readers use it, and by TensorFlow's own copy. Nothing else of this project
takes part: what the trainer loses beyond this is its own.
"""

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
import tensorflow as tf

from cxr_data.core import page_locked
from cxr_data.core.errors import CxrError
from tools.bench import process

# So long that starting a thread, and a launch, do not count.
_BYTES = 1 << 30
_WIDTH = 8192
# How long the kernels last, in copies.
_COPIES = 3
_ROUNDS = 5
# After so long the copy is under way: TensorFlow's waits for all kernels that were launched before it.
_HEAD_START_S = 1e-3


@dataclasses.dataclass(frozen=True)
class CopyTimes:
    """Seconds, the least of some rounds.

    Attributes:
      bytes: that were copied.
      copy_seconds, compute_seconds: of the copy and of the kernels alone.
      both_seconds: of both, begun together.
    """

    bytes: int
    copy_seconds: float
    compute_seconds: float
    both_seconds: float

    @property
    def beside(self) -> float:
        """The share of the copy that ran beside the kernels: 1 if both took as long as the kernels alone."""
        return (self.copy_seconds + self.compute_seconds - self.both_seconds) / self.copy_seconds

    def __str__(self) -> str:
        speed = self.bytes / 1e9 / self.copy_seconds
        alone, kernels, both = (
            f"{seconds * 1e3:.1f} ms"
            for seconds in (self.copy_seconds, self.compute_seconds, self.both_seconds)
        )
        return (
            f"{self.bytes / 1e6:,.0f} MB at {speed:.1f} GB/s in {alone}, kernels in {kernels}, both at once "
            f"in {both}: {self.beside:.0%} of the copy ran beside the kernels"
        )


def measure_copy(device: str, *, size: int = _BYTES, width: int = _WIDTH, rounds: int = _ROUNDS) -> CopyTimes:
    """Measure a copy to a device, kernels on it, and both at once.

    Args:
      device: such as `/GPU:0`, on which this process has computed already.
      size: bytes of the copy, a multiple of 4.
      width: of the square matrices that the kernels multiply.
      rounds: of each measurement.
    """
    memory = page_locked.empty(size).view(np.float32)
    memory[:] = 1.0
    # A tensor on this very memory, as the readers' batches are.
    dataset = tf.data.Dataset.range(1).map(lambda _: tf.numpy_function(lambda: memory, [], tf.float32))
    on_host = next(iter(dataset))
    with tf.device(device):
        matrix = tf.fill([width, width], tf.constant(1 / width, tf.bfloat16))

    @tf.function
    def multiply(times: tf.Tensor) -> tf.Tensor:
        product = matrix
        for _ in tf.range(times):
            product = tf.matmul(product, matrix)
        return tf.cast(product[0, 0], tf.float32)

    def compute(times: int) -> None:
        with tf.device(device):
            multiply(tf.constant(times)).numpy()

    def copy() -> None:
        with tf.device(device):
            tf.identity(on_host)

    def both(times: int, pool: concurrent.futures.Executor) -> None:
        copied = pool.submit(copy)
        time.sleep(_HEAD_START_S)
        compute(times)
        copied.result()

    copy_seconds = _least(copy, rounds)
    compute(1)
    times = max(int(_COPIES * copy_seconds / (_least(lambda: compute(8), rounds) / 8)), 1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return CopyTimes(
            size,
            copy_seconds,
            _least(lambda: compute(times), rounds),
            _least(lambda: both(times, pool), rounds),
        )


def _least(work: Callable[[], None], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def run_copy(connection: Connection, log: str) -> None:
    """Answer its turn by a `CopyTimes` of the first GPU; see `process.Process`."""
    process.begin(log)
    try:
        with tf.device("/GPU:0"):
            tf.zeros([1]).numpy()
        connection.send([])
        connection.send(None)
        if connection.recv():
            connection.send(measure_copy("/GPU:0"))
    except tf.errors.OpError as error:
        connection.send(CxrError(f"the copy was not measured: {error.message.splitlines()[0][:200]}"))
