"""The memory estimate against sums made by hand, and the batches that follow from it."""

import math
import subprocess
import sys

import keras
import pytest
import tensorflow as tf
from project import HELPERS, ROOT

from cxr_data.core.errors import UsageError
from cxr_train.engine.strategy import choose_placement
from cxr_train.flags.training import check_memory_gb
from cxr_train.loop.batch_size import (
    choose_batch_size,
    largest_batch,
    planned_memory,
    setting_of,
    state_slots,
)
from cxr_train.models.memory import Setting, estimate, read_graph
from cxr_train.models.pooling import GeneralizedMean
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig

IMAGE, WIDE, POOLED = 8 * 8 * 3, 8 * 8 * 4, 4 * 4 * 4
KERNELS = 3 * 3 * 3 * 4 + 4 * 2
TRAINED = KERNELS + 2 * 4 + 2  # BatchNorm's gamma and beta, the dense bias


def classifier(trainable=True):
    image = keras.Input((8, 8, 3))
    convolution = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)
    normalization = keras.layers.BatchNormalization()
    convolution.trainable = normalization.trainable = trainable
    x = keras.layers.ReLU()(normalization(convolution(image)))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.MaxPooling2D()(x))
    return keras.Model(image, keras.layers.Dense(2)(x))


def network(trainable=True):
    return read_graph(classifier(trainable))


def test_op_by_op_the_tensors_that_gradients_read_are_kept():
    found = estimate(network(), 5, Setting())
    assert found.state == 4 * (TRAINED + 2 * 4 + 2 * TRAINED)
    # The convolution's output, the relu's, the pooling's, the dense layer's input; two batches of images.
    assert found.activations == 5 * 4 * (WIDE + WIDE + POOLED + 4 + 2 * IMAGE)
    assert found.gradients == 4 * TRAINED
    assert found.workspace == 5 * 4 * WIDE
    assert found.total == found.state + found.activations + found.workspace


def test_batches_that_wait_on_the_device_are_counted():
    one, three = (estimate(network(), 5, Setting(batches_ahead=ahead)) for ahead in (1, 3))
    assert three.total - one.total == 5 * 4 * 2 * IMAGE


def test_16_bits_halve_activations_but_keep_float32_statistics_op_by_op():
    found = estimate(network(), 1, Setting("mixed_float16"))
    assert found.activations == 4 * WIDE + 2 * (WIDE + POOLED + 4) + 2 * 4 * IMAGE
    assert found.state == estimate(network(), 1, Setting()).state + 2 * KERNELS
    compiled = estimate(network(), 1, Setting("mixed_float16", compile=True, on_gpu=True))
    assert compiled.activations == 2 * (WIDE + WIDE + POOLED + 4) + 2 * 4 * IMAGE


def test_xla_needs_indices_for_the_gradient_of_a_max_pooling():
    on_cpu = estimate(network(), 1, Setting(compile=True)).workspace
    on_gpu = estimate(network(), 1, Setting(compile=True, on_gpu=True)).workspace
    assert on_cpu == 16 * (WIDE + POOLED) + 4 * POOLED
    assert on_gpu == 16 * POOLED + 4 * POOLED


def test_a_frozen_backbone_keeps_only_what_the_head_reads():
    found = estimate(network(trainable=False), 1, Setting())
    assert found.activations == 4 * 4 + 2 * 4 * IMAGE
    assert found.gradients == 4 * (4 * 2 + 2)


def test_the_parts_of_a_layer_are_kept_op_by_op_and_computed_again_by_xla():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(image)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Activation("gelu")(keras.layers.Dense(4)(x))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    # Three tensors of the normalization and of the gelu each; the inputs of the two dense layers.
    assert estimate(read_graph(model), 1, Setting()).activations == 4 * (7 * WIDE + 4 + 2 * IMAGE)
    assert estimate(read_graph(model), 1, Setting(compile=True)).activations == 4 * (3 * WIDE + 4 + 2 * IMAGE)


