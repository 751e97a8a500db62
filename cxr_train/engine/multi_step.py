"""Several training steps in one host call, and a record of each of them.

An accelerator queues what the host launches. With two steps in flight, a step is launched while the one
before it computes, whose loss is awaited only then: the device finds its next step waiting. TensorFlow's
copy of a result to the host waits for everything that was launched before the copy was asked for, so a
thread asks for each loss as soon as its step is launched, long before the next one is.

The device is idle for want of input from the end of a step to the arrival of the next one's batch, if
that comes later. What is left of a step's time is the compiled step's own.
"""

import collections
import concurrent.futures
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

Batch = dict[str, tf.Tensor]


class Sums(NamedTuple):
    """Sums over the examples of a step, on the device.

    Attributes:
      loss: float32 [], of the per-example loss; of findings, the mean over labels for each example.
      examples: float32 [], of the weights: the number of examples.
      correct: float32 [], of the right predictions; of findings, their share of the labels for each example.
    """

    loss: tf.Tensor
    examples: tf.Tensor
    correct: tf.Tensor


class StepRecords(NamedTuple):
    """What the steps of a host call did, one entry for each step.

    Attributes:
      loss, examples, correct: float64 [K], see `Sums`.
      waited: float64 [K], seconds in which the device was idle since the step's batch was not on it yet.
      seconds: float64 [K], from the end of the step before (or the start of the call) to the arrival of this
        step's loss on the host, the waiting included.
    """

    loss: np.ndarray
    examples: np.ndarray
    correct: np.ndarray
    waited: np.ndarray
    seconds: np.ndarray


class _Ended(NamedTuple):
    """The sums of a step, and the time at which they were on the host."""

    sums: np.ndarray
    time: float

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.sums[0])


def read_sums(sums: Sums) -> np.ndarray:
    """Wait for the sums and return them, float64 [3]."""
    if all(tf.DeviceSpec.from_string(value.device).device_type == "CPU" for value in sums):
        return np.array([value.numpy() for value in sums], np.float64)
    values: np.ndarray = _on_the_host(sums).numpy()
    return values


@tf.function
def _on_the_host(sums: Sums) -> tf.Tensor:
    """Copy the sums to the host, float64 [3]. A function waits without the interpreter's lock."""
    with tf.device("/cpu:0"):
        return tf.stack([tf.cast(value, tf.float64) for value in sums])


def take_steps(
    launch: Callable[[Batch, int], Sums],
    batches: Iterator[Batch],
    steps: range,
    *,
    in_flight: int,
    read: Callable[[Sums], np.ndarray] = read_sums,
) -> StepRecords:
    """Take steps until one of them has a loss that is not finite.

    Args:
      launch: starts the training on a batch, as the step of this number; on an accelerator it returns before
        that ends. After a loss that is not finite it must leave the weights as they are: up to
        `in_flight - 1` steps are launched before the loss is known.
      batches: at least as many as there are steps, each on its device when it comes.
      steps: their numbers.
      in_flight: how many may be launched and not read yet; 1 where `launch` returns with the step's end.
      read: waits for the sums of a step and returns them, float64 [3]; called by another thread if
        several are in flight.

    Returns:
      A record of each step; the one whose loss is not finite is the last.
    """
    begun = time.perf_counter()
    arrived: list[float] = []
    ended: list[_Ended] = []
    reading: collections.deque[concurrent.futures.Future[_Ended]] = collections.deque()

    def wait(sums: Sums) -> _Ended:
        return _Ended(read(sums), time.perf_counter())

    with contextlib.ExitStack() as stack:
        submit: Callable[[Callable[[Sums], _Ended], Sums], concurrent.futures.Future[_Ended]] = _at_once
        if in_flight > 1:
            # One for each step in flight: none may wait for its turn to ask. They end with the call, also
            # where a launch fails.
            submit = stack.enter_context(concurrent.futures.ThreadPoolExecutor(in_flight)).submit
        for number in steps:
            batch = next(batches)
            arrived.append(time.perf_counter())
            reading.append(submit(wait, launch(batch, number)))
            if len(reading) == in_flight:
                ended.append(reading.popleft().result())
                if not ended[-1].is_finite:
                    break
        else:
            ended.extend(future.result() for future in reading)
    finite = [each.is_finite for each in ended]
    last = finite.index(False) + 1 if False in finite else len(ended)
    loss, examples, correct = np.transpose([each.sums for each in ended[:last]])
    ends = np.maximum.accumulate([begun, *(each.time for each in ended[:last])])
    waited = np.maximum(np.array(arrived[:last]) - ends[:-1], 0)
    return StepRecords(loss, examples, correct, waited, np.diff(ends))


def _at_once(wait: Callable[[Sums], _Ended], sums: Sums) -> concurrent.futures.Future[_Ended]:
    future: concurrent.futures.Future[_Ended] = concurrent.futures.Future()
    future.set_result(wait(sums))
    return future
