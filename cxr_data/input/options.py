"""How shards are read: the read side's flags as one frozen value."""

import dataclasses

from cxr_data.core.errors import UsageError
from cxr_data.input import cache
from cxr_data.input.indexed import VERIFY
from cxr_data.input.order import InputWorker

READERS = ("auto", "indexed", "stream")
ON_BAD_RECORD = ("fail", "skip")


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How shards are read.

    Attributes:
      reader: one of `READERS`.
      cache: one of `cache.CACHES`.
      cache_dir: where `--cache=disk` keeps its copies.
      verify: one of `indexed.VERIFY`; the streamed reader always checks.
      on_bad_record: `fail`, or `skip`: all records are checked once at the start and the bad
        ones are left out.
      max_bad_records: how many may be left out.
      shuffle_mb: the streamed reader's shuffle buffer, in MB of stored records.
      worker: which part of each global batch this process reads.
      data_service: address of a tf.data service that reads the training batches; "" for none.

    Raises:
      UsageError: a value that is not known.
    """

    reader: str = "auto"
    cache: str = "auto"
    cache_dir: str = "~/.cache/cxr"
    verify: str = "first"
    on_bad_record: str = "fail"
    max_bad_records: int = 100
    shuffle_mb: int = 16
    worker: InputWorker = InputWorker()  # noqa: RUF009  (frozen)
    data_service: str = ""

    def __post_init__(self) -> None:
        for flag, known in (
            ("reader", READERS),
            ("cache", cache.CACHES),
            ("verify", VERIFY),
            ("on_bad_record", ON_BAD_RECORD),
        ):
            if getattr(self, flag) not in known:
                raise UsageError(f"--{flag}={getattr(self, flag)}: choose one of {', '.join(known)}")
