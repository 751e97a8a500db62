"""How many floating-point operations a traced pass takes: those of its convolutions and products.

Counted in the graph that is run, so that frozen layers, which have no backward pass, are not
counted with one. Everything else (normalisation, activations, the update) is some percent of it,
and is left out. A convolution and its two gradients take the same number of multiply-adds: for
each element of its output, one for each element of the filter that it is a sum over.
"""

import math

import tensorflow as tf

SOURCE = (
    "convolutions and matrix products of the traced forward and backward pass, 2 operations a multiply-add"
)

# Where an operation has its forward output (or the gradient of it), and its filter.
_OUTPUT_AND_FILTER = {
    "Conv2D": lambda op: (op.outputs[0], op.inputs[1]),
    "Conv2DBackpropInput": lambda op: (op.inputs[2], op.inputs[1]),
    "Conv2DBackpropFilter": lambda op: (op.inputs[2], op.outputs[0]),
    "DepthwiseConv2dNative": lambda op: (op.outputs[0], op.inputs[1]),
    "DepthwiseConv2dNativeBackpropInput": lambda op: (op.inputs[2], op.inputs[1]),
    "DepthwiseConv2dNativeBackpropFilter": lambda op: (op.inputs[2], op.outputs[0]),
}


def count_flops(graph: tf.Graph) -> int:
    """Return the floating-point operations of one run of `graph`, whose shapes are known."""
    return sum(flops_of(operation) for operation in graph.get_operations())


def flops_of(operation: tf.Operation) -> int:
    """Return the floating-point operations of one operation; 0 for one that is no convolution or product."""
    return 2 * _multiply_adds(operation)


def _multiply_adds(operation: tf.Operation) -> int:
    if operation.type == "Einsum":
        terms = operation.get_attr("equation").decode().partition("->")[0].split(",")
        sizes: dict[str, int] = {}
        for axes, tensor in zip(terms, operation.inputs, strict=True):
            sizes.update(zip(axes, tensor.shape, strict=True))
        return math.prod(sizes.values())
    if operation.type == "BatchMatMulV2":
        inner = operation.inputs[0].shape[-2 if operation.get_attr("adj_x") else -1]
        return operation.outputs[0].shape.num_elements() * inner
    if operation.type == "MatMul":
        inner = operation.inputs[0].shape[0 if operation.get_attr("transpose_a") else 1]
        return operation.outputs[0].shape.num_elements() * inner
    if operation.type not in _OUTPUT_AND_FILTER:
        return 0
    if operation.type.endswith("BackpropInput") and not operation.outputs[0].consumers():
        # Of the images, or of frozen layers: it is in the graph, but nobody asks for it.
        return 0
    output, kernel = _OUTPUT_AND_FILTER[operation.type](operation)
    # [height, width, input channels, output channels]; a depthwise one sums over no channels.
    summed = kernel.shape[:2] if operation.type.startswith("Depthwise") else kernel.shape[:3]
    return output.shape.num_elements() * math.prod(summed)
