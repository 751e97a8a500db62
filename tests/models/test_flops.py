"""FLOPs of a traced pass against numbers counted by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cxr_train.engine.step import TrainStep
from cxr_train.models.flops import count_flops
from cxr_train.recipe.loss_scale import LossScale

BATCH = 2


def graph_of(function, *inputs) -> tf.Graph:
    return tf.function(function).get_concrete_function(*inputs).graph


def spec(*shape) -> tf.TensorSpec:
    return tf.TensorSpec(shape, tf.float32)


@pytest.mark.parametrize("transposed", ["none", "left", "right"])
def test_a_product_takes_two_operations_for_each_row_column_and_term(transposed):
    left, right = ((5, 3) if transposed == "left" else (3, 5)), ((7, 5) if transposed == "right" else (5, 7))
    graph = graph_of(
        lambda a, b: tf.matmul(a, b, transpose_a=transposed == "left", transpose_b=transposed == "right"),
        spec(*left),
        spec(*right),
    )
    assert count_flops(graph) == 2 * 3 * 7 * 5


def test_a_convolution_takes_its_filter_for_each_output():
    # 9 x 8 pixels, stride 2, no padding: 4 x 3 outputs of 6 channels, each of 3 x 3 x 5 products.
    graph = graph_of(
        lambda x, k: tf.nn.conv2d(x, k, strides=2, padding="VALID"), spec(BATCH, 9, 8, 5), spec(3, 3, 5, 6)
    )
    assert count_flops(graph) == 2 * BATCH * 4 * 3 * 6 * 3 * 3 * 5


def test_a_depthwise_convolution_sums_over_no_channels():
    graph = graph_of(
        lambda x, k: tf.nn.depthwise_conv2d(x, k, [1, 1, 1, 1], "SAME"),
        spec(BATCH, 9, 8, 5),
        spec(3, 3, 5, 2),
    )
    assert count_flops(graph) == 2 * BATCH * 9 * 8 * 10 * 3 * 3


@pytest.mark.parametrize("frozen", [False, True])
def test_a_training_step_counts_the_backward_pass_of_what_is_trained(frozen):
    images = keras.Input((8, 8, 3))
    convolution = keras.layers.Conv2D(4, 3, padding="same")
    depthwise = keras.layers.DepthwiseConv2D(3, padding="same")
    pooled = keras.layers.GlobalAveragePooling2D()(depthwise(convolution(images)))
    model = keras.Model(images, keras.layers.Dense(5)(pooled))
    convolution.trainable = depthwise.trainable = not frozen
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    step = TrainStep(
        model,
        keras.optimizers.SGD(),
        LossScale(1.0, dynamic=False),
        strategy,
        compile=False,
        global_batch=BATCH,
    )
    assert step.flops_per_image is None
    batch = {
        "image": np.zeros([BATCH, 8, 8, 3], np.float32),
        "label": np.zeros(BATCH, np.int32),
        "weight": np.ones(BATCH, np.float32),
    }
    step(iter(tf.data.Dataset.from_tensors(batch)), 1)
    first, second, dense = (8 * 8 * 4 * 3 * 3 * 3, 8 * 8 * 4 * 3 * 3, 4 * 5)
    # A gradient for each filter, and one for each input but the images, or but frozen layers.
    products = first + second + 2 * dense if frozen else 2 * first + 3 * second + 3 * dense
    assert step.flops_per_image == 2 * products


def test_a_batch_of_products_and_a_sum_over_indices_are_counted_likewise():
    graph = graph_of(lambda a, b: tf.matmul(a, b, transpose_a=True), spec(BATCH, 3, 5), spec(BATCH, 3, 7))
    assert count_flops(graph) == 2 * BATCH * 5 * 3 * 7
    graph = graph_of(lambda a, b: tf.einsum("bkh,hk->bk", a, b), spec(BATCH, 3, 5), spec(5, 3))
    assert count_flops(graph) == 2 * BATCH * 3 * 5
