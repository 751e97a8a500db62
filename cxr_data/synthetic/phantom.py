"""Draw synthetic frontal chest X-rays: a phantom for demos and tests, no medicine.

anatomy of a patient -> lungs -> bones and vessels -> lesions of a finding -> exposure

Brightness follows the convention of chest films: air is dark, bone is bright. All
geometry is in a frame of [-1, 1] x [-1, 1], x to the right and y down, so that the
patient's left lung, with the heart, is on the right side of the picture.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

Layer = npt.NDArray[np.float32]
Lesion = Callable[[list[Layer], np.random.Generator], Layer]

# Every picture is drawn at this size and then scaled: its content must not tell the
# size of its file, or the file size of its class.
CANVAS = 512

_SIDES = (-1, 1)


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """What stays the same in every picture of one patient. Lengths in frame units.

    Attributes:
      chest_width: half of the width of the rib cage.
      apex: y of the top of the lungs.
      base: y of the domes of the diaphragm.
      heart_width: half-width of the heart shadow.
      heart_tilt: angle of the heart's long axis in radians.
      spine_width: half-width of the vertebral column.
      spine_bend: sideways bow of the spine (scoliosis), signed.
      ribs: number of visible rib pairs.
      rib_drop: how far a rib descends on its way round the chest.
      softness: thickness of the soft tissue over the lungs, 0 to 1.
    """

    chest_width: float
    apex: float
    base: float
    heart_width: float
    heart_tilt: float
    spine_width: float
    spine_bend: float
    ribs: int
    rib_drop: float
    softness: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Anatomy":
        """Draw a patient."""
        return cls(
            chest_width=rng.uniform(0.66, 0.78),
            apex=rng.uniform(-0.80, -0.70),
            base=rng.uniform(0.36, 0.52),
            heart_width=rng.uniform(0.24, 0.33),
            heart_tilt=rng.uniform(0.4, 0.8),
            spine_width=rng.uniform(0.06, 0.08),
            spine_bend=rng.uniform(-0.03, 0.03),
            ribs=int(rng.integers(8, 11)),
            rib_drop=rng.uniform(0.42, 0.56),
            softness=rng.uniform(0.0, 1.0),
        )


def draw_finding(anatomy: Anatomy, finding: str, rng: np.random.Generator) -> Layer:
    """Draw one picture of a patient.

    Position, exposure, noise and the extent of the disease are drawn again for each
    picture. The exposure is that of the same patient without lesions, and the lungs as a
    whole keep its brightness and contrast: neither the frame nor the mean of a picture
    depends on the finding, and a network has to look into the lungs.

    Args:
      anatomy: the patient.
      finding: a key of `FINDINGS`.
      rng: the only source of randomness.

    Returns:
      float32 [CANVAS, CANVAS] in [0, 1].
    """
    return _draw(anatomy, [FINDINGS[finding]], rng)


def draw_findings(anatomy: Anatomy, findings: Collection[str], rng: np.random.Generator) -> Layer:
    """Draw one picture of a patient with any number of findings, see `draw_finding`.

    Args:
      anatomy: the patient.
      findings: of `SEVERAL_FINDINGS`; none for clear lungs and a heart of usual width.
      rng: the only source of randomness.
    """
    if CARDIOMEGALY in findings:
        anatomy = dataclasses.replace(anatomy, heart_width=_WIDE_HEART * anatomy.heart_width)
    return _draw(anatomy, [LESIONS[name] for name in LESIONS if name in findings], rng)


def _draw(anatomy: Anatomy, drawn: Sequence[Lesion], rng: np.random.Generator) -> Layer:
    lungs = [_lung(anatomy, side) for side in _SIDES]
    air = lungs[0] + lungs[1]
    layers_of_lesions = [draw(lungs, rng) for draw in drawn] or [_normal(lungs, rng)]
    lesions = np.clip(np.sum(layers_of_lesions, axis=0, dtype=np.float32), 0.0, 1.0)
    heart = _heart(anatomy)
    body = _body(anatomy)
    density = body + _mediastinum(anatomy) + 0.08 * heart
    # Dark is the air where no heart lies in front; lesions take that darkness away.
    seen = air * (1.0 - 0.85 * heart)
    darkness = (0.52 - 0.10 * anatomy.softness - 0.20 * _vessels(rng)) * seen
    density -= darkness
    # Bones stand out against air and drown in the soft tissue of heart and abdomen.
    density += np.minimum(body, 0.35 + 0.65 * air) * _bones(anatomy, rng)
    # Tissue is uneven; the air beside the patient stays black.
    tissue = 1.0 + 0.08 * _texture(rng, cells=6) + 0.03 * _texture(rng, cells=48)
    layers = [density * tissue, (density + darkness * lesions) * tissue, air]
    clear, ill, air = _position(layers, rng)
    gain, gamma = _exposure(clear, rng)
    picture = _like(_exposed(clear, gain, gamma), _exposed(ill, gain, gamma), air)
    # No two detectors are equally sharp; lesions alone would make ill pictures the softer ones.
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 2.5)).astype(np.float32)


def _normal(lungs: list[Layer], rng: np.random.Generator) -> Layer:
    """Clear lungs."""
    return np.zeros((CANVAS, CANVAS), np.float32)


def _covid(lungs: list[Layer], rng: np.random.Generator) -> Layer:
    """Draw ground glass: hazy patches in both lungs, towards the outer edge and the base."""
    haze = np.zeros((CANVAS, CANVAS), np.float32)
    for side in _SIDES:
        for _ in range(rng.integers(4, 8)):
            center = side * rng.uniform(0.42, 0.62), rng.uniform(-0.35, 0.35)
            haze += _blob(center, rng.uniform(0.10, 0.20), rng.uniform(0.12, 0.26), rng)
    mottled = 0.75 + 0.5 * _texture(rng, cells=24)
    return np.minimum(haze, 1.0) * mottled * rng.uniform(0.42, 0.62)


def _pneumonia(lungs: list[Layer], rng: np.random.Generator) -> Layer:
    """Draw a consolidation: one dense focus with a ragged border in one lung."""
    side = rng.choice(_SIDES)
    # In the left lung above the heart, behind which it could hardly be seen.
    lowest = 0.25 if side < 0 else -0.08
    center = side * rng.uniform(0.30, 0.48), rng.uniform(-0.42, lowest)
    focus = _blob(center, rng.uniform(0.14, 0.22), rng.uniform(0.13, 0.20), rng)
    ragged = focus + 0.20 * _texture(rng, cells=14) * (focus > 0.05)
    return _ramp(ragged - 0.25, 0.50) * rng.uniform(0.80, 0.95)


# What a network is to learn, by class name.
FINDINGS: dict[str, Lesion] = {"covid": _covid, "normal": _normal, "pneumonia": _pneumonia}

LESIONS: dict[str, Lesion] = {"Consolidation": _pneumonia, "Ground glass": _covid}
"""Findings in the lungs, of which a picture may have several."""

CARDIOMEGALY = "Cardiomegaly"
SEVERAL_FINDINGS = (CARDIOMEGALY, *LESIONS)
_WIDE_HEART = 1.4


@functools.cache
def _frame() -> tuple[Layer, Layer]:
    """Return x as [1, CANVAS] and y as [CANVAS, 1], both from -1 to 1."""
    ticks = np.linspace(-1.0, 1.0, CANVAS, dtype=np.float32)
    return ticks[np.newaxis, :], ticks[:, np.newaxis]


def _pixels(x: npt.ArrayLike, y: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """Point of the frame as OpenCV's pixel coordinates, int32 [N, 1, 2]."""
    points = np.stack(np.broadcast_arrays(x, y), axis=-1)
    return np.round((points + 1.0) / 2.0 * (CANVAS - 1)).astype(np.int32).reshape(-1, 1, 2)


