"""The loss of findings: against a float64 reference, with labels of every kind."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_data.core.errors import UsageError
from cxr_train.recipe.loss import FindingsObjective
from cxr_train.recipe.uncertain import parse_uncertain

FINDINGS = 4


def reference(labels, logits, *, smoothing=0.0, weights=None, uncertain=None, gamma=0.0):
    """Label by label in float64: the sums of losses, of labels and of right answers of each example."""
    rows = np.zeros([len(labels), 3])
    for row, number in np.ndindex(*labels.shape):
        label = labels[row, number]
        if label == -2 or (label == -1 and uncertain is None):
            continue
        target = uncertain if label == -1 else float(label)
        p = 1 / (1 + np.exp(-np.float64(logits[row, number])))
        soft = (1 - smoothing) * target + smoothing / 2
        weight = 1.0 if weights is None else weights[number]
        loss = -weight * soft * (1 - p) ** gamma * np.log(p) - (1 - soft) * p**gamma * np.log(1 - p)
        rows[row] += loss, 1, (p > 0.5) == (target > 0.5)
    return rows.T


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    smoothing=st.sampled_from([0.0, 0.2]),
    weighted=st.booleans(),
    uncertain=st.sampled_from(["ignore", "zeros", "ones", "smooth:0.4:0.4"]),
    gamma=st.sampled_from([0.0, 2.0]),
)
@pytest.mark.parametrize("compile", [False, True])
def test_the_loss_equals_a_reference_label_by_label(compile, seed, smoothing, weighted, uncertain, gamma):
    random = np.random.default_rng(seed)
    labels = random.choice([1, 0, -1, -2], size=[6, FINDINGS]).astype(np.int32)
    logits = random.normal(0, 3, size=[6, FINDINGS]).astype(np.float32)
    weights = tuple(random.uniform(0.2, 5, FINDINGS)) if weighted else ()
    chosen = parse_uncertain(uncertain)
    objective = FindingsObjective(smoothing, weights, chosen, gamma)
    run = tf.function(objective, jit_compile=True) if compile else objective
    found = run(tf.constant(labels), tf.constant(logits), tf.range(6, dtype=tf.int64))
    expected = reference(
        labels,
        logits,
        smoothing=smoothing,
        weights=weights or None,
        uncertain=chosen and chosen[0],
        gamma=gamma,
    )
    np.testing.assert_allclose(np.stack(found), expected, rtol=2e-5, atol=1e-5)


def test_extreme_logits_have_finite_losses_and_gradients_and_unknown_labels_none():
    labels = tf.constant([[1, 0, -2, -2]])
    logits = tf.Variable([[-1e4, 1e4, 1e4, np.nan]])
    with tf.GradientTape() as tape:
        loss = FindingsObjective()(labels, logits, tf.constant([0], tf.int64)).loss
    assert loss.numpy() == pytest.approx([2e4])
    np.testing.assert_array_equal(tape.gradient(loss, logits)[0, :3], [-1, 1, 0])


def test_smoothed_uncertain_targets_fill_their_range_and_depend_on_the_example_alone():
    objective = FindingsObjective(uncertain=(0.55, 0.85))
    labels = tf.fill([1000, FINDINGS], -1)
    logits = tf.zeros([1000, FINDINGS])
    index = tf.range(1000, dtype=tf.int64)
    # With a logit of 1, the loss is linear in the target: softplus(-1) + (1 - target).
    together = objective(labels, logits + 1, index).loss.numpy()
    targets = FINDINGS * (1 + np.log1p(np.exp(-1))) - together
    assert targets.min() >= FINDINGS * 0.55
    assert targets.max() <= FINDINGS * 0.85
    assert targets.mean() == pytest.approx(FINDINGS * 0.7, abs=0.01)
    assert np.ptp(targets) > 0.1
    order = np.random.default_rng(0).permutation(1000)
    shuffled = objective(labels, logits + 1, tf.gather(index, order)).loss.numpy()
    np.testing.assert_array_equal(shuffled, together[order])


@pytest.mark.parametrize("text", ["", "smooth", "smooth:0.5", "smooth:0.9:0.1", "smooth:-1:1", "maybe:0:1"])
def test_other_ways_with_uncertain_labels_are_refused(text):
    with pytest.raises(UsageError, match=f"--uncertain={text}: "):
        parse_uncertain(text)
