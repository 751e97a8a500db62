"""What the documents of a run hold, as far as other commands read them: their types, for `schema.checked`."""

from collections.abc import Mapping
from typing import Annotated, NotRequired, TypedDict

from cxr_data.core.schema import Range

Epoch = Annotated[int, Range(1, 2**31 - 1)]


Measured = Annotated[float, Range(-1e30, 1e30)]
"""A number that a chart can show."""


class NumberedRow(TypedDict):
    """A line of `metrics.jsonl`, as far as a resumed run looks at it."""

    epoch: Epoch


class TrainPart(TypedDict):
    """What the steps of an epoch gave, see `loop.epoch_row`."""

    loss: NotRequired[Measured | None]
    accuracy: NotRequired[Measured | None]
    images_per_second: NotRequired[Measured | None]
    input_wait_share: NotRequired[Measured | None]
    initial_statistics_share: NotRequired[Measured | None]


class ValidationPart(TypedDict):
    """What the validation of an epoch gave."""

    loss: NotRequired[Measured | None]
    accuracy: NotRequired[Measured | None]
    macro: NotRequired[Mapping[str, Measured | None]]


class EpochRow(NumberedRow):
    """A line of `metrics.jsonl`."""

    train: TrainPart
    validation: ValidationPart | None