def _ramp(distance: Layer, width: float) -> Layer:
    """Return a soft edge: 0 below 0, 1 above `width`, a cubic (smoothstep) between."""
    t = np.clip(distance / width, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _blob(center: tuple[float, float], width: float, height: float, rng: np.random.Generator) -> Layer:
    """Return a Gaussian spot of height 1 and of the given standard deviations, tilted at random."""
    # Smooth enough to be computed on every fourth pixel.
    x, y = (ticks.reshape(-1, 4).mean(axis=1) for ticks in _frame())
    angle = rng.uniform(0.0, np.pi)
    dx, dy = x - center[0], y[:, np.newaxis] - center[1]
    along = (dx * np.cos(angle) + dy * np.sin(angle)) / width
    across = (dy * np.cos(angle) - dx * np.sin(angle)) / height
    spot = np.exp(-0.5 * (along * along + across * across)).astype(np.float32)
    return cv2.resize(spot, (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR)


def _texture(rng: np.random.Generator, cells: int) -> Layer:
    """Return smooth noise in [-1, 1] with about `cells` bumps across the picture."""
    coarse = rng.uniform(-1.0, 1.0, (cells, cells)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC), -1.0, 1.0)


def _lung(anatomy: Anatomy, side: int) -> Layer:
    """Return one lung field: 1 inside, 0 outside, with a soft edge as of a rounded organ."""
    x, y = _frame()
    out = side * x
    down = np.clip((y - anatomy.apex) / (anatomy.base - anatomy.apex), 0.0, 1.3)
    outer = anatomy.chest_width * np.sqrt(np.clip(1.0 - (1.0 - np.minimum(down, 1.0)) ** 2.4, 0.0, 1.0))
    inner = 0.11 + 0.05 * (1.0 - np.minimum(down, 1.0)) ** 3
    # The right dome stands higher, over the liver; both fall away to the sides.
    dome = anatomy.base - (0.05 if side < 0 else 0.0) + 0.90 * (out - 0.38) ** 2
    depth = np.minimum(np.minimum(outer - out, out - inner), np.minimum(dome - y, y - anatomy.apex))
    return _ramp(depth, 0.10)


def _body(anatomy: Anatomy) -> Layer:
    """Draw soft tissue: neck, shoulders and trunk, and the abdomen under the diaphragm."""
    x, y = _frame()
    shoulders = 1.0 / (1.0 + np.exp(-(y - anatomy.apex - 0.02) / 0.05))
    half_width = 0.20 + (anatomy.chest_width + 0.04 + 0.12 * anatomy.softness) * shoulders
    trunk = _ramp(half_width - np.abs(x), 0.16)
    abdomen = _ramp(y - anatomy.base + 0.05, 0.5)
    return trunk * (0.52 + 0.06 * anatomy.softness + 0.20 * abdomen)


def _heart(anatomy: Anatomy) -> Layer:
    """Return the heart and the knob of the aorta above it: 1 inside, 0 outside."""
    x, y = _frame()
    dx, dy = x - 0.36 * anatomy.heart_width - 0.02, y - anatomy.base + 0.22
    cos, sin = np.cos(anatomy.heart_tilt), np.sin(anatomy.heart_tilt)
    along = (dx * cos + dy * sin) / (1.30 * anatomy.heart_width)
    across = (dy * cos - dx * sin) / (0.95 * anatomy.heart_width)
    heart = _ramp(1.0 - np.sqrt(along * along + across * across), 0.25)
    aorta = _ramp(1.0 - np.hypot((x - 0.10) / 0.10, (y + 0.28) / 0.12), 0.6)
    return np.maximum(heart, 0.6 * aorta)


def _mediastinum(anatomy: Anatomy) -> Layer:
    """Return the bright column between the lungs and, dark in it, the windpipe."""
    x, y = _frame()
    column = _ramp(0.17 - np.abs(x), 0.08) * _ramp(y - anatomy.apex, 0.2)
    windpipe = _ramp(0.055 - np.abs(x), 0.04) * _ramp(-0.22 - y, 0.1)
    return 0.08 * column - 0.12 * windpipe


def _bones(anatomy: Anatomy, rng: np.random.Generator) -> Layer:
    """Draw spine, ribs and collar bones."""
    x, y = _frame()
    bow = anatomy.spine_bend * np.cos(1.5 * y)
    vertebrae = 0.75 + 0.25 * np.cos(2.0 * np.pi * y / 0.135)
    spine = _ramp(anatomy.spine_width - np.abs(x - bow), 0.03) * vertebrae
    ribs = np.zeros((CANVAS, CANVAS), np.uint8)
    for points, brightness in _rib_curves(anatomy):
        _draw_tube(ribs, points, brightness)
    collar_bones = np.zeros((CANVAS, CANVAS), np.uint8)
    for points in _collar_bone_curves(anatomy, rng):
        _draw_tube(collar_bones, points, 230)
    return 0.16 * spine + 0.24 * _blur(ribs, 2.0) + 0.16 * _blur(collar_bones, 2.0)


def _rib_curves(anatomy: Anatomy) -> Iterator[tuple[npt.NDArray[np.int32], int]]:
    """Yield each visible rib arc as pixels and a brightness in [0, 255].

    A rib is half of a tilted ellipse round the chest. The part behind (posterior,
    from the spine outwards) is nearer to the detector's plane and shows brighter
    than the part in front (anterior, from the side inwards and down).
    """
    spacing = (anatomy.base - anatomy.apex + 0.10) / anatomy.ribs
    for number in range(anatomy.ribs):
        start = anatomy.apex + 0.02 + number * spacing
        down = min(max((start + 0.12 - anatomy.apex) / (anatomy.base - anatomy.apex), 0.05), 1.0)
        reach = (anatomy.chest_width + 0.03) * np.sqrt(1.0 - (1.0 - down) ** 2.4)
        for first, last, brightness in ((0.12, 1.65, 190), (1.65, 2.45, 110)):
            angle = np.linspace(first, last, 24)
            height = start + anatomy.rib_drop * 0.5 * (1.0 - np.cos(angle)) - 0.05 * np.sin(2.0 * angle)
            for side in _SIDES:
                yield _pixels(side * reach * np.sin(angle), height), brightness


def _collar_bone_curves(anatomy: Anatomy, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int32]]:
    """Yield two slightly S-shaped curves from the breast bone up to the shoulders, as pixels."""
    along = np.linspace(0.0, 1.0, 24)
    for side in _SIDES:
        rise = (0.13 + rng.uniform(-0.02, 0.02)) * along
        height = anatomy.apex + 0.17 - rise + 0.03 * np.sin(6.0 * along)
        yield _pixels(side * (0.09 + 0.62 * along), height)


