"""Each name of TensorFlow and Keras that is not public still does what we need of it."""

import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from project import ROOT

from cxr_data.core import tensorflow_private


def test_tensorflow_ios_library_loads():
    pytest.importorskip("tensorflow_io")
    tensorflow_private.load_io_library()
    from tensorflow_io.python.ops import core_ops

    assert hasattr(core_ops, "io_decode_dicom_image")


def test_a_call_is_cancelled_from_another_thread_and_nobody_elses():
    endless = iter(tf.data.Dataset.range(1).apply(tensorflow_private.sleep_before_each(600)))
    ask = tf.function(lambda: endless.get_next()).get_concrete_function()
    manager = tensorflow_private.cancellation_manager()
    ended = []

    def call() -> None:
        try:
            tensorflow_private.call_cancellable(ask, manager)
        except tf.errors.CancelledError:
            ended.append("cancelled")

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    time.sleep(0.2)
    assert thread.is_alive()
    manager.start_cancel()
    thread.join(30)
    assert ended == ["cancelled"]
    other = tf.function(lambda: tf.constant(3)).get_concrete_function()
    (three,) = tensorflow_private.call_cancellable(other, tensorflow_private.cancellation_manager())
    assert int(three) == 3


def test_a_dispatcher_counts_its_workers():
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=0))
    assert tensorflow_private.workers_of(dispatcher) == 0
    address = dispatcher.target.removeprefix("grpc://")
    worker = service.WorkerServer(service.WorkerConfig(dispatcher_address=address))
    deadline = time.monotonic() + 30
    while tensorflow_private.workers_of(dispatcher) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    del worker


def test_a_dataset_sleeps_before_each_element():
    begun = time.monotonic()
    assert len(list(tf.data.Dataset.range(4).apply(tensorflow_private.sleep_before_each(0.05)))) == 4
    assert time.monotonic() - begun >= 0.2


def test_devices_have_a_memory_limit():
    (limit,) = tensorflow_private.memory_limits("CPU")[:1]
    assert limit > 1 << 20
    assert tensorflow_private.memory_limits("none of this type") == []


def test_variables_become_constants():
    variable = tf.Variable(2.0)
    doubled = tf.function(lambda x: x * variable, input_signature=[tf.TensorSpec([], tf.float32)])
    frozen = tensorflow_private.with_constant_variables(doubled.get_concrete_function())
    variable.assign(5.0)
    assert not frozen.variables
    assert float(frozen(tf.constant(3.0))[0]) == 6.0


def test_the_calls_of_a_model_come_in_the_order_of_the_forward_pass():
    image = keras.Input([4, 4, 3])
    shared = keras.layers.Dense(3, name="shared")
    merged = keras.layers.Add(name="sum")([shared(image), shared(shared(image))])
    calls = list(tensorflow_private.calls_of(keras.Model(image, merged)))
    assert [call.operation.name for call in calls][1:] == ["shared", "shared", "shared", "sum"]
    known = {id(image)}
    for call in calls:
        assert known.issuperset(map(id, call.input_tensors))
        known.update(map(id, call.outputs))
    assert id(merged) in known


def test_what_is_built_in_a_stateless_scope_is_abstract():
    assert not tensorflow_private.is_abstract()
    with keras.StatelessScope():
        assert tensorflow_private.is_abstract()


def test_a_replaced_call_is_used_and_given_back():
    layer = keras.layers.Dropout(0.5, seed=1)
    ones = np.ones([1, 100], np.float32)
    tensorflow_private.replace_call(layer, lambda inputs, training=False: inputs)
    np.testing.assert_array_equal(layer(ones, training=True), ones)
    tensorflow_private.replace_call(layer, None)
    assert (np.asarray(layer(ones, training=True)) == 0).any()
    assert layer.get_config() == keras.layers.Dropout(0.5, seed=1, name=layer.name).get_config()


@pytest.mark.parametrize("reduced", [True, False])
def test_gradients_are_not_summed_a_second_time(reduced):
    cpus = [cpu.name for cpu in tf.config.list_logical_devices("CPU")][:2]
    reduction = tf.distribute.HierarchicalCopyAllReduce()
    strategy = tf.distribute.MirroredStrategy(cpus, cross_device_ops=reduction)
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        variable, optimizer = keras.Variable([1.0]), keras.optimizers.SGD(0.25)
        optimizer.build([variable])
    if reduced:
        tensorflow_private.take_reduced_gradients(optimizer)
    strategy.run(tf.function(lambda: optimizer.apply([tf.constant([1.0])], [variable])))
    assert float(variable[0]) == (0.75 if reduced else 0.5)


def test_another_keras_is_not_left_to_sum_twice():
    with pytest.raises(AttributeError):
        tensorflow_private.take_reduced_gradients(object())


def test_the_moments_of_adam():
    first, second = keras.Variable([1.0]), keras.Variable([1.0])
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build([first, second])
    optimizer.apply([tf.constant([2.0]), tf.constant([4.0])], [first, second])
    for variable, gradient in ((first, 2.0), (second, 4.0)):
        momentum, velocity = tensorflow_private.adam_moments(optimizer, variable)
        np.testing.assert_allclose(momentum, (1 - optimizer.beta_1) * gradient, rtol=1e-5)
        np.testing.assert_allclose(velocity, (1 - optimizer.beta_2) * gradient**2, rtol=1e-4)
        assert momentum.handle is not None


def test_no_other_file_uses_such_names():
    owner = ROOT / "cxr_data" / "core" / "tensorflow_private.py"
    names = ("tensorflow.python", "tensorflow_io.python", "_all_reduce_sum_gradients", "_nodes_by_depth")
    names += ("_momentums", "_velocities", "_get_variable_index", "_num_workers(", ".call = ")
    for name in names:
        assert name in owner.read_text()
        for package in ("cxr_data", "cxr_train"):
            users = [path for path in (ROOT / package).rglob("*.py") if name in path.read_text()]
            assert [path for path in users if path != owner] == [], name


def test_names_count_on_from_a_number():
    tensorflow_private.number_names_from(20_000, multiple_of=10_000)
    traced = tf.function(lambda: tf.constant(3)).get_concrete_function()
    number = int(traced.function_def.signature.name.rsplit("_", 1)[1])
    assert number >= 20_000
    assert number % 10_000 < 100
