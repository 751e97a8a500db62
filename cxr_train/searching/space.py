"""The space of a search: the flags of `cxr_train.main` that vary, and over what.

    {"backbone": ["mobilenet_v2", "xception"],
     "dropout": [0, {"dropout": 0.5, "dropout_after": "head_1"}],
     "learning_rate": {"low": 1e-5, "high": 1e-2, "log": true}}

A list holds the values of a flag; an object in it sets several flags. An object in place of a list is a
range, from which any number may be drawn.
"""

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cxr_data.core.errors import UsageError
from cxr_data.core.schema import FieldError, checked
from cxr_data.core.settings import read_json
from cxr_train.ablation.grid import flag_text

Params = Mapping[str, str | float]
"""A configuration: by dimension, the name of a choice, or a number of a range."""

_RANGE = ("low", "high", "log")
_DIGITS = 6
# Values that stay within a study of some dozens of trials. A flag that the trainer does not have is left out.
_DEFAULT: dict[str, Any] = {
    "backbone": ["mobilenet_v2", "xception", "inception_v3", "densenet201", "efficientnet_b1"],
    "input_range": ["imagenet"],  # each network's own: in the trainer's [0, 1] some see a black image
    "attention": ["none", "se", "eca", "cbam"],
    "pooling": ["gap", "gem", "attention"],
    "head": ["", "128-32", "1024-1024"],
    "dropout": [0, 0.2, 0.5],
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "freeze": ["none", "backbone"],
}
# Flags of a network; without one, as on embeddings, there is nothing that they could change.
_OF_A_NETWORK = ("input_range", "attention", "pooling", "freeze")
_NO_NETWORK = "none"
_WEIGHTS_BY_NAME = ("auto", "imagenet", "none")


@dataclasses.dataclass(frozen=True)
class Choices:
    """A dimension of some values.

    Attributes:
      options: by name, the flags that it sets.
    """

    options: Mapping[str, Mapping[str, str]]


