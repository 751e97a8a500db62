"""How shards are read: the read side's flags as one frozen value."""

import dataclasses
import os.path
from collections.abc import Mapping

from cxr_data.core.settings import check_settings, setting
from cxr_data.input.mix import parse_mix
from cxr_data.input.order import InputWorker

READERS = ("auto", "indexed", "stream")
CACHES = ("auto", "memory", "disk", "none")
VERIFY = ("first", "always", "never")
"""When a payload is checked against its CRC32C: when it is first read by this process,
whenever it is read, or never."""
ON_BAD_RECORD = ("fail", "skip")


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How shards are read.

    `worker`, which part of each global batch this process reads, has no flag.

    Raises:
      UsageError: a value that is not known.
    """

    reader: str = setting(
        "auto",
        "Reader of the shards: indexed reads local shards by position, stream reads any; auto: "
        "indexed where that is possible.",
        choices=READERS,
    )
    cache: str = setting("auto", "Place where images are kept after they were first read.", choices=CACHES)
    cache_dir: str = setting(
        os.path.expanduser("~/.cache/cxr"),
        "Folder in which --cache=disk keeps copies.",
        path=True,
        local=True,
    )
    verify: str = setting(
        "first",
        "Time at which an image is checked against its CRC32C; streams are always checked.",
        choices=VERIFY,
    )
    on_bad_record: str = setting(
        "fail",
        "Treatment of a damaged record: fail stops the run; skip checks all records once at the "
        "start and leaves the damaged ones out.",
        choices=ON_BAD_RECORD,
    )
    max_bad_records: int = setting(
        100,
        "Largest number of records that --on_bad_record=skip leaves out before the run stops.",
        at_least=0,
    )
    shuffle_mb: int = setting(
        16, "Size of the streamed reader's shuffle buffer, in MB of stored records.", at_least=1
    )
    mix: Mapping[str, float] = setting(
        "",
        "Weights of the sources in training, such as nih:2,guangzhou:1; an epoch has as many images as "
        "without, "
        "of each source its share. Every image once an epoch by default.",
        parse=parse_mix,
    )
    balance_batches: bool = setting(
        False, "Whether every batch, and not only the epoch, has the shares of --mix; without it, equal ones."
    )
    worker: InputWorker = InputWorker()  # noqa: RUF009  (frozen)
    data_service: str = setting(
        "",
        "Address of input workers that read the training batches; see tools.data_service.",
    )

    def __post_init__(self) -> None:
        check_settings(self)