def _draw_tube(layer: npt.NDArray[np.uint8], points: npt.NDArray[np.int32], brightness: int) -> None:
    """Draw a bone along `points`: a bright cortex and a fainter middle."""
    cv2.polylines(layer, [points], False, (brightness,), 15, cv2.LINE_AA)
    cv2.polylines(layer, [points], False, (int(0.75 * brightness),), 9, cv2.LINE_AA)


def _vessels(rng: np.random.Generator) -> Layer:
    """Draw lung markings: branches that leave each hilum and get thinner and fainter."""
    layer = np.zeros((CANVAS, CANVAS), np.uint8)
    for side in _SIDES:
        for angle in np.linspace(-1.3, 1.35, 13) + rng.normal(0.0, 0.08, 13):
            steps = np.cumsum(np.full(9, rng.uniform(0.03, 0.055)))
            bend = angle + np.cumsum(rng.normal(0.0, 0.12, 9))
            points = _pixels(side * (0.15 + steps * np.cos(bend)), -0.08 + steps * np.sin(bend))
            for part in range(8):
                piece = points[part : part + 2]
                cv2.polylines(layer, [piece], False, (220 - 22 * part,), max(1, 6 - part), cv2.LINE_AA)
    return _blur(layer, 1.5)


def _blur(layer: npt.NDArray[np.uint8], deviation: float) -> Layer:
    """Smooth a drawing of [0, 255] and return it in [0, 1]."""
    return cv2.GaussianBlur(layer, (0, 0), deviation).astype(np.float32) / 255.0


