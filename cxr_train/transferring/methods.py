"""What is compared: methods as sets of flags, and the draws of their hyper-parameters.

A method is an object of flags. A value that is a list of two numbers is a range, from which each draw takes a
number. The first draw is the range's geometric middle. The others are spread evenly over its logarithm, each
seed's in its own way: of the first two behind the middle, one is in each half, of the first four, one in each
quarter. Of two whole numbers, the draws are whole.

    {"erm": {}, "coral": {"domain_method": "coral", "domain_strength": [0.1, 10.0]}}

A test-time method of `METHODS` is named without flags: {"erm": {}, "prior_correction": {}}.

"kind": "adaptation" says of a method that it sees pictures of the held-out source, without labels. A method
with `"fda_split": "held_out"` sees those that are tested, whatever it says.

A draw depends on the flag, its number and the seed alone, so that all methods, and all held-out sources, have
the same draws of a flag with the same range; a drawn warm-up is cut to half of the steps, see `plan`.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cxr_data.core.errors import UsageError
from cxr_data.core.schema import FieldError, checked
from cxr_data.core.seeded import seeded_fraction
from cxr_data.core.settings import read_json
from cxr_train.ablation.grid import RESERVED

KINDS = ("generalisation", "adaptation", "test-time")
"""What a method may see of the held-out source: nothing; pictures without labels while it is trained; their
statistics, or predictions, when it is tested. They are never compared in one table."""

PRIOR = "prior_correction"
"""The baseline's probabilities, corrected to the shares of the classes in the held-out source, by EM."""
ADABN = "adabn"
"""The baseline, with BatchNorm's statistics of pictures of the held-out source."""
HELD_OUT = "held_out"
"""Value of a method's `fda_split`: whichever pictures are held out and tested, without their labels."""

_ADAPTATION = KINDS[1]
_SEES_TARGET = {"fda_split"}

Range = tuple[float, float]
_BINARY_DIGITS = 24
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,40}")
# What a held-out source decides.
_RESERVED = (*RESERVED, "train_split", "train_on", "validation_split", "batch_size", "backbone")


@dataclasses.dataclass(frozen=True)
class Method:
    """A named set of flags and of ranges to draw flags from.

    Attributes:
      name: fit for a folder.
      flags: values by flag name, as text.
      ranges: low and high end by flag name, above 0.
      kind: one of `KINDS`.
      needs_pictures: whether it cannot be used on embeddings.
    """

    name: str
    flags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    kind: str = KINDS[0]
    needs_pictures: bool = False

    @property
    def is_trained(self) -> bool:
        """Whether it has trainings of its own, and does not only change how the baseline is tested."""
        return self.kind != KINDS[2]

    def drawn(self, draw: int, seed: int) -> dict[str, str]:
        """Return the method's flags with the numbers of a draw, from 0, of a seed."""
        return {**self.flags, **drawn(self.ranges, draw, seed)}


def _domain(name: str, **ranges: Range) -> Method:
    flags = {"domain_method": name, "balance_batches": "true"}
    return Method(name, flags, {f"domain_{key}": reach for key, reach in ranges.items()})


# The strengths of coral, dann, groupdro and irm are DomainBed's, and their middles the defaults there; a
# warm-up of IRM fits a head of some hundred steps.
METHODS = (
    Method("erm"),
    _domain("balanced"),
    _domain("coral", strength=(0.1, 10.0)),
    _domain("dann", strength=(0.01, 100.0)),
    _domain("groupdro", strength=(1e-3, 0.1)),
    _domain("irm", strength=(0.1, 1e5), warmup_steps=(1, 400)),
    Method(PRIOR, kind="test-time"),
    dataclasses.replace(_domain("mixstyle", strength=(0.25, 1.0)), needs_pictures=True),
    Method("fda", {"fda_split": HELD_OUT}, {"fda_beta": (0.01, 0.09)}, KINDS[1], needs_pictures=True),
    Method(ADABN, kind="test-time", needs_pictures=True),
)
_TEST_TIME = {method.name: method for method in METHODS if method.kind == KINDS[2]}
SHARED: Mapping[str, Range] = {"learning_rate": (1e-4, 1e-2), "weight_decay": (1e-4, 1e-1)}
"""What every method draws, unless the command line gives it."""


_COMPUTED = {"precision": ("auto", "float32"), "xla": ("auto", "off"), "strategy": ("auto", "one")}
_NOT_FOR_HEADS = (
    *("reader", "cache", "cache_dir", "verify", "on_bad_record", "max_bad_records", "shuffle_mb"),
    *("data_service", "save_minutes", "profile_steps", "deterministic", "logical_devices", "try_batch"),
    *("batch_norm_statistics", "batch_norm_batches", "explain"),
)


