"""Takes batches as the trainer does: several in one TensorFlow function.

A Python loop around an iterator measures the interpreter as well: each batch costs it more
than a millisecond of the interpreter lock, which the reading threads need too.
"""

import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_SECONDS_PER_CALL = 0.1


@tf.function(reduce_retracing=True)
def take(iterator: Any, count: tf.Tensor) -> tf.Tensor:
    """Takes `count` (int32 []) elements, one after the other, and returns their number, int32 [].

    Args:
      iterator: of a `tf.data.Dataset`, or of one that a strategy has distributed.
    """
    taken = tf.zeros([], tf.int32)
    for _ in tf.range(count):
        with tf.control_dependencies([taken]):
            element = next(iterator)
        with tf.control_dependencies(tf.nest.flatten(element, expand_composites=True)):
            taken += 1
    return taken


def elements_per_second(iterator: Any, seconds: float) -> float:
    """Takes elements for about `seconds` and returns the rate, without the first, which starts everything.

    Args:
      iterator: as for `take`; it must not end meanwhile.
      seconds: more than 0.
    """
    take(iterator, tf.constant(1))
    taken, at_once = 0, 1
    begun = time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < seconds:
        taken += int(take(iterator, tf.constant(at_once)))
        per_element = (time.perf_counter() - begun) / taken
        at_once = max(int(_SECONDS_PER_CALL / per_element), 1)
    return taken / elapsed


def images_per_second_in_python(batches: Iterator[object], images: int, seconds: float) -> float:
    """Takes batches in a Python loop for about `seconds` and returns the rate, without the first batch.

    Args:
      batches: must not end meanwhile.
      images: in a batch.
      seconds: more than 0.
    """
    next(batches)
    count = 0
    begun = time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < seconds:
        next(batches)
        count += images
    return count / elapsed
