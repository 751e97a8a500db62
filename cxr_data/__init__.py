"""The data engine: images to TFRecord shards, and shards to batches.

discover -> decode -> resize -> record -> plan -> write -> manifest | pipeline

For programs it has `make_tfrecords` with a `SharderConfig`, `audit_dataset` with an `AuditConfig`, and
`read_dataset`, which gives a `Dataset`, and `join_tables` with a `TableSet` for each of several data sets.
They are imported when they are first used, since TensorFlow takes seconds.
"""

from typing import TYPE_CHECKING

# ruff: noqa: E402
from cxr_data.core.interrupts import end_at_interrupt

# Before anything that takes time is imported.
end_at_interrupt()

from cxr_data.core.chatter import leave_out_chatter
from cxr_data.core.lazy_names import importer

if TYPE_CHECKING:
    from cxr_data.audit.audit import AuditConfig, audit_dataset
    from cxr_data.convert.config import SharderConfig
    from cxr_data.convert.convert import make_tfrecords
    from cxr_data.input.dataset import Dataset, read_dataset
    from cxr_data.input.options import ReadOptions
    from cxr_data.sources.tables.joined import TableSet, join_tables

__all__ = [
    "AuditConfig",
    "Dataset",
    "ReadOptions",
    "SharderConfig",
    "TableSet",
    "audit_dataset",
    "join_tables",
    "make_tfrecords",
    "read_dataset",
]

_MODULES = {
    "AuditConfig": "cxr_data.audit.audit",
    "Dataset": "cxr_data.input.dataset",
    "ReadOptions": "cxr_data.input.options",
    "SharderConfig": "cxr_data.convert.config",
    "TableSet": "cxr_data.sources.tables.joined",
    "audit_dataset": "cxr_data.audit.audit",
    "join_tables": "cxr_data.sources.tables.joined",
    "make_tfrecords": "cxr_data.convert.convert",
    "read_dataset": "cxr_data.input.dataset",
}

# Before TensorFlow is imported, which reads its log level once and begins to write at once.
leave_out_chatter()

__getattr__ = importer(__name__, _MODULES)
