"""How much device memory a training step needs, from the network's graph, before anything is allocated.

The network is built abstractly: its variables and tensors have shapes and no values. Memory is

    state         weights and optimizer state, float32; 16-bit copies of the kernels
    activations   what the backward pass reads of the forward pass (`_reads`), times the batch
    gradients     of the weights; they come while activations go, so that the larger counts
    workspace     what one layer's gradient needs beside them, at its worst

What a domain method adds is left out, as it is less than the error of the estimate: DANN's
discriminator of 2,048 features has 0.6 million weights, some 10 MB with optimizer and gradient,
and CORAL's centred features of ten sources have 0.2 MB an image.

The backward pass reads the input of a convolution, a dense layer and a batch normalization, both
factors of a product, the output of a relu, and of sums, concatenations, padding and averages
nothing. XLA fuses what is computed element by element into its neighbours: such a tensor is kept
only where a layer reads it that is computed on its own, and computed again elsewhere. Op by op,
every tensor that is read is kept, and batch normalization's in float32.

How XLA and TensorFlow came to the terms named "measured" was read off their own accounts: XLA's
buffer assignments, and the peaks of TensorFlow's allocator, of seven backbones at 360 and 500 px on
a CPU. The estimate is within 9 % of every one of them (`tests/helpers/measured_memory.py` compares).
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from cxr_data.core.tensorflow_private import calls_of
from cxr_train.models.classifier import build_model
from cxr_train.models.convnext import LayerScale
from cxr_train.models.freeze import layers_to_freeze, set_trainable
from cxr_train.models.pooling import GeneralizedMean

_FLOAT32 = 4
_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.Dense,
    keras.layers.EinsumDense,
)
_GLOBAL_MAXIMA = (keras.layers.GlobalMaxPooling1D, keras.layers.GlobalMaxPooling2D)
_POOLINGS = (
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    *_GLOBAL_MAXIMA,
    GeneralizedMean,
)
_NORMALIZATIONS = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)
# The derivative of these is a function of their output; of other activations, of their input.
_BY_OUTPUT = ("relu", "relu6", "sigmoid", "softmax", "tanh")


@dataclasses.dataclass(frozen=True)
class Call:
    """A layer in the graph; tensors are known by number.

    Attributes:
      inputs, outputs: what it takes and gives.
      reads: what its backward pass reads.
      kind: `convolution`, `pooling`, `normalization` or `elementwise`.
      kernel, parameters: elements of its kernels, and of all its trainable variables.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    reads: tuple[int, ...]
    kind: str
    kernel: int
    parameters: int


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as the estimate sees it.

    Attributes:
      calls: the layers, in the order of the forward pass.
      elements: of each tensor, of one image.
      image: the number of the input.
      variables: elements of all variables.
    """

    calls: tuple[Call, ...]
    elements: tuple[int, ...]
    image: int
    variables: int

    @property
    def parameters(self) -> int:
        """Elements of the trainable variables."""
        return sum(call.parameters for call in self.calls)

    @property
    def kernels(self) -> int:
        """Elements of the kernels, which mixed policies copy to 16 bits."""
        return sum(call.kernel for call in self.calls)


@dataclasses.dataclass(frozen=True)
class Memory:
    """The estimate for one replica, in bytes; `total` is the peak."""

    state: int
    activations: int
    gradients: int
    workspace: int

    @property
    def total(self) -> int:
        """The state, and the larger of the amounts that the two ends of the backward pass hold."""
        return self.state + max(self.activations + self.workspace, self.gradients)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the memory of a step depends on besides network and batch.

    Attributes:
      policy: Keras dtype policy.
      compile: whether XLA compiles the step.
      on_gpu: whether it runs on a GPU.
      slots: float32 copies of the trainable variables that optimizer and accumulation keep.
      averaged: whether a weight average keeps one of all variables.
      batches_ahead: how many batches of the size computed at once lie on the device beside it.
    """

    policy: str = "float32"
    compile: bool = False
    on_gpu: bool = False
    slots: int = 2
    averaged: bool = False
    batches_ahead: int = 1

    @property
    def width(self) -> int:
        """Bytes of an element of an activation."""
        # XLA has no 16-bit convolutions on a CPU: it computes, and keeps, float32 (measured).
        in_16_bits = self.policy != "float32" and (self.on_gpu or not self.compile)
        return 2 if in_16_bits else _FLOAT32


