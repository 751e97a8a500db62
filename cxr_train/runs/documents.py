"""What the documents of a run hold, as far as other commands read them: their types, for `schema.checked`."""

import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.core.schema import Count, FileName, Range, Share, checked, parse_json
from cxr_train.runs.metrics_document import Measured, Metrics, OfModel

Epoch = Annotated[int, Range(1, 2**31 - 1)]


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


# -- explain.json ------------------------------------------------------------------------------


class Check(TypedDict):
    """The occlusion check of the maps."""

    verdict: Literal["passed", "failed", "undecided"]
    text: str


class CaseContent(TypedDict):
    """An image in the galleries."""

    file: FileName
    id: str
    mapped: tuple[str, ...]
    flat: tuple[bool, ...]
    label: str
    predicted: str
    probability: Share
    label_probability: Share


class _FlatOfEach:
    """A rule of a case."""

    def allows(self, value: CaseContent) -> bool:
        return len(value["flat"]) == len(value["mapped"])

    def __str__(self) -> str:
        return "a case with one of flat for each of mapped"


class DepthsPart(TypedDict):
    """The picture of maps at several layers."""

    file: FileName


class FiltersPart(TypedDict):
    """The picture of what channels look for."""

    file: FileName
    before: str


class Explanation(OfModel):
    """What readers need of an `explain.json`."""

    layers: tuple[str, ...]
    occlusion: Check
    cases: tuple[Annotated[CaseContent, _FlatOfEach()], ...]
    depths: DepthsPart | None
    filters: FiltersPart | None


# -- throughput.json, environment.json ---------------------------------------------------------


class Throughput(TypedDict):
    """What readers need of a `throughput.json`."""

    verdict: NotRequired[str | None]
    input_images_per_second: NotRequired[Measured | None]
    stage_seconds_per_image: NotRequired[Mapping[str, Measured]]
    flops_per_second: NotRequired[Measured | None]
    flops_per_image: NotRequired[Measured | None]
    seconds: NotRequired[Measured | None]


class WithGpus(TypedDict):
    """An `environment.json`, as far as it says which GPUs there were."""

    gpus: tuple[str, ...]


class Environment(WithGpus):
    """What readers need of an `environment.json`."""

    versions: Mapping[str, str | None]
    commit: str | None
    platform: str
    cpus: Count | None
    choices: tuple[str, ...]
    started: NotRequired[str]


def read_document(path: pathlib.Path, kind: Any) -> dict[str, Any]:
    """Read a JSON document of a run directory and check what other commands read of it.

    Args:
      path: of a run that may be anybody's.
      kind: one of the types of this module.

    Raises:
      DataError: it cannot be read, or is damaged: names the field.
    """
    try:
        document: dict[str, Any] = parse_json(storage.read_bytes(str(path)))
        checked(kind, document)
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): {_REMEDIES.get(kind, 'remove it')}") from error
    return document


_REMEDIES = {
    Metrics: "make it again with python -m cxr_train.evaluate",
    Explanation: "make it again with python -m cxr_train.explain --overwrite",
}
