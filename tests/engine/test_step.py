"""The training step: against a plain eager reference, on one replica and on two, in 16 bits."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_steps import (
    BATCH,
    CLASSES,
    batches,
    dataset,
    one,
    places,
    reference_weights,
    tiny_model,
    train,
    two,
)

from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.step import TrainStep
from cxr_train.engine.strategy import Placement
from cxr_train.recipe.loss import ExampleSums, Objective
from cxr_train.recipe.loss_scale import LossScale


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("strategy", [one, two])
def test_weights_equal_an_eager_reference(strategy, compile):
    items = batches(5)
    model, _, records = train(strategy(), items, compile=compile)
    for weight, expected in zip(model.get_weights(), reference_weights(items), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-5)
    np.testing.assert_array_equal(records.examples, [BATCH] * 5)


@pytest.mark.parametrize("strategy", [one, two])
def test_the_clock_tells_waiting_from_computing(strategy):
    def slow(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        def image(array: np.ndarray) -> np.ndarray:
            time.sleep(0.1)
            return array

        shape = batch["image"].shape
        delayed = tf.ensure_shape(tf.numpy_function(image, [batch["image"]], tf.float32), shape)
        return batch | {"image": delayed}

    strategy = strategy()
    _, step, _ = train(strategy, batches(1))
    for items, is_slow in ((dataset(batches(5)).map(slow), True), (dataset(batches(5)), False)):
        iterator = iter(strategy.experimental_distribute_dataset(items))
        start = time.perf_counter()
        records = step(iterator, 5)
        seconds = time.perf_counter() - start
        assert (records.waited <= records.seconds).all()
        # The machine may be busy during some of the steps, not during most.
        assert (np.median(records.waited) >= 0.05) == is_slow
        assert records.waited.sum() <= records.seconds.sum() <= seconds


@pytest.mark.parametrize("strategy", [one, two])
def test_a_step_whose_loss_is_not_finite_is_the_last_and_changes_no_weight(strategy):
    items = batches(5)
    items[2]["image"][5] = 3e38
    model, _, records = train(strategy(), items)
    assert np.isfinite(records.loss).tolist() == [True, True, False]
    for weight, expected in zip(model.get_weights(), reference_weights(items[:2]), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-5)


@pytest.mark.parametrize(("strategy", "compile"), places((one, True), (two, False)))
def test_a_loss_that_overflows_changes_no_weight_though_its_gradients_are_finite(strategy, compile):
    class Overflowing(Objective):
        def __call__(self, *arguments: tf.Tensor) -> ExampleSums:
            sums = super().__call__(*arguments)
            return ExampleSums(sums.loss + np.inf, sums.labels, sums.correct)

    model, step, records = train(strategy(), batches(1), compile=compile, objective=Overflowing())
    assert records.loss.tolist() == [np.inf]
    assert step.loss_scale.skipped_steps.numpy() == 1
    for weight, expected in zip(model.get_weights(), tiny_model().get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize(("strategy", "compile"), places((one, True), (two, False)))
def test_micro_batches_and_clipping_equal_an_eager_reference_on_the_whole_batch(strategy, compile):
    strategy, items = strategy(), batches(5)
    model, step, records = train(strategy, items, compile=compile, accumulation=4, clip_norm=0.05)
    for weight, expected in zip(model.get_weights(), reference_weights(items, clip_norm=0.05), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)
    free = reference_weights(items)
    assert max(np.abs(a - b).max() for a, b in zip(model.get_weights(), free, strict=True)) > 1e-3
    np.testing.assert_array_equal(records.examples, [BATCH] * 5)
    assert step.traces == {"step": 1, "gradients": strategy.num_replicas_in_sync}


def test_batch_norm_normalises_by_micro_batch():
    items = batches(1)
    model, _, _ = train(one(), items, batch_norm=True, accumulation=2)
    reference = tiny_model(batch_norm=True)
    for part in (slice(0, 4), slice(4, 8)):
        reference(items[0]["image"][part], training=True)
    for variable, expected in zip(
        model.non_trainable_variables, reference.non_trainable_variables, strict=True
    ):
        np.testing.assert_allclose(variable, expected, atol=1e-6)


def test_on_one_device_the_compiled_step_updates_every_variable_in_place_and_has_no_branch():
    optimizer = lambda: keras.optimizers.Adam(1e-3)  # noqa: E731
    model, step, _ = train(one(), batches(1), compile=True, optimizer=optimizer, batch_norm=True)
    batch = {key: tf.constant(value) for key, value in batches(1)[0].items()}
    program = step.compiled_step.experimental_get_compiler_ir(batch, None)
    program = program(stage="hlo")
    # The host would wait for its condition on a GPU.
    assert " conditional(" not in program
    header = program.partition("entry_computation_layout")[0]
    # Weights and BatchNorm statistics, two moments of each weight, and the number of the step.
    written = len(model.variables) + 2 * len(model.trainable_variables) + 1
    assert header.count("may-alias") + header.count("must-alias") >= written


@pytest.mark.parametrize("strategy", [one, two])
def test_one_trace_for_any_number_of_calls_and_steps(strategy):
    strategy = strategy()
    with strategy.scope():
        model = tiny_model()
        optimizer = keras.optimizers.Adam(1e-4)
        scale = LossScale(1.0, dynamic=False)
    step = TrainStep(model, optimizer, scale, strategy, compile=True, global_batch=BATCH)
    for count in (1, 3, 2):
        iterator = iter(strategy.experimental_distribute_dataset(dataset(batches(count))))
        step(iterator, count)
    assert step.traces == {"step": 1, "gradients": strategy.num_replicas_in_sync}
    assert optimizer.iterations.numpy() == 6


MICRO_BATCHES = {"accumulation": 2, "clip_norm": 0.1}


@pytest.mark.parametrize(
    ("replica", "compile", "options"),
    [
        (0, False, {}),
        (1, True, {}),
        (0, True, MICRO_BATCHES),
        pytest.param(0, True, {}, marks=pytest.mark.ci),
        pytest.param(1, False, {}, marks=pytest.mark.ci),
        pytest.param(0, False, MICRO_BATCHES, marks=pytest.mark.ci),
        pytest.param(1, False, MICRO_BATCHES, marks=pytest.mark.ci),
        pytest.param(1, True, MICRO_BATCHES, marks=pytest.mark.ci),
    ],
)
def test_overflow_on_either_replica_skips_the_step_and_halves_the_scale(replica, compile, options):
    items = batches(1)
    half = BATCH // 2
    items[0]["image"][replica * half] = 3e38
    strategy = two()
    model, step, _ = train(strategy, items, compile=compile, policy="mixed_float16", **options)
    expected = tiny_model("mixed_float16").get_weights()
    for variable, weight in zip(model.variables, expected, strict=True):
        for copy in strategy.experimental_local_results(variable.value):
            np.testing.assert_array_equal(copy.numpy(), weight)
    assert step.loss_scale.scale.numpy() == 2.0**14
    assert step.loss_scale.skipped_steps.numpy() == 1


def test_float16_survives_a_start_scale_that_overflows():
    items = batches(1) * 30
    model, step, _ = train(one(), items, policy="mixed_float16", scale=lambda: LossScale(2.0**24))
    assert 0 < int(step.loss_scale.skipped_steps) < 30
    start = tiny_model("mixed_float16").get_weights()
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert any((weight != before).any() for weight, before in zip(model.get_weights(), start, strict=True))


def test_scale_doubles_after_the_stated_number_of_good_steps():
    scale = LossScale(8.0, growth_steps=3)
    seen = []
    for finite in [True, True, True, True, False, True]:
        scale.update(tf.constant(finite))
        seen.append(float(scale.scale))
    assert seen == [8, 8, 16, 16, 8, 8]


@pytest.mark.parametrize(
    ("strategy", "policy"),
    [
        (one, "mixed_bfloat16"),
        (two, "mixed_float16"),
        pytest.param(one, "float32", marks=pytest.mark.ci),
        pytest.param(one, "mixed_float16", marks=pytest.mark.ci),
        pytest.param(two, "float32", marks=pytest.mark.ci),
        pytest.param(two, "mixed_bfloat16", marks=pytest.mark.ci),
    ],
)
def test_loss_halves_on_a_fixed_batch(strategy, policy):
    item = batches(1)[0]
    item["image"] *= (1 + item["label"])[:, None, None, None] / CLASSES
    adam = lambda: keras.optimizers.Adam(0.03)  # noqa: E731
    _, _, steps = train(strategy(), [item] * 150, policy=policy, optimizer=adam, batch_norm=True)
    assert steps.loss.mean() < steps.loss[0] / 2


def test_padding_does_not_count():
    item = batches(1)[0]
    padded = {key: value.copy() for key, value in item.items()}
    padded["weight"][5:] = 0
    padded["image"][5:] = 1e6
    _, _, records = train(one(), [padded])
    assert records.examples == [5]
    assert records.correct <= [5]


@pytest.mark.parametrize("compile", [False, True])
def test_predictions_keep_the_order_of_the_batch(compile):
    item = batches(1)[0]
    results = []
    for strategy in (one(), two()):
        with strategy.scope():
            predict = PredictStep(tiny_model(), Placement(strategy, "float32", compile, ()))
        (batch,) = strategy.experimental_distribute_dataset(dataset([item]))
        results.append(predict(batch))
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)
    np.testing.assert_allclose(results[0], tiny_model()(item["image"]).numpy(), atol=1e-6)
