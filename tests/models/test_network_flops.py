"""What each backbone takes by its table, against the graph of the network itself."""

import pytest
import tensorflow as tf

from cxr_train.models.backbones import BACKBONES
from cxr_train.models.classifier import build_model
from cxr_train.models.flops import count_flops, flops_of
from cxr_train.models.network_flops import NETWORK_FLOPS, flops_per_image

HEAD, CLASSES = (16, 8), 3


def traced(backbone: str, size: int) -> tuple[int, int]:
    """The operations of the forward pass, and of its first convolution, in the graph of the network."""
    model = build_model(backbone, classes=CLASSES, image_size=size, head=HEAD)
    image = tf.TensorSpec([1, size, size, 3], tf.float32)
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(image).graph
    first = next(flops for operation in graph.get_operations() if (flops := flops_of(operation)))
    return count_flops(graph), first


def assert_is_as_traced(backbone: str, size: int) -> None:
    forward, first = traced(backbone, size)
    assert flops_per_image(backbone, size, HEAD, CLASSES) == (forward, 3 * forward - first)


def test_every_backbone_is_in_the_table():
    assert NETWORK_FLOPS.keys() == BACKBONES.keys()


@pytest.mark.parametrize(("backbone", "size"), [("vgg16", 75), ("mobilenet_v2", 98)])
def test_the_table_is_the_graph(backbone, size):
    assert_is_as_traced(backbone, size)


@pytest.mark.slow
@pytest.mark.parametrize("size", [111, 360])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_table_is_the_graph_of_every_backbone(backbone, size):
    assert_is_as_traced(backbone, size)
