"""What each backbone takes by its table, against the graph of the network itself."""

import pytest
import tensorflow as tf

from cxr_train.models.backbones import BACKBONES
from cxr_train.models.classifier import build_model
from cxr_train.models.flops import count_flops, flops_of
from cxr_train.models.network_flops import NETWORK_FLOPS, flops_per_image

HEAD, CLASSES = (16, 8), 3
ADDED = {"attention": "cbam", "pooling": "attention", "of_findings": True}


def traced(backbone: str, size: int, options: dict) -> tuple[int, int]:
    """The operations of the forward pass, and of its first convolution, in the graph of the network."""
    model = build_model(backbone, classes=CLASSES, image_size=size, head=HEAD, **options)
    image = tf.TensorSpec([1, size, size, 3], tf.float32)
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(image).graph
    first = next(flops for operation in graph.get_operations() if (flops := flops_of(operation)))
    return count_flops(graph), first


def assert_is_as_traced(backbone: str, size: int, options: dict) -> None:
    forward, first = traced(backbone, size, options)
    assert flops_per_image(backbone, size, HEAD, CLASSES, **options) == (forward, 3 * forward - first)


def test_every_backbone_is_in_the_table():
    assert NETWORK_FLOPS.keys() == BACKBONES.keys()


@pytest.mark.parametrize(
    ("backbone", "size", "options"),
    [("vgg16", 75, ADDED), ("mobilenet_v2", 98, {"attention": "se:2+5", "pooling": "gem"})],
)
def test_the_table_is_the_graph(backbone, size, options):
    assert_is_as_traced(backbone, size, options)


def test_eca_takes_its_kernel_for_each_channel():
    without, _ = flops_per_image("vgg16", 75, HEAD, CLASSES)
    assert flops_per_image("vgg16", 75, HEAD, CLASSES, attention="eca:3")[0] - without == 2 * 5 * 256


@pytest.mark.slow
@pytest.mark.parametrize(("size", "options"), [(111, ADDED), (360, {})])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_table_is_the_graph_of_every_backbone(backbone, size, options):
    assert_is_as_traced(backbone, size, options)
