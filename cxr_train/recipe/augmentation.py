"""How far training images may be changed at random: `--augment` and `--augment_flip`."""

import dataclasses

from cxr_data.core.errors import UsageError

DEFAULT_RANGES = {"rotation": 10.0, "shift": 0.05, "zoom": 0.1, "brightness": 0.1, "contrast": 0.1}
# Past these, an image is another one: turned to lie, half out of sight, or black.
_LARGEST = {"rotation": 180.0, "shift": 0.5, "zoom": 0.9, "brightness": 1.0, "contrast": 1.0}


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far an image may be changed each way; the amount is uniform within the range.

    Attributes:
      rotation: degrees around the centre.
      shift: share of the width and of the height.
      zoom: of the scale around 1.
      brightness: added to the pixels, which are in [0, 1].
      contrast: of the factor around 1 by which pixels are moved from their image's mean.
      flip: whether half of the images are mirrored left to right.
    """

    rotation: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    flip: bool = False

    def __bool__(self) -> bool:
        return self != Augmentation()


def parse_augmentation(text: str, flip: bool = False) -> Augmentation:
    """Parse `none`, `all`, or a list like `rotation,zoom:0.2`.

    A name alone has its range of `DEFAULT_RANGES`.

    Raises:
      UsageError: an unknown name or one that occurs twice, or a range that is no number or too large.
    """
    if text == "none":
        return Augmentation(flip=flip)
    if text == "all":
        return Augmentation(**DEFAULT_RANGES, flip=flip)
    ranges = {}
    for part in text.split(","):
        name, _, value = part.partition(":")
        if name not in DEFAULT_RANGES:
            raise UsageError(
                f"--augment={text}: {name!r} is unknown; choose from {', '.join(DEFAULT_RANGES)}, or "
                "none or all"
            )
        if name in ranges:
            raise UsageError(f"--augment={text}: {name} occurs twice")
        ranges[name] = _parse_range(text, name, value) if value else DEFAULT_RANGES[name]
    return Augmentation(**ranges, flip=flip)


def _parse_range(text: str, name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise UsageError(f"--augment={text}: {value!r} must be a number; write {name}:0.1") from error
    if not 0 < number <= _LARGEST[name]:
        raise UsageError(f"--augment={text}: {name} must be above 0 and at most {_LARGEST[name]:g}")
    return number
