"""Training steps of a tiny network, on one device and on two, and their slow reference."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from cxr_train.engine.step import TrainStep
from cxr_train.recipe.loss_scale import LossScale

CLASSES = 3
BATCH = 8


def tiny_model(policy: str = "float32", *, batch_norm: bool = False) -> keras.Model:
    """Conv -> (BatchNorm) -> pooling -> logits, with seeded weights."""
    keras.utils.set_random_seed(1)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input([12, 12, 3])
        x = keras.layers.Conv2D(6, 3, activation="relu")(inputs)
        if batch_norm:
            x = keras.layers.BatchNormalization()(x)
        x = keras.layers.GlobalAveragePooling2D(name="pooling")(x)
        return keras.Model(inputs, keras.layers.Dense(CLASSES, dtype="float32")(x))
    finally:
        keras.config.set_dtype_policy(before)


def batches(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    return [
        {
            "image": generator.random([BATCH, 12, 12, 3], np.float32),
            "label": generator.integers(0, CLASSES, BATCH).astype(np.int32),
            "weight": np.ones(BATCH, np.float32),
        }
        for _ in range(count)
    ]


def dataset(items: list[dict[str, np.ndarray]]) -> tf.data.Dataset:
    stacked = {key: np.stack([item[key] for item in items]) for key in items[0]}
    return tf.data.Dataset.from_tensor_slices(stacked)


def train(
    strategy,
    items,
    *,
    compile=False,
    policy="float32",
    batch_norm=False,
    optimizer=None,
    scale=None,
    **options,
):
    """Runs one call of len(items) steps; returns the model, the step and the records of its steps."""
    with strategy.scope():
        model = tiny_model(policy, batch_norm=batch_norm)
        optimizer = optimizer() if optimizer else keras.optimizers.SGD(0.1)
        loss_scale = scale() if scale else LossScale.for_policy(policy)
    step = TrainStep(model, optimizer, loss_scale, strategy, compile=compile, global_batch=BATCH, **options)
    iterator = iter(strategy.experimental_distribute_dataset(dataset(items)))
    records = step(iterator, len(items))
    return model, step, records


def reference_weights(items, clip_norm=np.inf) -> list[np.ndarray]:
    """Plain eager gradient descent on the mean cross-entropy: slow and obviously right."""
    model = tiny_model()
    for item in items:
        with tf.GradientTape() as tape:
            logits = model(item["image"], training=True)
            loss = tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(item["label"], logits, from_logits=True)
            )
        gradients = [gradient.numpy() for gradient in tape.gradient(loss, model.trainable_variables)]
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            variable.assign(variable - 0.1 * gradient * min(1, clip_norm / norm))
    return model.get_weights()


def one() -> tf.distribute.Strategy:
    return tf.distribute.OneDeviceStrategy("/cpu:0")


def two() -> tf.distribute.Strategy:
    cpus = tf.config.list_logical_devices("CPU")
    assert len(cpus) == 2
    return tf.distribute.MirroredStrategy(
        [cpu.name for cpu in cpus], cross_device_ops=tf.distribute.HierarchicalCopyAllReduce()
    )


def places(*fast):
    """Each strategy, compiled and not, for a test's parameters; those not named run in CI alone."""
    others = [place for place in itertools.product((one, two), (False, True)) if place not in fast]
    return [*fast, *(pytest.param(*place, marks=pytest.mark.ci) for place in others)]
