"""Frozen layers: they keep all they know, cost no backward pass, and join later as if new."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import registered

from cxr_data.core.errors import UsageError
from cxr_train.engine.step import TrainStep
from cxr_train.models.classifier import build_model
from cxr_train.models.freeze import layers_to_freeze, set_trainable
from cxr_train.recipe.loss_scale import LossScale

SIZE = 16


def three_convolutions(*, include_top, weights, input_tensor) -> keras.Model:
    x = input_tensor
    for number in (1, 2, 3):
        x = keras.layers.Conv2D(4, 3, activation="relu", name=f"block{number}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"block{number}_bn")(x)
    return keras.Model(input_tensor, x)


@pytest.fixture(scope="module", autouse=True)
def three():
    with registered("three", three_convolutions, smallest_image=8):
        yield


def model_of(strategy: tf.distribute.Strategy) -> keras.Model:
    keras.utils.set_random_seed(0)
    with strategy.scope():
        return build_model("three", classes=3, image_size=SIZE, head=(5,))


def batch(count: int = 4) -> dict[str, tf.Tensor]:
    generator = np.random.default_rng(0)
    return {
        "image": tf.constant(generator.random([count, SIZE, SIZE, 3], np.float32)),
        "label": tf.constant(generator.integers(0, 3, count), tf.int32),
        "weight": tf.ones(count),
    }


@pytest.mark.parametrize(
    ("rule", "first_trained"),
    [("none", "image"), ("until:block2_conv", "block2_bn"), ("backbone", "pooling")],
)
def test_a_rule_names_a_layer_and_all_before_it(rule, first_trained):
    model = model_of(tf.distribute.get_strategy())
    frozen = layers_to_freeze(model, rule)
    assert frozen == model.layers[: len(frozen)]
    assert model.layers[len(frozen)].name == first_trained


def test_an_unknown_layer_is_answered_with_the_nearest_names():
    model = model_of(tf.distribute.get_strategy())
    with pytest.raises(UsageError, match="--freeze=until:blok2_conv: .* block2_conv, ") as caught:
        layers_to_freeze(model, "until:blok2_conv")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="--freeze=until:head_1: "):
        layers_to_freeze(model, "until:head_1")


@pytest.mark.parametrize(("rule", "trained"), [("none", 3), ("until:block2_bn", 1), ("backbone", 0)])
def test_a_step_computes_no_gradient_of_a_frozen_layer(rule, trained):
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    model = model_of(strategy)
    set_trainable(layers_to_freeze(model, rule), False)
    step = TrainStep(
        model,
        keras.optimizers.SGD(0.1),
        LossScale(1.0, dynamic=False),
        strategy,
        compile=False,
        global_batch=4,
    )
    graph = step.compiled_step.get_concrete_function(batch(), None).graph
    types = [operation.type for operation in graph.get_operations()]
    for backward in ("Conv2DBackpropFilter", "Conv2DBackpropInput"):
        assert types.count(backward) == trained


@pytest.mark.parametrize("replicas", [1, 2])  # a mirrored strategy of one has its own path
def test_frozen_weights_and_statistics_stay_and_the_rest_moves(replicas):
    cpus = [cpu.name for cpu in tf.config.list_logical_devices("CPU")][:replicas]
    reduction = tf.distribute.HierarchicalCopyAllReduce()
    strategy = tf.distribute.MirroredStrategy(cpus, cross_device_ops=reduction)
    model = model_of(strategy)
    before = {variable.path: variable.numpy() for variable in model.variables}
    set_trainable(layers_to_freeze(model, "until:block2_bn"), False)
    with strategy.scope():
        optimizer, scale = keras.optimizers.Adam(0.01), LossScale(1.0, dynamic=False)
    step = TrainStep(model, optimizer, scale, strategy, compile=False, global_batch=4)
    data = tf.data.Dataset.from_tensors(batch()).repeat(3).unbatch().batch(4, drop_remainder=True)
    step(iter(strategy.experimental_distribute_dataset(data)), 3)
    frozen = {variable.path for layer in model.layers[:5] for variable in layer.variables}
    assert len(frozen) == 12
    for variable in model.variables:
        same = (variable.numpy() == before[variable.path]).all()
        assert same == (variable.path in frozen), variable.path


def two_dropouts(*, include_top, weights, input_tensor) -> keras.Model:
    x = keras.layers.Conv2D(4, 3, name="conv")(input_tensor)
    x = keras.layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name="drop1")(x)
    return keras.Model(input_tensor, keras.layers.Dropout(0.5, name="drop2")(x))


def test_a_frozen_dropout_drops_nothing_until_it_is_freed(tmp_path):
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with registered("three", two_dropouts, smallest_image=8):
        model = model_of(strategy)
    item = batch()
    inferred = tf.nn.sparse_softmax_cross_entropy_with_logits(item["label"], model(item["image"]))
    whole = layers_to_freeze(model, "backbone")
    still = keras.optimizers.SGD(0.0)
    step = TrainStep(model, still, LossScale(1.0, dynamic=False), strategy, compile=False, global_batch=4)

    def loss() -> float:
        step.retrace(compile=False)
        return float(step(iter(tf.data.Dataset.from_tensors(item)), 1).loss[0])

    def draws() -> list[int]:
        return [int(model.get_layer(name).seed_generator.state[1]) for name in ("drop1", "drop2")]

    set_trainable(whole, False)
    assert loss() == pytest.approx(float(tf.reduce_sum(inferred)), rel=1e-6)
    assert draws() == [0, 0]
    model.save(tmp_path / "frozen.keras")
    saved = keras.saving.load_model(tmp_path / "frozen.keras")
    assert saved.get_layer("drop1").rate == 0.5
    set_trainable(whole, True)
    assert loss() != pytest.approx(float(tf.reduce_sum(inferred)), rel=1e-6)
    assert draws() == [1, 1]
    set_trainable(layers_to_freeze(model, "until:drop1"), False)
    loss()
    assert draws() == [1, 2]
