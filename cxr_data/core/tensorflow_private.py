"""Names of TensorFlow and Keras that are not public, each used because there is no public one.

Written for TensorFlow 2.17.1, tensorflow-io 0.37.1 and Keras 3.15.1. No other file uses such a name,
and every function here has a test of its own: an upgrade fails there, and is repaired here. What is
imported is imported by the function that needs it, since importing TensorFlow takes seconds.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any


def load_io_library() -> None:
    """Load tensorflow-io's library, which its own import only tries, and warns.

    Raises:
      ImportError, NotImplementedError, tf.errors.OpError: it does not fit this TensorFlow.
    """
    from tensorflow_io.python.ops import core_ops

    core_ops._load()


def cancellation_manager() -> Any:
    """Return what cancels a call from another thread, by its method `start_cancel`."""
    from tensorflow.python.eager import cancellation

    return cancellation.CancellationManager()


def call_cancellable(function: Any, cancelled_by: Any) -> list[Any]:
    """Call a concrete function without arguments, which may be cancelled from another thread.

    TensorFlow's `CancellationManagerContext` would hold for what all threads call meanwhile: the end of an
    epoch cancelled the trainer's step.

    Args:
      function: a `tf.types.experimental.ConcreteFunction`.
      cancelled_by: of `cancellation_manager`.

    Returns:
      The tensors that it puts out.

    Raises:
      tf.errors.CancelledError: it was cancelled.
    """
    from tensorflow.python.eager import context, execute

    name = function.function_def.signature.name
    outputs: list[Any] = execute.execute_with_cancellation(
        name, len(function.outputs), function.captured_inputs, (), context.context(), cancelled_by
    )
    return outputs


def workers_of(dispatcher: Any) -> int:
    """Count the workers that have reported to a `tf.data.experimental.service.DispatchServer`."""
    return int(dispatcher._num_workers())


def sleep_before_each(seconds: float) -> Callable[[Any], Any]:
    """Return a transformation, for `tf.data.Dataset.apply`, that sleeps before each element.

    A Python function that sleeps would hold the interpreter's lock, or wait for it.
    """
    from tensorflow.python.data.experimental.ops.testing import sleep

    transformation: Callable[[Any], Any] = sleep(int(seconds * 1e6))
    return transformation


def memory_limits(device_type: str) -> list[int]:
    """Return the bytes that TensorFlow may use of each device, such as of type "GPU"."""
    from tensorflow.python.client import device_lib

    devices = device_lib.list_local_devices()
    return [int(device.memory_limit) for device in devices if device.device_type == device_type]


def number_names_from(number: int, *, multiple_of: int) -> None:
    """Make TensorFlow number the names that it makes unique from at least `number`, a multiple.

    Names of traced functions are among them, and their number is that of all tensors and functions before.
    """
    from tensorflow.python.framework import ops

    # It can only be counted up, one by one: a million in 0.13 s.
    while (reached := ops.uid() + 1) < number or reached % multiple_of:
        pass


def with_constant_variables(function: Any) -> Any:
    """Return a concrete function with its variables' values in it, as converters to other formats need."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function)


def calls_of(model: Any) -> Iterator[Any]:
    """Yield the calls of a functional `keras.Model`, inputs first, in the order of the forward pass.

    A call has `operation`, `input_tensors` and `outputs`. Keras keeps them by depth, and publishes no way
    to them: a layer knows its last call only.
    """
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]


def is_abstract() -> bool:
    """Return whether what is built now has shapes and no values: in a `keras.StatelessScope`."""
    from keras.src.backend.common.stateless_scope import in_stateless_scope

    return bool(in_stateless_scope())


def replace_call(layer: Any, call: Callable[..., Any] | None) -> None:
    """Let a layer of one model compute something else, or its own again.

    Nothing of it is saved with the model, unlike with another layer or with other values of its settings.

    Args:
      layer: a `keras.layers.Layer`.
      call: in the place of its method; None for the method.
    """
    layer.__dict__.pop("call", None)
    if call is not None:
        layer.call = call


def take_reduced_gradients(optimizer: Any) -> None:
    """Make a Keras optimizer's `apply` take gradients that are already summed over the replicas.

    Keras sums them itself, as its last step before the update. By then it is too late to check the sum
    for overflow or to clip it by its norm.
    """
    if not callable(getattr(optimizer, "_all_reduce_sum_gradients", None)):
        raise AttributeError("this Keras sums gradients elsewhere: they would be summed twice")
    optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables


def adam_moments(optimizer: Any, variable: Any) -> tuple[Any, Any]:
    """Return the first and second moment, TensorFlow variables, that Keras' Adam keeps of a variable."""
    index = optimizer._get_variable_index(variable)
    momentums: Sequence[Any] = optimizer._momentums
    velocities: Sequence[Any] = optimizer._velocities
    return momentums[index].value, velocities[index].value