def trace(
    backbone: str,
    *,
    image_size: int,
    features: int = 0,
    classes: int = 3,
    head: Iterable[int] = (128, 32),
    freeze: str = "none",
    **options: Any,
) -> Network:
    """Build a classifier without values.

    Args:
      freeze: see `--freeze`.
      backbone, image_size, features, classes, head, options: those of `build_model`.

    Raises:
      UsageError: as `build_model` and `layers_to_freeze`.
    """
    with keras.StatelessScope():
        model = build_model(
            backbone, classes=classes, image_size=image_size, features=features, head=tuple(head), **options
        )
    set_trainable(layers_to_freeze(model, freeze), False)
    network = read_graph(model)
    # Keras numbers the layers of a process; the model that is built next has the names, of which
    # `--freeze=until:LAYER` and weights files speak, of one that is built alone.
    keras.utils.clear_session(free_memory=False)
    return network


def read_graph(model: keras.Model) -> Network:
    """Return the calls of a functional model from images [B, S, S, C], in the order of the forward pass."""
    numbers: dict[int, int] = {}
    elements: list[int] = []

    def number(tensor: keras.KerasTensor) -> int:
        if id(tensor) not in numbers:
            numbers[id(tensor)] = len(elements)
            elements.append(math.prod(tensor.shape[1:]))
        return numbers[id(tensor)]

    image = number(model.inputs[0])
    learned: set[int] = set()  # tensors through which a gradient flows
    calls = []
    for node in calls_of(model):
        layer = node.operation
        if isinstance(layer, keras.layers.InputLayer):
            continue
        inputs = tuple(number(tensor) for tensor in node.input_tensors)
        if isinstance(layer, keras.layers.Reshape):
            numbers[id(node.outputs[0])] = inputs[0]  # the same memory under another shape
            continue
        outputs = tuple(number(tensor) for tensor in node.outputs)
        trained = [math.prod(v.shape) for v in getattr(layer, "trainable_variables", [])]
        if trained or learned.intersection(inputs):
            learned.update(outputs)
        reads = tuple(_reads(layer, inputs, outputs, bool(trained))) if learned.issuperset(outputs) else ()
        if isinstance(layer, keras.layers.SeparableConv2D) and reads:
            # Between its two convolutions: the channels of the input, the places of the output.
            channels, places = node.input_tensors[0].shape[-1], node.outputs[0].shape[1:3]
            elements.append(channels * math.prod(places))
            reads += (len(elements) - 1,)
        for _ in range(_kept_besides(layer) if reads else 0):
            elements.append(elements[inputs[0]])
            reads += (len(elements) - 1,)
            # Element by element: XLA computes it again.
            calls.append(Call(inputs, reads[-1:], (), "elementwise", 0, 0))
        kernels = [math.prod(v.shape) for v in getattr(layer, "variables", []) if len(v.shape) > 1]
        calls.append(Call(inputs, outputs, reads, _kind(layer), sum(kernels), sum(trained)))
    variables = sum(math.prod(variable.shape) for variable in model.variables)
    return Network(tuple(calls), tuple(elements), image, variables)


def estimate(network: Network, batch: int, setting: Setting) -> Memory:
    """Return the memory of a training step of one replica.

    Args:
      network: see `trace`.
      batch: images that the replica takes at once: its part of a micro-batch.
      setting: how they are computed.
    """
    state = _FLOAT32 * (network.variables * (1 + setting.averaged) + setting.slots * network.parameters)
    if setting.policy != "float32":
        state += 2 * network.kernels
    images = (1 + setting.batches_ahead) * _FLOAT32 * network.elements[network.image]
    workspace = _xla_workspace(network, setting) if setting.compile else _workspace(network)
    return Memory(
        state=state,
        activations=batch * (images + _kept_bytes(network, setting)),
        gradients=_FLOAT32 * network.parameters,
        workspace=batch * workspace,
    )


def _kind(layer: keras.Operation) -> str:
    if isinstance(layer, _CONVOLUTIONS):
        return "convolution" if _activation(layer) == "linear" else "activated convolution"
    if isinstance(layer, keras.layers.MaxPooling2D):
        return "max pooling"
    if isinstance(layer, _POOLINGS):
        return "pooling"
    return "normalization" if isinstance(layer, _NORMALIZATIONS) else "elementwise"


