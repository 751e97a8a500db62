"""Where the network runs and how it is computed there; `auto` says what it chose and why."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from cxr_data.core.choice import Choice
from cxr_data.core.errors import UsageError
from cxr_data.core.settings import check_choice
from cxr_train.engine.cluster import (
    TF_CONFIG_EXAMPLE,
    Cluster,
    gather_from_workers,
    join_cluster,
    read_cluster,
)
from cxr_train.engine.placement_names import PRECISIONS, STRATEGIES, XLA

# Tensor cores for float16 came with Volta (7.0), for bfloat16 with Ampere (8.0).
_FLOAT16_CAPABILITY = (7, 0)
_BFLOAT16_CAPABILITY = (8, 0)

# TensorFlow's copy to a GPU waits for all steps launched before it (`sync_dst_compute` in its
# rendezvous manager), so that one that is asked for during a step runs beside the next. With one batch
# ahead, that next step would be waiting for it.
GPU_BATCHES_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where and how a run computes.

    Attributes:
      strategy: the `tf.distribute` strategy; its scope is open while the model is built.
      policy: Keras dtype policy.
      compile: whether XLA compiles the step.
      choices: every choice made, for the log and the report.
      cluster: the processes that share the work; this one alone by default.
    """

    strategy: tf.distribute.Strategy
    policy: str
    compile: bool
    choices: tuple[Choice, ...]
    cluster: Cluster = Cluster()  # noqa: RUF009  (frozen)

    @property
    def replicas(self) -> int:
        """Number of replicas that share a global batch, over all workers."""
        return self.strategy.num_replicas_in_sync

    @property
    def steps_in_flight(self) -> int:
        """How many steps the host may launch before it knows the loss of the first of them.

        One where the host itself computes them: a step has ended there when its launch returns.
        """
        return 2 if self.on_accelerators else 1

    @property
    def batches_ahead(self) -> int:
        """How many batches lie on each replica's device besides the current one: TensorFlow's 1 on a CPU."""
        return GPU_BATCHES_AHEAD if self.on_accelerators else 1

    @property
    def on_accelerators(self) -> bool:
        """Whether any replica computes on another device than a CPU."""
        devices = map(tf.DeviceSpec.from_string, self.strategy.extended.worker_devices)
        return any(device.device_type != "CPU" for device in devices)

    def choice(self, flag: str) -> Choice:
        """Return what was chosen for a flag, and why. Raises KeyError: nothing was."""
        return {choice.flag: choice for choice in self.choices}[flag]

    def distribute(self, dataset: tf.data.Dataset) -> Any:
        """Bring batches to the replicas' devices, `batches_ahead` of them before they are asked for.

        Args:
          dataset: this worker's part of each global batch, of static shape.

        Returns:
          An iterable over distributed batches.
        """
        ahead = tf.distribute.InputOptions(experimental_per_replica_buffer_size=self.batches_ahead)
        if self.cluster.size == 1:
            return self.strategy.experimental_distribute_dataset(dataset, ahead)
        part: int = dataset.element_spec["label"].shape[0]
        per_replica = part * self.cluster.size // self.replicas
        if per_replica != part:
            dataset = dataset.rebatch(per_replica, drop_remainder=True)
        return self.strategy.distribute_datasets_from_function(lambda context: dataset, ahead)

    def gather(self, value: np.ndarray) -> np.ndarray:
        """Bring the value [...] of each worker to all, [workers, ...]: see `gather_from_workers`."""
        if self.cluster.size == 1:
            return value[None]
        return gather_from_workers(self.strategy, self.cluster, value)

    def largest(self, value: float) -> float:
        """Return the largest of the workers' values; each worker must call it at the same point."""
        return float(self.gather(np.array(value, np.float64)).max())

    def smallest(self, value: float) -> float:
        """Return the smallest of the workers' values; each worker must call it at the same point."""
        return -self.largest(-value)

    def any(self, value: bool) -> bool:
        """Whether it is so on any worker; each must call it at the same point."""
        return bool(self.largest(value))

    def wait(self) -> None:
        """Return once all workers have come here."""
        self.largest(0.0)

    @contextlib.contextmanager
    def chief_first(self) -> Iterator[None]:
        """Let the chief go through the context first, then the other workers, who see what it has done."""
        if not self.cluster.is_chief:
            self.wait()
        yield
        if self.cluster.is_chief:
            self.wait()