def test_the_parts_of_a_generalized_mean_are_kept_op_by_op_and_computed_again_by_xla():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(image)
    model = keras.Model(image, keras.layers.Dense(2)(GeneralizedMean()(x)))
    # x and -x, and three tensors of each.
    assert estimate(read_graph(model), 1, Setting()).activations == 4 * (8 * WIDE + 4 + 2 * IMAGE)
    assert estimate(read_graph(model), 1, Setting(compile=True)).activations == 4 * (WIDE + 4 + 2 * IMAGE)


@pytest.mark.parametrize("batch", [1, 5, 7, 8, 16, 24, 1000])
def test_the_largest_batch_fits_and_the_next_does_not(batch):
    setting = Setting()
    gigabytes = estimate(network(), batch, setting).total / 1e9 / 0.9 * (1 + 1e-9)
    found = largest_batch(network(), setting, gigabytes)
    assert found == (batch if batch < 8 else batch // 8 * 8)


def test_the_chosen_batch_covers_all_parts_and_says_why():
    gigabytes = estimate(network(), 16, Setting()).total / 1e9 / 0.9 * (1 + 1e-9)
    chosen = choose_batch_size(network(), Setting(), memory_gb=gigabytes, replicas=2, accumulation=3)
    assert chosen.value == "96"
    assert "16 images at once" in chosen.why
    few = choose_batch_size(network(), Setting(), memory_gb=gigabytes, replicas=2, images=21)
    assert few.value == "20"
    assert "21 images" in few.why
    with pytest.raises(UsageError, match="--batch_size=auto: .*--memory_gb is 1e-06"):
        choose_batch_size(network(), Setting(), memory_gb=1e-6)


def test_a_run_is_planned_by_what_one_replica_takes_at_once():
    recipe = Recipe(gradient_accumulation=3)
    config = TrainConfig(backbone="xception", data="data", run_dir="run", batch_size=24, recipe=recipe)
    placement = choose_placement("mirrored", "float32", "off")  # of two
    # Whole batches lie on the device, that of the step too: three micro-batches each.
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    setting = Setting(on_gpu=on_gpu, slots=3, batches_ahead=3 * (placement.batches_ahead + 1))
    for trainable in (True, False):
        planned = planned_memory(classifier(trainable), config, placement)
        assert planned == estimate(network(trainable), 4, setting).total


def test_optimizer_average_and_accumulation_keep_copies():
    assert state_slots(Recipe()) == 2
    assert state_slots(Recipe(optimizer="sgd", gradient_accumulation=2)) == 2
    assert state_slots(Recipe(optimizer="sgd", momentum=0.0)) == 0
    # An average is of frozen weights and of statistics too.
    averaged = setting_of(Recipe(ema=0.9), choose_placement("one", "float32", "off"))
    assert estimate(network(trainable=False), 1, averaged).state == 4 * (
        2 * (TRAINED + 2 * 4) + 2 * (4 * 2 + 2)
    )


def test_a_memory_that_no_device_has_or_nothing_asks_for_is_refused():
    check_memory_gb(None, used=False)
    check_memory_gb(12.0, used=True)
    for value in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match=f"--memory_gb={value}: "):
            check_memory_gb(value, used=True)
    with pytest.raises(UsageError, match="--memory_gb=12.0: .*--batch_size=auto.*--plan"):
        check_memory_gb(12.0, used=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "size", "batch", "policy"),
    [
        ("mobilenet_v2", 360, 8, "float32"),
        ("mobilenet_v2", 500, 16, "float32"),
        ("mobilenet_v2", 360, 8, "mixed_bfloat16"),
        ("vgg16", 360, 4, "float32"),
        ("xception", 360, 8, "float32"),
        ("inception_v3", 360, 8, "float32"),
        ("resnet152_v2", 360, 4, "float32"),
        ("efficientnet_b1", 360, 4, "float32"),
        ("convnext_tiny", 224, 4, "float32"),
    ],
)
def test_the_estimate_is_within_15_percent_of_the_allocators_peak(backbone, size, batch, policy):
    program = HELPERS / "measured_memory.py"
    line = [sys.executable, program, backbone, str(size), str(batch), policy]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    expected, measured = map(int, done.stdout.split())
    assert expected == pytest.approx(measured, rel=0.15)