def _kept_besides(layer: keras.Operation) -> int:
    """Return how many tensors as large as its input a layer of several operations keeps, op by op.

    Of a layer normalization, x less its mean, and that over its deviation; of a gelu, the two factors of its
    last product; of a generalized mean, -x, and of each sign the clipped values, their ratios to the largest,
    and the powers.
    """
    if isinstance(layer, GeneralizedMean):
        return 7
    return 2 if isinstance(layer, keras.layers.LayerNormalization) or _activation(layer) == "gelu" else 0


def _activation(layer: keras.Operation) -> str:
    if isinstance(layer, keras.layers.ReLU):
        return "relu"
    return getattr(getattr(layer, "activation", None), "__name__", "linear")


def _reads(
    layer: keras.Operation, inputs: tuple[int, ...], outputs: tuple[int, ...], trained: bool
) -> Iterator[int]:
    """Yield what the layer's backward pass reads of the forward pass; `trained`: it has trainable
    variables.
    """
    if isinstance(layer, (*_CONVOLUTIONS, keras.layers.BatchNormalization, LayerScale)):
        yield from inputs if trained else ()
    elif isinstance(layer, keras.layers.LayerNormalization):
        yield from inputs  # whose moments depend on them, unlike those of a frozen batch normalization
    elif isinstance(layer, keras.layers.MaxPooling2D):
        yield from (*inputs, *outputs)
    elif isinstance(layer, (keras.layers.Multiply, keras.layers.Dot, GeneralizedMean, *_GLOBAL_MAXIMA)):
        yield from inputs
    elif isinstance(layer, keras.layers.Softmax):
        yield from outputs
    activation = _activation(layer)
    if activation != "linear":
        yield from outputs if activation in _BY_OUTPUT else inputs


def _kept_bytes(network: Network, setting: Setting) -> int:
    """Return the bytes an image that the backward pass reads of the forward pass."""
    made_by = {tensor: call for call in network.calls for tensor in call.outputs}
    read_whole = {t for call in network.calls if call.kind != "elementwise" for t in call.inputs}

    def sources(tensor: int) -> set[int]:
        """Return the tensors that are kept so that `tensor` can be read later."""
        maker = made_by.get(tensor)
        if not setting.compile or maker is None or tensor in read_whole:
            return {tensor}
        if maker.kind not in ("elementwise", "normalization"):
            return {tensor}
        return set().union(*(sources(below) for below in maker.inputs))

    kept: set[int] = set()
    kept_in_float32: set[int] = set()
    for call in network.calls:
        widened = call.kind == "normalization" and not setting.compile
        for tensor in call.reads:
            (kept_in_float32 if widened else kept).update(sources(tensor))
    if setting.width == _FLOAT32:
        kept |= kept_in_float32
        kept_in_float32 = set()
    total = setting.width * _elements(network, kept) + _FLOAT32 * _elements(network, kept_in_float32)
    if setting.compile:
        # Measured: XLA keeps the sum before a convolution's own relu rather than the relu, which
        # is cheap to compute again, but the relu too where a pooling reads it.
        pooled = {t for call in network.calls if call.kind == "max pooling" for t in call.inputs}
        both = {t for t in kept & pooled if made_by[t].kind == "activated convolution"}
        total += setting.width * _elements(network, both)
    return total


def _elements(network: Network, tensors: set[int]) -> int:
    return sum(network.elements[tensor] for tensor in tensors - {network.image})


def _workspace(network: Network) -> int:
    """Return the bytes an image beside the activations, op by op.

    Measured: the gradient of the largest activation, in float32.
    """
    return _FLOAT32 * max(network.elements[t] for call in network.calls for t in call.outputs)


def _xla_workspace(network: Network, setting: Setting) -> int:
    """Return the bytes an image beside the activations under XLA: the gradient of the largest max pooling.

    XLA finds the place of each maximum by reducing the pixels together with their four indices
    (its SelectAndScatterExpander), and on a CPU writes these indices down for every pixel first.
    """
    most = 0
    for call in network.calls:
        if call.kind == "max pooling":
            entering, leaving = (_elements(network, set(tensors)) for tensors in (call.inputs, call.outputs))
            indices = 4 * 4 * (leaving if setting.on_gpu else leaving + entering)
            most = max(most, indices + setting.width * leaving)
    return most