def split_cpu(replicas: int) -> None:
    """Present the CPU as several logical devices, to run several replicas without a GPU.

    Raises:
      UsageError: TensorFlow has already started its devices.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    except RuntimeError as error:
        raise UsageError("--logical_devices must be set before TensorFlow starts its devices") from error


def hold_gpus(memory_gb: float) -> None:
    """Let this process use at most a number of GB (1e9 bytes) of each GPU, as if it had no more.

    Raises:
      UsageError: TensorFlow has already started its devices.
    """
    limit = tf.config.LogicalDeviceConfiguration(memory_limit=max(int(memory_gb * 1e9 / 2**20), 1))
    try:
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.set_logical_device_configuration(gpu, [limit])
    except RuntimeError as error:
        raise UsageError("--memory_gb must be set before TensorFlow starts its devices") from error


def check_logical_devices(count: int, placement: Placement) -> None:
    """Raise UsageError if the CPU was split into devices of which only one is used, or none."""
    if count == 1:
        return
    if tf.config.list_physical_devices("GPU"):
        raise UsageError(f"--logical_devices={count}: splits the CPU, and this machine trains on its GPU")
    if placement.choice("strategy").value == "one":
        raise UsageError(f"--logical_devices={count}: only one would be used; add --strategy=mirrored")


def choose_placement(strategy: str, precision: str, xla: str) -> Placement:
    """Turn the three flags into a placement on the devices of this machine, and of the cluster's others.

    With several workers, it waits for all of them, and TensorFlow must not have started its
    devices yet.

    Raises:
      UsageError: a value that is not in `STRATEGIES`, `PRECISIONS` or `XLA`, or a wrong `TF_CONFIG`.
      CxrError: the other workers did not come.
    """
    for flag, value, known in (
        ("strategy", strategy, STRATEGIES),
        ("precision", precision, PRECISIONS),
        ("xla", xla, XLA),
    ):
        check_choice(flag, value, known)
    gpus = tf.config.list_physical_devices("GPU")
    cluster = read_cluster() if strategy in ("auto", "multiworker") else None
    strategy_choice = _choose_strategy(strategy, len(gpus), cluster)
    precision_choice = _choose_precision(precision)
    xla_choice = _choose_xla(xla, bool(gpus))
    if strategy_choice.value != "multiworker":
        cluster = None
    return Placement(
        strategy=join_cluster(cluster) if cluster else _make_strategy(strategy_choice.value),
        policy=precision_choice.value,
        compile=xla_choice.value == "on",
        choices=(strategy_choice, precision_choice, xla_choice),
        cluster=cluster or Cluster(),
    )


def make_deterministic(xla: str) -> tuple[str, Choice]:
    """Make every operation of this process deterministic, before the first one runs.

    Two runs with the same flags on the same device then end with the same bits.

    Args:
      xla: the value of --xla. On a GPU, XLA (TensorFlow 2.17) refuses the gradient of max pooling
        when operations must be deterministic, so `auto` becomes `off` there. On a CPU it
        compiles and its results are the same from run to run.

    Returns:
      The value of --xla to use, and a line that says what was turned off.
    """
    tf.config.experimental.enable_op_determinism()
    turned_off = [
        "operations whose result depends on the order of threads",
        "cuDNN's autotuning",
    ]
    gpus = tf.config.list_physical_devices("GPU")
    if gpus and xla == "auto":
        xla = "off"
        turned_off.append("XLA, which has no deterministic gradient of max pooling")
    if not gpus:
        turned_off = turned_off[:1]
    return xla, Choice("deterministic", f"on; turned off: {', '.join(turned_off)}")


def _choose_strategy(requested: str, gpus: int, cluster: Cluster | None) -> Choice:
    if requested == "multiworker" and cluster is None:
        raise UsageError(
            f"--strategy=multiworker: TF_CONFIG is not set; start each worker with {TF_CONFIG_EXAMPLE}"
        )
    if requested != "auto":
        return Choice("strategy", requested)
    if cluster and cluster.size > 1:
        return Choice("strategy", "multiworker", f"TF_CONFIG names {cluster.size} workers")
    if gpus > 1:
        return Choice("strategy", "mirrored", f"{gpus} GPUs")
    return Choice("strategy", "one", "one GPU" if gpus else "no GPU")


def _choose_precision(requested: str) -> Choice:
    if requested != "auto":
        return Choice("precision", requested)
    capability = _weakest_compute_capability()
    if capability is None:
        return Choice("precision", "float32", "a CPU gains little from 16 bits")
    version = ".".join(map(str, capability))
    if capability >= _BFLOAT16_CAPABILITY:
        return Choice("precision", "mixed_bfloat16", f"compute capability {version}, no loss scaling needed")
    if capability >= _FLOAT16_CAPABILITY:
        return Choice("precision", "mixed_float16", f"compute capability {version}")
    return Choice("precision", "float32", f"compute capability {version} has no 16-bit tensor cores")


def _choose_xla(requested: str, has_gpu: bool) -> Choice:
    if requested != "auto":
        return Choice("xla", requested)
    if has_gpu:
        return Choice("xla", "on", "a GPU gains from fusion")
    return Choice("xla", "off", "on a CPU oneDNN is 10 to 20 times faster than XLA's convolutions")


def _weakest_compute_capability() -> tuple[int, int] | None:
    details = [
        tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")
    ]
    return min((detail.get("compute_capability", (0, 0)) for detail in details), default=None)


def _make_strategy(name: str) -> tf.distribute.Strategy:
    if name == "one":
        gpus = tf.config.list_logical_devices("GPU")
        return tf.distribute.OneDeviceStrategy(gpus[0].name if gpus else "/cpu:0")
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])
    # NCCL is for GPUs, and the default reduction to one CPU device deadlocks when
    # several steps run in one call.
    cpus = [cpu.name for cpu in tf.config.list_logical_devices("CPU")]
    return tf.distribute.MirroredStrategy(cpus, cross_device_ops=tf.distribute.HierarchicalCopyAllReduce())
