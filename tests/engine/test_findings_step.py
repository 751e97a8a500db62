"""Training steps on findings: the mean is over the known labels of the global batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_steps import BATCH, CLASSES, batches, one, tiny_model, train, two

from cxr_train.recipe.loss import FindingsObjective


def findings_batches(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(3)
    items = batches(count)
    for item in items:
        item["label"] = random.choice([1, 0, -1, -2], size=[BATCH, CLASSES]).astype(np.int32)
        item["index"] = np.arange(BATCH)
        # The replicas and micro-batches hold different numbers of known labels: one has none.
        item["label"][: BATCH // 4] = -2
    return items


def reference(items) -> tuple[list[np.ndarray], list[float]]:
    """Gradient descent in float64 on the mean over the known labels: slow and obviously right."""
    keras.backend.set_floatx("float64")
    try:
        model = tiny_model("float64")
        model.set_weights(tiny_model().get_weights())
    finally:
        keras.backend.set_floatx("float32")
    losses = []
    for item in items:
        known = item["label"] >= 0
        with tf.GradientTape() as tape:
            logits = tf.cast(model(item["image"].astype(np.float64), training=True), tf.float64)
            of_labels = tf.nn.sigmoid_cross_entropy_with_logits(item["label"].astype(np.float64), logits)
            loss = tf.reduce_mean(of_labels[known])
        for variable, gradient in zip(
            model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
        ):
            variable.assign(variable - 0.1 * gradient)
        losses.append(float(loss))
    return model.get_weights(), losses


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("strategy", [one, two])
def test_weights_and_losses_equal_a_reference_however_the_batch_is_split(strategy, accumulation, compile):
    items = findings_batches(4)
    model, step, records = train(
        strategy(), items, compile=compile, accumulation=accumulation, objective=FindingsObjective()
    )
    weights, losses = reference(items)
    for weight, expected in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-5)
    np.testing.assert_allclose(records.loss / records.examples, losses, rtol=1e-5)
    assert (records.correct >= 0).all()
    assert (records.correct <= records.examples).all()
    assert step.traces["step"] == 1


def test_a_batch_without_any_known_label_changes_no_weight():
    items = findings_batches(1)
    items[0]["label"][:] = -2
    model, _, records = train(one(), items, objective=FindingsObjective())
    for weight, expected in zip(model.get_weights(), tiny_model().get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert records.loss.tolist() == [0]


@pytest.mark.parametrize("strategy", [one, two])
def test_in_float16_the_weights_are_near_the_reference(strategy):
    items = findings_batches(4)
    model, step, _ = train(strategy(), items, policy="mixed_float16", objective=FindingsObjective())
    for weight, expected in zip(model.get_weights(), reference(items)[0], strict=True):
        np.testing.assert_allclose(weight, expected, atol=2e-3)
    assert step.loss_scale.skipped_steps.numpy() == 0
