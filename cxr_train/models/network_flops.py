"""The floating-point operations of a backbone and its head, by image size, without building the network.

All convolutions whose output has the same size take a fixed number of operations for each pixel of it.
Strides, kernels and padding make of an image of S pixels each way an output of (S + offset) // divisor
pixels, so a few numbers say what a network costs at any size. They are of the networks in
`backbones.BACKBONES`, counted as `flops` counts a graph; the tests compare the two.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from cxr_train.models.added import (
    POOLING_WIDTH,
    SPATIAL_KERNEL,
    Attention,
    eca_kernel,
    excite_width,
    parse_attention,
)


@dataclasses.dataclass(frozen=True)
class NetworkFlops:
    """What a backbone takes.

    Attributes:
      features: channels of its output.
      first: operations for each output pixel of the first convolution, which is one of the first stage.
      stages: (offset, divisor, operations for each output pixel) of all convolutions of one output size.
      pooled: operations of the convolutions of pooled features, whatever the size of the image.
      ends: channels at the end of each stage, of `stages.stage_ends`.
      last: (offset, divisor) of the last map, where it is not that of the last stage.
    """

    features: int
    first: int
    stages: tuple[tuple[int, int, int], ...]
    pooled: int = 0
    ends: tuple[int, ...] = ()
    last: tuple[int, int] | None = None


NETWORK_FLOPS = {
    "mobilenet_v2": NetworkFlops(
        1280,
        1_728,
        ((1, 2, 6_400), (3, 4, 29_664), (7, 8, 80_160), (15, 16, 1_047_168), (31, 32, 3_216_128)),
        ends=(96, 144, 192, 576, 1280),
    ),
    "vgg16": NetworkFlops(
        512,
        3_456,
        ((0, 1, 77_184), (0, 2, 442_368), (0, 4, 2_949_120), (0, 8, 11_796_480), (0, 16, 14_155_776)),
        ends=(64, 128, 256, 512, 512),
        last=(0, 32),
    ),
    "densenet201": NetworkFlops(
        1920,
        18_816,
        ((1, 2, 18_816), (3, 4, 729_088), (3, 8, 2_080_768), (3, 16, 19_136_512), (3, 32, 13_762_560)),
        ends=(64, 128, 256, 896, 1920),
    ),
    "xception": NetworkFlops(
        2048,
        1_728,
        (
            (-1, 2, 1_728),
            (-5, 2, 89_472),
            (-3, 4, 219_904),
            (1, 8, 1_515_952),
            (9, 16, 28_703_584),
            (25, 32, 10_974_208),
        ),
        ends=(64, 128, 256, 728, 2048),
    ),
    "inception_resnet_v2": NetworkFlops(
        1536,
        1_728,
        (
            (-1, 2, 1_728),
            (-5, 2, 55_296),
            (-7, 4, 10_240),
            (-15, 4, 276_480),
            (-19, 8, 4_325_376),
            (-27, 16, 51_953_664),
            (-43, 32, 51_777_536),
        ),
        ends=(64, 192, 320, 1088, 1536),
    ),
    "resnet152_v2": NetworkFlops(
        2048,
        18_816,
        ((1, 2, 18_816), (3, 4, 319_488), (7, 8, 4_333_568), (15, 16, 79_724_544), (31, 32, 31_588_352)),
        ends=(64, 256, 512, 1024, 2048),
    ),
    "nasnet_large": NetworkFlops(
        4032,
        5_184,
        ((-1, 2, 13_248), (1, 4, 132_900), (5, 8, 8_576_400), (13, 16, 36_732_864), (29, 32, 123_591_552)),
        ends=(96, 84, 1008, 2016, 4032),
    ),
    "inception_v3": NetworkFlops(
        2048,
        1_728,
        (
            (-1, 2, 1_728),
            (-5, 2, 55_296),
            (-7, 4, 10_240),
            (-15, 4, 276_480),
            (-19, 8, 1_778_688),
            (-27, 16, 17_393_664),
            (-43, 32, 23_986_176),
        ),
        ends=(64, 192, 288, 768, 2048),
    ),
    "efficientnet_b1": NetworkFlops(
        1280,
        1_728,
        ((1, 2, 7_200), (3, 4, 46_080), (7, 8, 138_720), (15, 16, 1_892_256), (31, 32, 8_572_736)),
        pooled=2_216_960,
        ends=(96, 144, 240, 672, 1280),
    ),
    "efficientnet_b7": NetworkFlops(
        2560,
        3_456,
        ((1, 2, 28_864), (3, 4, 412_416), (7, 8, 1_202_880), (15, 16, 18_677_568), (31, 32, 82_684_544)),
        pooled=23_799_808,
        ends=(192, 288, 480, 1344, 2560),
    ),
    "efficientnet_v2_s": NetworkFlops(
        1280,
        1_296,
        ((1, 2, 22_032), (3, 4, 603_648), (7, 8, 1_206_272), (15, 16, 7_243_776), (31, 32, 23_571_328)),
        pooled=7_329_792,
        ends=(24, 48, 256, 960, 1280),
    ),
    "convnext_tiny": NetworkFlops(
        768,
        9_216,
        ((0, 4, 479_808), (0, 8, 1_973_376), (0, 16, 22_162_176), (0, 32, 30_896_640)),
        ends=(96, 192, 384, 768),
    ),
    "convnext_small": NetworkFlops(
        768,
        9_216,
        ((0, 4, 479_808), (0, 8, 1_973_376), (0, 16, 65_306_880), (0, 32, 30_896_640)),
        ends=(96, 192, 384, 768),
    ),
}


def flops_per_image(
    backbone: str,
    image_size: int,
    head: Sequence[int],
    classes: int,
    features: int = 0,
    *,
    of_findings: bool = False,
    attention: str = "none",
    pooling: str = "gap",
) -> tuple[int, int]:
    """Return the floating-point operations an image: of the forward pass, and of a training step.

    A training step takes three forward passes, since each convolution and product has two gradients of its
    own size, less the gradient of the image, which nothing needs. An embedding of `features` has no backbone.
    The arguments are those of `classifier.build_model`.
    """
    if features:
        widths = [features, *head, classes]
        forward = sum(2 * before * after for before, after in itertools.pairwise(widths))
        return forward, 3 * forward - 2 * features * widths[1]
    network = NETWORK_FLOPS[backbone]
    pixels = [((image_size + offset) // divisor) ** 2 for offset, divisor, _ in network.stages]
    convolutions = sum(count * each for count, (_, _, each) in zip(pixels, network.stages, strict=True))
    maps = classes if of_findings and pooling == "attention" else 1
    # The head is run for each map; of the logits each map gives one.
    hidden = sum(2 * before * after for before, after in itertools.pairwise([network.features, *head]))
    products = maps * hidden + 2 * (head[-1] if head else network.features) * classes
    forward = convolutions + network.pooled + products + _gates(network, image_size, attention)
    if pooling == "attention":
        offset, divisor = network.last or network.stages[-1][:2]
        at_each = 2 * POOLING_WIDTH * (network.features + maps) + 2 * maps * network.features
        forward += ((image_size + offset) // divisor) ** 2 * at_each
    return forward, 3 * forward - pixels[0] * network.first


def _gates(network: NetworkFlops, image_size: int, text: str) -> int:
    """Return the operations of `--attention=text`; stages that end in one pixel have no gate."""
    attention = parse_attention(text)
    offsets = {divisor: offset for offset, divisor, _ in network.stages}  # the last of each resolution
    sides = [(image_size + offset) // divisor for divisor, offset in offsets.items()]
    ends = [(side, channels) for side, channels in zip(sides, network.ends, strict=True) if side > 1]
    return sum(
        _gate(attention, side, channels)
        for stage, (side, channels) in enumerate(ends, 1)
        if not attention.stages or stage in attention.stages
    )


def _gate(attention: Attention, side: int, channels: int) -> int:
    excite = 4 * channels * excite_width(channels)
    spatial = 2 * side**2 * SPATIAL_KERNEL**2 * 2
    return {
        "none": 0,
        "se": excite,
        "eca": 2 * channels * eca_kernel(channels),
        "cbam": 2 * excite + spatial,
    }[attention.kind]