def refuse_for_heads(given: Mapping[str, str], methods: Sequence[Method]) -> None:
    """Refuse what would change nothing of heads, which are trained on embeddings in memory, see `heads`.

    Args:
      given: flags of the command line by name, as text.
      methods: that are compared.

    Raises:
      UsageError: a flag has no effect on them, or asks for another device or precision.
    """
    of_methods = ((f"--methods: method {one.name!r}: ", {**one.flags, **one.ranges}) for one in methods)
    for where, flags in (("", given), *of_methods):
        for flag, value in flags.items():
            if value not in _COMPUTED.get(flag, (value,)):
                raise UsageError(
                    f"{where}--{flag}={value}: must be {' or '.join(_COMPUTED[flag])} on embeddings, whose "
                    "heads are trained in float32, uncompiled and on one device; leave it out"
                )
            if flag in _NOT_FOR_HEADS:
                raise UsageError(
                    f"{where}--{flag}={value}: must not be given with embeddings, which are read into memory "
                    "and whose heads are trained again from their first step after a stop; leave it out"
                )


def fitting(methods: Sequence[Method], *, of_pictures: bool, has_batch_norm: bool) -> list[Method]:
    """Return the methods that data and network allow.

    Args:
      of_pictures: whether the data holds pictures, and not embeddings.
      has_batch_norm: whether the network has BatchNorm.
    """
    return [
        method
        for method in methods
        if (of_pictures or not method.needs_pictures) and (has_batch_norm or method.name != ADABN)
    ]


def drawn(ranges: Mapping[str, Range], draw: int, seed: int) -> dict[str, str]:
    """Return a number of each range by flag, as text."""
    return {flag: _number(reach, flag, draw, seed) for flag, reach in ranges.items()}


def _spread(number: int, flag: str, seed: int) -> float:
    """Return the point of this number, from 0 on, in a sequence of points that fills [0, 1) evenly.

    However far one counts: of the first 2, 4, 8 points and so on, one lies in each half, quarter, eighth. The
    sequence is van der Corput's, scrambled anew for each flag and seed (Owen, 1995), so that the draws of two
    flags have nothing to do with each other.
    """
    fraction, before = 0.0, ""
    for place in range(1, _BINARY_DIGITS + 1):
        number, digit = divmod(number, 2)
        is_flipped = seeded_fraction(seed, f"draw of {flag}", before) < 0.5
        fraction += (digit != is_flipped) / 2**place
        before += str(digit)
    return fraction


def _number(reach: Range, flag: str, draw: int, seed: int) -> str:
    low, high = reach
    fraction = _spread(draw - 1, flag, seed) if draw else 0.5
    value = low * (high / low) ** fraction
    is_whole = isinstance(low, int) and isinstance(high, int)
    return str(round(value)) if is_whole else f"{value:.6g}"


def read_methods(text: str) -> tuple[Method, ...]:
    """Return the methods that are asked for, the baseline first.

    Args:
      text: names of `METHODS`, separated by commas; a file, see above; or empty for all of `METHODS`.

    Raises:
      UsageError: it is neither, or a name or a value is none that a run could have.
    """
    if not text:
        return METHODS
    if not text.endswith(".json"):
        known = {method.name: method for method in METHODS}
        names = text.split(",")
        for name in names:
            if name not in known or names.count(name) > 1:
                raise UsageError(
                    f"--methods={text}: must be different ones of {', '.join(known)}, or a .json file"
                )
        return tuple(known[name] for name in names)
    document = read_json("methods", text)
    if not isinstance(document, dict) or not document:
        raise UsageError(f'--methods={text}: must be an object of names and flags, as {{"erm": {{}}}}')
    return tuple(_method(text, name, values) for name, values in document.items())


def _method(path: str, name: str, values: Any) -> Method:
    where = f"--methods={path}: method {name!r}"
    if not _NAME.fullmatch(name):
        raise UsageError(f"{where}: names a folder; use up to 41 letters, digits and _ . + - for it")
    if not isinstance(values, dict):
        raise UsageError(f'{where}: must be an object of flags, as {{"label_smoothing": [0.01, 0.2]}}')
    if name in _TEST_TIME:
        if values:
            raise UsageError(
                f"{where}: is a test-time method, which has no flags; give it as {{}}, or choose another name"
            )
        return _TEST_TIME[name]
    flags, ranges = {}, {}
    kind = values.get("kind", KINDS[0])
    if kind not in KINDS[:2]:
        raise UsageError(f"{where}: kind must be {' or '.join(KINDS[:2])}")
    for flag, value in values.items():
        if flag == "kind":
            continue
        if flag in _RESERVED:
            raise UsageError(f"{where}: --{flag} is not for a method; leave it out")
        if flag in _SEES_TARGET and value != HELD_OUT:
            raise UsageError(
                f"{where}: --{flag}: must be {HELD_OUT}, the pictures that are held out, whichever they are; "
                "write that"
            )
        if isinstance(value, list):
            ranges[flag] = _range(where, flag, value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{where}: --{flag}: must be a finite number, and is {value}; give one")
        elif isinstance(value, (str, int, float)):
            flags[flag] = str(value).lower() if isinstance(value, bool) else str(value)
        else:
            raise UsageError(f"{where}: --{flag} must be a text, a number, true, false or a range")
    return Method(name, flags, ranges, _ADAPTATION if _SEES_TARGET & {*flags, *ranges} else kind)


def _range(where: str, flag: str, value: Sequence[Any]) -> Range:
    try:
        low, high = checked(tuple[float, float], value)
        if 0 < low < high and math.isfinite(high / low):
            return low, high
    except FieldError:
        pass
    raise UsageError(
        f"{where}: --{flag}: a range must be two finite numbers above 0, the lower first; correct it"
    )
