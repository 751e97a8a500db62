"""Every name inside a dataset's directory: no other file of the data engine writes one."""

import re

MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.npy"
FEATURES_NAME = "features.npy"
QUARANTINE_NAME = "quarantine.jsonl"
LEDGER_NAME = "ledger.jsonl"
AUDIT_NAME = "audit.json"

AUDIT_FOLDER = "audit"
"""The folder of the audit's pictures and page, which have these names:"""
PAIRS_NAME, HISTOGRAMS_NAME, PAGE_NAME = "pairs.png", "features.png", "index.html"

SHARD_SUFFIX = ".tfrecord"
DONE_SUFFIX = ".done"
"""Ending of the file beside a shard that holds its line of the ledger until the ledger has it."""

FOREIGN_SHARD = re.compile(r"[^/]+\.tfrec(ords?)?(-\d+-of-\d+)?(\.gz)?", re.IGNORECASE)
"""Shards of other programs, such as chest_train.tfrecord, val.tfrec and x-test.tfrecord-00000-of-00005."""

_OWN_SHARD = re.compile(r"[^/]+-\d{5}-of-\d{5}\.tfrecord(\.done)?(\.[0-9a-f]+\.tmp)?")
_FILES = (MANIFEST_NAME, INDEX_NAME, FEATURES_NAME, QUARANTINE_NAME, LEDGER_NAME, AUDIT_NAME)


def shard_name(split: str, number: int, count: int) -> str:
    """Return the name of the shard `number`, from 0, of `count` in its split."""
    return f"{split}-{number:05d}-of-{count:05d}{SHARD_SUFFIX}"


def is_of_shard(name: str) -> bool:
    """Return whether a name is that of a shard of ours, of an attempt at one, or of its line of the
    ledger.
    """
    return _OWN_SHARD.fullmatch(name) is not None


def is_of_dataset(name: str) -> bool:
    """Return whether a conversion gives files this name."""
    return name in _FILES or is_of_shard(name)
