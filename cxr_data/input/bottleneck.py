"""What limits the input, in words: each stage is measured by running the input without it.

The pipeline runs with and without each of its stages, a moment each; what a stage costs is
the time an image that goes away with it. Plumber (Kuchnik et al., 2022) and the study of
tf.data (Murray et al., 2021) argue that this beats profiling: stages overlap.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from cxr_data.input.pipeline import Pipeline

# An accelerator that waits for less than this share of its time is not held up.
_LITTLE_IDLE = 0.02
_PREFETCHED_RECORDS = 32
_SECONDS_PER_CALL = 0.1


@dataclasses.dataclass(frozen=True)
class InputRates:
    """What the input delivers alone, and what each of its stages costs.

    Attributes:
      images_per_second: of the whole input, without anything that consumes it.
      stages: seconds an image that go away with each stage, by name.
    """

    images_per_second: float
    stages: dict[str, float]

    @property
    def limit(self) -> str:
        """Return the name of the most expensive stage."""
        return max(self.stages, key=self.stages.__getitem__)

    def costs(self) -> str:
        """Return the stages' shares in words, the most expensive first."""
        total = sum(self.stages.values()) or 1.0
        ranked = sorted(self.stages.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in ranked)


def verdict(rates: InputRates, consumed_per_second: float, idle_share: float, *, on_cpu: bool = False) -> str:
    """Return in words what limits a run.

    Args:
      rates: of the input alone.
      consumed_per_second: images a second that the training consumed.
      idle_share: share of the time, in [0, 1], in which the accelerator was idle for want of a batch.
      on_cpu: whether the CPU, which feeds itself, takes the place of an accelerator.
    """
    bound = "compute-bound on the CPU" if on_cpu else "accelerator-bound"
    device = "network" if on_cpu else "accelerator"
    headroom = rates.images_per_second / consumed_per_second
    alone = f"input alone {rates.images_per_second:.0f} images/s ({rates.costs()})"
    if idle_share < _LITTLE_IDLE:
        return (
            f"{bound}: idle {idle_share:.1%} of the time; input could feed {headroom:.1f}x as much; {alone}"
        )
    return (
        f"{rates.limit}-bound: the {device} is idle {idle_share:.1%} of the time, waiting for its input "
        f"(alone {headroom:.2f}x as fast as the training); {alone}"
    )


def measure_input(
    pipeline: Pipeline,
    split: str,
    *,
    batch_size: int,
    seconds: float = 1.0,
    distribute: Callable[[tf.data.Dataset], Any] = lambda dataset: dataset,
) -> InputRates:
    """Measure the input of `split` on this worker and of its stages (`Reader.stages`), `seconds` each.

    Args:
      batch_size: the global batch.
      distribute: brings a dataset to the devices, such as a strategy's
        `experimental_distribute_dataset`.
    """
    part = pipeline.part_of(batch_size)
    batches = pipeline.training_dataset(split, batch_size=batch_size, seed=0, epoch=0).repeat()
    whole = part * elements_per_second(iter(distribute(batches)), seconds)
    reader = pipeline.reader(split)
    rates = {reader.last_stage: whole}
    for stage, images in reader.stages(pipeline.positions(split), part).items():
        if isinstance(images, tf.data.Dataset):
            endless = images.repeat().prefetch(_PREFETCHED_RECORDS)
            rates[stage] = elements_per_second(iter(endless), seconds)
        else:
            rates[stage] = images_per_second_in_python(images, part, seconds)
    return InputRates(whole, stage_costs(rates))


def stage_costs(rates: dict[str, float]) -> dict[str, float]:
    """Return the seconds an image that each stage costs, 0 or more.

    Args:
      rates: images a second by stage, with this stage and all that follow in the dictionary.
    """
    names = list(rates)
    times = [1 / rate for rate in rates.values()] + [0.0]
    return {name: max(times[i] - times[i + 1], 0.0) for i, name in enumerate(names)}


@tf.function(reduce_retracing=True)
def _take(iterator: Any, count: tf.Tensor) -> tf.Tensor:
    """Take `count` (int32 []) elements, one after the other, and return their number, int32 [].

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
    """Take elements for about `seconds` and return the rate, without the first, which starts everything.

    It takes them as the trainer does, several in one TensorFlow function. A Python loop measures the
    interpreter as well: each batch costs it more than a millisecond of the interpreter lock, which the
    reading threads need too.

    Args:
      iterator: of a `tf.data.Dataset`, or of one that a strategy has distributed; it must not end meanwhile.
      seconds: more than 0.
    """
    _take(iterator, tf.constant(1))
    taken, at_once = 0, 1
    begun = time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < seconds:
        taken += int(_take(iterator, tf.constant(at_once)))
        per_element = (time.perf_counter() - begun) / taken
        at_once = max(int(_SECONDS_PER_CALL / per_element), 1)
    return taken / elapsed


def images_per_second_in_python(batches: Iterator[object], images: int, seconds: float) -> float:
    """Take batches in a Python loop for about `seconds` and return the rate, without the first batch.

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