@dataclasses.dataclass(frozen=True)
class Range:
    """A dimension of all numbers between two, both included; uniform, or uniform in the logarithm."""

    low: float
    high: float
    log: bool

    def rounded(self, value: float) -> float:
        """Return a number as a command line has it: within the range, and of few digits."""
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)

    def at(self, share: float) -> float:
        """Return the number at a share of the way, in [0, 1], from the lower end to the upper."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return self.rounded(math.exp(low + share * (high - low)))
        return self.rounded(self.low + share * (self.high - self.low))


@dataclasses.dataclass(frozen=True)
class Space:
    """All configurations that a search may try."""

    dimensions: Mapping[str, Choices | Range]

    @property
    def size(self) -> int | None:
        """Number of configurations; None where a range has any number of them."""
        counts = [len(one.options) for one in self.dimensions.values() if isinstance(one, Choices)]
        return math.prod(counts) if len(counts) == len(self.dimensions) else None

    def has(self, params: Params) -> bool:
        """Return whether this is a configuration of the space."""
        return params.keys() == self.dimensions.keys() and all(
            isinstance(value := params[name], (int, float)) and one.low <= value <= one.high
            if isinstance(one, Range)
            else params[name] in one.options
            for name, one in self.dimensions.items()
        )

    @property
    def varied(self) -> tuple[str, ...]:
        """The flags that a configuration sets."""
        names: dict[str, None] = {}
        for name, dimension in self.dimensions.items():
            names |= dict.fromkeys([name] if isinstance(dimension, Range) else _flags_of(dimension))
        return tuple(names)

    def flags(self, params: Params) -> dict[str, str]:
        """Return the flags of a configuration, as text."""
        flags: dict[str, str] = {}
        for name, dimension in self.dimensions.items():
            value = params[name]
            if isinstance(dimension, Range):
                flags[name] = f"{value:.{_DIGITS}g}"
            else:
                flags |= dimension.options[str(value)]
        return flags

    def numbered(self, number: int) -> Params:
        """Return a configuration of a space of some `size` by its number, from 0 on."""
        names = [list(one.options) for one in self.dimensions.values() if isinstance(one, Choices)]
        places = np.unravel_index(number, [len(each) for each in names])
        return {
            name: each[int(place)] for name, each, place in zip(self.dimensions, names, places, strict=True)
        }

    def outline(self) -> Iterator[Params]:
        """Yield every combination of choices, each with the middle of every range."""
        values: list[list[str | float]] = [
            [one.at(0.5)] if isinstance(one, Range) else list(one.options) for one in self.dimensions.values()
        ]
        for chosen in itertools.product(*values):
            yield dict(zip(self.dimensions, chosen, strict=True))

    def drawn(self, draw: np.random.Generator) -> Params:
        """Return a configuration at random."""
        params: dict[str, str | float] = {}
        for name, dimension in self.dimensions.items():
            if isinstance(dimension, Range):
                params[name] = dimension.at(draw.random())
            else:
                names = list(dimension.options)
                params[name] = names[int(draw.integers(len(names)))]
        return params

    def usual(self, defaults: Mapping[str, str]) -> Params:
        """Return the default configuration: of each dimension the trainer's default, else the first value.

        Args:
          defaults: of the trainer's flags, as text.
        """
        params: dict[str, str | float] = {}
        for name, dimension in self.dimensions.items():
            if isinstance(dimension, Range):
                given = _number(defaults.get(name, ""))
                inside = given is not None and dimension.low <= given <= dimension.high
                params[name] = dimension.rounded(given) if inside and given is not None else dimension.at(0.5)
            else:
                fits = (
                    label
                    for label, flags in dimension.options.items()
                    if all(_same(value, defaults.get(flag, "")) for flag, value in flags.items())
                )
                params[name] = next(fits, next(iter(dimension.options)))
        return params

    def document(self) -> dict[str, Any]:
        """Return the space as JSON."""
        return {
            name: dataclasses.asdict(one) if isinstance(one, Range) else dict(one.options)
            for name, one in self.dimensions.items()
        }


def read_space(path: str) -> Space:
    """Read the space in a JSON file, see above.

    Raises:
      UsageError: it cannot be read, or a value is none that a flag could have.
    """
    where = f"--space={path}"
    found = read_json(
        "space", path, pairs=lambda pairs: _once(where, pairs), remedy="name a file, or leave it out"
    )
    return make_space(found, where)


def default_space(known: Collection[str], given: Mapping[str, str], sizes: Sequence[int]) -> Space:
    """Return the space of a search that no file describes.

    Args:
      known: names of the trainer's flags.
      given: flags on the command line, which therefore do not vary.
      sizes: of the images in the data; several of them vary.
    """
    left_out = {*given, *(_OF_A_NETWORK if given.get("backbone") == _NO_NETWORK else ())}
    if given.get("weights", _NO_NETWORK) not in _WEIGHTS_BY_NAME:
        left_out.add("backbone")  # a file has the weights of one network
    values = {name: one for name, one in _DEFAULT.items() if name in known and name not in left_out}
    if len(sizes) > 1 and "image_size" not in left_out:
        values["image_size"] = sorted(sizes)
    return make_space(values, "--space")


def make_space(values: Any, where: str) -> Space:
    """Make a space of what a JSON file holds.

    Args:
      values: the content, see above.
      where: it comes from, which errors begin with.

    Raises:
      UsageError: it is no space.
    """
    if not isinstance(values, dict) or not values:
        raise UsageError(f'{where}: must be an object of flags and values, as {{"dropout": [0, 0.5]}}')
    dimensions = {name: _dimension(f"{where}, {name}", name, value) for name, value in values.items()}
    owners: dict[str, str] = {}
    for name in dimensions:
        for flag in Space({name: dimensions[name]}).varied:
            if flag in owners:
                raise UsageError(f"{where}: --{flag} is set by {owners[flag]} and by {name}; leave one out")
            owners[flag] = name
    return Space(dimensions)


def _dimension(where: str, name: str, value: Any) -> Choices | Range:
    if isinstance(value, dict):
        return _range(where, name, value)
    if not isinstance(value, list) or not value:
        raise UsageError(f'{where}: must be a list of values, or a range {{"low": 0, "high": 0.5}}')
    options: dict[str, dict[str, str]] = {}
    for one in value:
        if isinstance(one, dict):
            flags = {flag: flag_text(where, flag, each) for flag, each in one.items()}
            label = " ".join(f"{flag}={text}" for flag, text in flags.items())
        else:
            label = flag_text(where, name, one)
            flags = {name: label}
        if label in options:
            raise UsageError(f"{where}: {label} occurs twice; leave one out")
        options[label] = flags
    return Choices(options)


def _range(where: str, name: str, value: Mapping[str, Any]) -> Range:
    try:
        low, high = (float(checked(float, value.get(end))) for end in _RANGE[:2])
    except FieldError:
        low = high = math.nan
    if set(value) - set(_RANGE) or not math.isfinite(high - low):
        raise UsageError(f'{where}: a range must be like {{"low": 1e-5, "high": 1e-2, "log": true}}')
    flag_text(where, name, 0)
    found = Range(low, high, value.get("log") is True)
    if not found.low < found.high:
        raise UsageError(f"{where}: low={found.low:g} must be below high={found.high:g}")
    if found.log and found.low <= 0:
        raise UsageError(f'{where}: low={found.low:g} must be above 0 with "log"')
    return found


def _once(where: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{where}: {name!r} occurs twice; leave one out")
    return dict(pairs)


def _flags_of(dimension: Choices) -> list[str]:
    return list(dict.fromkeys(flag for flags in dimension.options.values() for flag in flags))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _same(text: str, other: str) -> bool:
    number = _number(text)
    return text == other or (number is not None and number == _number(other))
