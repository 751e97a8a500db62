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


PLAIN = FindingsObjective()
EVERY = FindingsObjective(
    label_smoothing=0.1, positive_weights=(2.0, 0.5, 3.0), uncertain=(0.55, 0.85), focal_gamma=2.0
)


def target(label: int, index: int, finding: int, objective: FindingsObjective) -> float | None:
    """What a label is trained towards; None where it does not count."""
    if label == -1 and objective.uncertain:
        low, high = objective.uncertain
        wanted = low + (high - low) * ((index * CLASSES + finding) * 2654435769 % 2**32) / 2**32
    elif label < 0:
        return None
    else:
        wanted = float(label)
    return (1 - objective.label_smoothing) * wanted + objective.label_smoothing / 2


def mean_loss(item, logits: tf.Tensor, objective: FindingsObjective) -> tf.Tensor:
    """The mean over the labels that count, one after the other."""
    losses = []
    for row, finding in np.ndindex(*item["label"].shape):
        wanted = target(int(item["label"][row, finding]), int(item["index"][row]), finding, objective)
        if wanted is None:
            continue
        present = tf.sigmoid(logits[row, finding])
        weight = objective.positive_weights[finding] if objective.positive_weights else 1.0
        of_present = -weight * (1 - present) ** objective.focal_gamma * tf.math.log(present)
        of_absent = -(present**objective.focal_gamma) * tf.math.log(1 - present)
        losses.append(wanted * of_present + (1 - wanted) * of_absent)
    return tf.add_n(losses) / len(losses)


def reference(items, objective: FindingsObjective = PLAIN) -> tuple[list[np.ndarray], list[float]]:
    """Gradient descent in float64 on the mean over the labels that count: slow and obviously right."""
    keras.backend.set_floatx("float64")
    try:
        model = tiny_model("float64")
        model.set_weights(tiny_model().get_weights())
    finally:
        keras.backend.set_floatx("float32")
    losses = []
    for item in items:
        with tf.GradientTape() as tape:
            logits = tf.cast(model(item["image"].astype(np.float64), training=True), tf.float64)
            loss = mean_loss(item, logits, objective)
        for variable, gradient in zip(
            model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
        ):
            variable.assign(variable - 0.1 * gradient)
        losses.append(float(loss))
    return model.get_weights(), losses


@pytest.mark.parametrize(
    ("strategy", "accumulation", "compile", "objective"),
    [
        (two, 1, False, PLAIN),
        pytest.param(one, 4, True, PLAIN, marks=pytest.mark.ci),
        (one, 1, True, EVERY),
        (two, 4, False, EVERY),
        pytest.param(one, 1, False, PLAIN, marks=pytest.mark.ci),
        pytest.param(two, 4, True, PLAIN, marks=pytest.mark.ci),
        pytest.param(two, 1, True, EVERY, marks=pytest.mark.ci),
        pytest.param(one, 4, False, EVERY, marks=pytest.mark.ci),
    ],
)
def test_weights_and_losses_equal_a_reference_however_the_batch_is_split(
    strategy, accumulation, compile, objective
):
    items = findings_batches(4)
    model, step, records = train(
        strategy(), items, compile=compile, accumulation=accumulation, objective=objective
    )
    weights, losses = reference(items, objective)
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


@pytest.mark.parametrize("strategy", [two, pytest.param(one, marks=pytest.mark.ci)])
def test_in_float16_the_weights_are_near_the_reference(strategy):
    items = findings_batches(4)
    model, step, _ = train(strategy(), items, policy="mixed_float16", objective=FindingsObjective())
    for weight, expected in zip(model.get_weights(), reference(items)[0], strict=True):
        np.testing.assert_allclose(weight, expected, atol=2e-3)
    assert step.loss_scale.skipped_steps.numpy() == 0