def _position(layers: Sequence[Layer], rng: np.random.Generator) -> list[Layer]:
    """Turn, shift and scale the patient a little, as between two visits."""
    middle = (CANVAS - 1) / 2.0
    turn = cv2.getRotationMatrix2D((middle, middle), rng.uniform(-4.0, 4.0), rng.uniform(1.0, 1.15))
    shift = rng.uniform(-0.03, 0.03, 2) * CANVAS
    matrix = turn + np.array([[0.0, 0.0, shift[0]], [0.0, 0.0, shift[1]]])
    return [
        cv2.warpAffine(layer, matrix, (CANVAS, CANVAS), borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
        for layer in layers
    ]


def _exposure(density: Layer, rng: np.random.Generator) -> tuple[float, float]:
    """Return the gain and gamma that bring a picture to a random mean brightness and contrast.

    Both keep black black: the air beside the patient must not tell what was set.
    """
    mean, deviation = rng.uniform(0.40, 0.54), rng.uniform(0.20, 0.25)
    few = np.maximum(density[::8, ::8], 0.0)
    gamma, gain = 1.0, 1.0
    for _ in range(12):
        curve = few**gamma
        gain = mean / curve.mean()
        gamma *= deviation / np.minimum(gain * curve, 1.0).std()
    return float(gain), float(gamma)


def _exposed(density: Layer, gain: float, gamma: float) -> Layer:
    return np.minimum(np.float32(gain) * np.maximum(density, 0.0) ** np.float32(gamma), 1.0)


def _like(clear: Layer, ill: Layer, lungs: Layer) -> Layer:
    """Return the ill picture, with the mean and deviation in the lungs that the clear one has there."""
    few = [(picture[::4, ::4], lungs[::4, ::4]) for picture in (clear, ill)]
    means = [np.average(picture, weights=weights) for picture, weights in few]
    deviations = [
        np.average((picture - mean) ** 2, weights=weights) ** 0.5
        for (picture, weights), mean in zip(few, means, strict=True)
    ]
    scale = np.float32(deviations[0] / deviations[1])
    brought = (ill - np.float32(means[1])) * scale + np.float32(means[0])
    return np.clip(ill + lungs * (brought - ill), 0.0, 1.0)
