"""Pictures that are there twice: of patients whom the audit found under two names, and in two data sets."""

import hashlib
import json
from collections.abc import Collection, Iterator

import numpy as np
from numpy.lib.recfunctions import repack_fields

from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.core.wording import tool, typed
from cxr_data.records.audit_document import has_audit, read_audit
from cxr_data.records.index import read_features, read_split_fields, read_split_index
from cxr_data.records.layout import AUDIT_NAME
from cxr_data.records.manifest import Manifest, Shard
from cxr_data.records.split_names import parse_split
from cxr_data.sources.duplicates import tie_groups

_Pairs = tuple[tuple[str, str], ...]
_known: dict[tuple[str, tuple[Shard, ...], _Pairs], dict[str, list[str]]] = {}
"""The patients of each split: to read the patient of every record takes seconds where there are many."""


def tied_patients(manifest: Manifest, pool: str) -> tuple[str, ...]:
    """Return the patient of each record of some splits; patients who share a picture have one name.

    Which pictures show the same, `audit.json` beside the shards says, in whatever splits, sources and classes
    they are. Without it, patients are as the records name them.

    Args:
      manifest: of the data.
      pool: names of splits, joined by `+`.

    Raises:
      DataError: the audit is damaged, or a shard cannot be read.
    """
    pairs = tuple(_pairs(manifest.directory))
    key = manifest.directory, manifest.shards, pairs
    if key not in _known:
        fields = {split: read_split_fields(manifest, split) for split in manifest.splits}
        groups = {record.id: record.group for records in fields.values() for record in records}
        tied = tie_groups(groups, [pair for pair in pairs if {*pair} <= groups.keys()])
        _known[key] = {split: [tied[record.id] for record in records] for split, records in fields.items()}
    return tuple(patient for split in parse_split(pool).splits for patient in _known[key][split])


def are_of_sources(manifest: Manifest, pool: str, sources: Collection[int]) -> np.ndarray:
    """Return which records of some splits are of a patient who is in some sources too, in whatever split.

    Args:
      manifest, pool: see `tied_patients`.
      sources: their numbers in `Manifest.sources`.

    Returns:
      bool [N]; true for all records of these sources.

    Raises:
      DataError: as `tied_patients`.
    """
    everywhere = "+".join(manifest.splits)
    inside = np.isin(read_split_index(manifest, everywhere)["source"], [*sources])
    there = {*np.array(tied_patients(manifest, everywhere), object)[inside]}
    return np.array([patient in there for patient in tied_patients(manifest, pool)], bool)


def are_in(manifest: Manifest, pool: str, other: Manifest, other_pool: str, chosen: np.ndarray) -> np.ndarray:
    """Return which records of some splits have the very pixels of a record of another data set.

    Args:
      manifest, pool: see `tied_patients`.
      other, other_pool: the other data set, and some of its splits. Its pixels may be of another type, or a
        gray picture have other channels, if both have `features.npy`.
      chosen: int64 [M], positions in `other_pool` of the records that are looked at.

    Returns:
      bool [N].

    Raises:
      DataError: the index or the measurements of a data set are damaged, or they cannot be compared.
    """
    found = np.ones(manifest.count(pool), bool)
    forms = [(one.dtype, one.channels, one.value_range) for one in (manifest, other)]
    is_stored_alike = forms[0] == forms[1]
    if is_stored_alike:
        here = read_split_index(manifest, pool)["crc32c"]
        found = np.isin(here, read_split_index(other, other_pool)["crc32c"][chosen])
    if not found.any():
        return found
    rows, others = _features(manifest, pool), _features(other, other_pool)
    if rows is None or others is None:
        if is_stored_alike:
            return found
        raise DataError(
            f"{manifest.directory} and {other.directory} hold pixels of two types or numbers of channels, "
            "and nothing was measured of one: convert both with the same --dtype and --channels"
        )
    # Of the 8-bit pictures; and of millions of pairs, some have the same checksum by chance.
    names = ["crc32c", "thumbnail"]
    alike = {row.tobytes() for row in repack_fields(others[names][chosen])}
    found[found] = [row.tobytes() in alike for row in repack_fields(rows[names][found])]
    return found


def _features(manifest: Manifest, pool: str) -> np.ndarray | None:
    """Return what was measured of each record of some splits; None where nothing was."""
    features = read_features(manifest)
    if features is None:
        return None
    splits = parse_split(pool).splits
    inside = np.repeat([s.split in splits for s in manifest.shards], [s.records for s in manifest.shards])
    rows: np.ndarray = features[inside]
    return rows


def digest_of_pairs(directory: str) -> str:
    """Return the SHA-256, in hex, of which pictures of a data set show the same by its audit.

    Without an audit it is that of no pair. Raises DataError as `tied_patients`.
    """
    pairs = sorted(sorted(pair) for pair in _pairs(directory))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _pairs(directory: str) -> Iterator[tuple[str, str]]:
    """Yield the ids of the pictures of a data set that show the same, two and two."""
    findings = read_audit(directory)["findings"] if has_audit(directory) else ()
    for finding in findings:
        cases = [case for case in finding["evidence"] if "first" in case]
        if not cases or finding["name"] == "pictures_in_second_dataset":
            continue
        if finding.get("cases", 0) > len(cases):
            raise DataError(
                f"{storage.join(directory, AUDIT_NAME)} names only {len(cases)} of {finding['cases']} "
                f"{finding['name']}: python -m {tool('audit_dataset')} {typed(data=directory)} names all"
            )
        yield from ((case["first"], case["second"]) for case in cases)
