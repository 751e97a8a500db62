"""The tables beside the shards: a row of each record, where it lies and what was measured of it.

Their rows are in manifest order: the shards as in `Manifest.shards`, the records as in their file.
"""

import contextlib
import hashlib
import io
import os
import tokenize
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from crc32c import crc32c

from cxr_data.core import storage
from cxr_data.core.errors import DataError, one_line
from cxr_data.core.wording import counted, tool
from cxr_data.images.measure import FEATURES_DTYPE
from cxr_data.records.by_position import ReadAt, pixels_in, read_content, read_fields, read_header
from cxr_data.records.example import Example, Fields, example_header, other_header, parse_example
from cxr_data.records.layout import FEATURES_NAME, INDEX_NAME, MANIFEST_NAME
from cxr_data.records.manifest import Manifest, Shard, way_out
from cxr_data.records.tfrecord import FRAME_FOOTER_BYTES, FRAME_HEADER_BYTES, read_frames
from cxr_data.records.value_range import check_range
from cxr_data.sources.finding_values import FINDING_VALUES

INDEX_DTYPE = np.dtype(
    [
        ("shard", "<u4"),  # position in manifest.shards
        ("label", "<i4"),
        ("record", "<i8"),  # file offset of the frame
        ("length", "<u4"),  # bytes of the Example, without the frame
        ("payload", "<i8"),  # file offset of the first pixel
        ("crc32c", "<u4"),  # of the pixels alone, not masked
        ("source", "<u2"),  # position in manifest.sources
    ]
)
"""One row per record: where it lies and how to check it. Offsets are signed, because numpy makes
float64 of an unsigned 64-bit integer plus a Python integer."""

_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What numpy's reader raises for a header that somebody made up.
_NO_HEADER = (ValueError, TypeError, KeyError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError)
MOST_SOURCES = 1 << 16
_MOST_LENGTH = int(np.iinfo(INDEX_DTYPE["length"]).max)

Read = TypeVar("Read")

_FIELDS = [(name, INDEX_DTYPE[name]) for name in INDEX_DTYPE.names or ()]
_DTYPE_WITHOUT_SOURCES = np.dtype(_FIELDS[:-1])
"""Of data sets of schema cxr.tfrecord/1."""


def index_dtype(findings: int) -> np.dtype[Any]:
    """Return the type of a row: `INDEX_DTYPE`, with `labels` int8 [findings] where there are any."""
    return np.dtype([*_FIELDS, *([("labels", "i1", (findings,))] if findings else [])])


def scan_shard(
    path: str | os.PathLike[str],
    check: Callable[[Example, memoryview], None] = lambda *_: None,
    *,
    findings: int = 0,
    largest: int = _MOST_LENGTH,
) -> np.ndarray:
    """Make the index of one TFRecord file, ours or foreign, by reading it once.

    Args:
      path: local.
      check: called with each record and its pixels, which are valid until it returns; raises ValueError for
        one that is not to be had.
      findings: number of labels of each record; 0 where each has one class.
      largest: bytes of the largest record that can be: so much memory one may claim.

    Returns:
      One row of `index_dtype(findings)` per record, in file order, `shard` and `source` 0.

    Raises:
      DataError: as `read_frames`, or a record is not an Example of this schema, or `check` refuses it.
    """
    rows: list[tuple[Any, ...]] = []
    for offset, data in read_frames(path, largest=largest):
        try:
            example = parse_example(data)
            start, size = example.payload_start, example.payload_bytes
            if start + size > len(data):
                raise ValueError("the pixels reach past the end of the Example")
            pixels = data[start : start + size]
            check(example, pixels)
            labels = _labels(example, findings)
        except ValueError as error:
            raise DataError(f"{path}: record {len(rows)} at byte {offset}: {error}") from error
        payload = offset + FRAME_HEADER_BYTES + start
        rows.append((0, example.fields.label, offset, len(data), payload, crc32c(pixels), 0, *labels))
    return np.array(rows, index_dtype(findings))


def _labels(example: Example, findings: int) -> tuple[tuple[int, ...], ...]:
    """Return the part of a row that holds the labels of findings. Raises ValueError: as `check_labels`."""
    if not findings:
        return ()
    check_labels(example.fields.labels, findings)
    return (example.fields.labels,)


def check_labels(labels: tuple[int, ...], findings: int) -> None:
    """Raise ValueError unless a record has a value for each finding."""
    if len(labels) != findings:
        raise ValueError(f"feature 'labels' must be {findings} int64, one a finding, and holds {len(labels)}")
    if not {*labels} <= {*FINDING_VALUES}:
        raise ValueError(
            f"feature 'labels' holds {min({*labels} - {*FINDING_VALUES})}: a finding is 1 (present), 0 "
            "(absent), -1 (uncertain) or -2 (unknown)"
        )


def write_index(directory: str, index: np.ndarray) -> str:
    """Write the index, rows of `index_dtype` in manifest order; return its SHA-256."""
    return _write_rows(storage.join(directory, INDEX_NAME), index)


def read_index(manifest: Manifest) -> np.ndarray:
    """Read the index: `manifest.records` rows of `index_dtype` in manifest order.

    Raises:
      DataError: it is missing, or not the index that the manifest was written with.
    """
    path = storage.join(manifest.directory, INDEX_NAME)
    index = _read_rows(path, manifest.index_sha256, manifest.notes)
    if index.dtype == _DTYPE_WITHOUT_SOURCES and not manifest.says_sources:
        index = _with_sources(index)
    is_of_type = index.dtype == index_dtype(manifest.findings)
    # The manifest may claim any number of records, and the file holds as many rows as it has bytes for.
    if not is_of_type or len(index) != manifest.records or not _is_in_order(manifest, index):
        raise DataError(
            f"{path} does not fit the manifest ({counted(len(index), 'row')}, "
            f"{counted(manifest.records, 'record')}): {way_out(manifest.notes)}"
        )
    _check_rows(manifest, index, path)
    return index


def _is_in_order(manifest: Manifest, index: np.ndarray) -> bool:
    """Return whether the rows name the shards one after the other, each as often as it has records."""
    expected = np.repeat(np.arange(len(manifest.shards)), [shard.records for shard in manifest.shards])
    return np.array_equal(index["shard"], expected)


def _with_sources(index: np.ndarray) -> np.ndarray:
    """Return the rows of an index that says no sources with `source` 0."""
    rows = np.zeros(len(index), INDEX_DTYPE)
    for name in index.dtype.names or ():
        rows[name] = index[name]
    return rows


def labels_of(rows: np.ndarray) -> np.ndarray:
    """Return what a network learns of each record: int32 [N], its class, or int32 [N, C], its findings."""
    name = "labels" if "labels" in (rows.dtype.names or ()) else "label"
    return rows[name].astype(np.int32)


def rows_by_shard(manifest: Manifest, split: str = "") -> Iterator[tuple[Shard, np.ndarray]]:
    """Yield (shard, its rows of `read_index`) in manifest order, of a split (or several) or of all shards.

    The index is sorted by shard and cut once: to search it for each shard takes an hour where there are many.

    Raises:
      DataError: as `read_index`, or the split is not there.
    """
    names = {shard.split for shard in (manifest.shards_of(split) if split else manifest.shards)}
    index = read_index(manifest)
    start = 0
    for shard in manifest.shards:
        stop = start + shard.records
        if shard.split in names:
            yield shard, index[start:stop]
        start = stop


def read_split_index(manifest: Manifest, split: str) -> np.ndarray:
    """Return the rows of `read_index` that belong to `split`: row i is the record at position i of it.

    Raises:
      DataError: as `read_index`, or the split is not there.
    """
    return np.concatenate([rows for _, rows in rows_by_shard(manifest, split)])


def read_split_fields(manifest: Manifest, split: str) -> list[Fields]:
    """Read the fields of every record of a split, without the pixels.

    Returns:
      One entry for each record, so that a batch's `index` is a position in the list. None is without an id
      or a group, see `Fields.named`.

    Raises:
      DataError: as `read_split_index`, or a shard cannot be read.
    """
    fields: list[Fields] = []
    for shard, rows in rows_by_shard(manifest, split):
        fields += _named_fields(manifest, shard, rows)
    return fields


def _named_fields(manifest: Manifest, shard: Shard, rows: np.ndarray) -> Iterator[Fields]:
    for number, fields in enumerate(_each(read_fields, manifest, shard, rows)):
        yield fields.named(f"{shard.split}/{shard.name}", number)


def read_other_headers(
    manifest: Manifest, shard: Shard, rows: np.ndarray, dtype: str, payload_bytes: int
) -> Iterator[bytes]:
    """Yield the headers of a shard's records with other pixels, and the sources that the index says.

    Args:
      manifest, shard: of the records.
      rows: theirs in the index.
      dtype, payload_bytes: of the pixels that will follow each header.

    Raises:
      DataError: as `read_split_fields`.
    """
    pixels, new = (manifest.dtype, manifest.payload_bytes), (dtype, payload_bytes)

    def read(read_at: ReadAt, row: np.void, *, checked: int) -> bytes | Fields:
        source = manifest.sources[row["source"]]
        # What another program wrote, which `notes` speak of, may lack an id.
        copied = None
        if not manifest.notes:
            copied = other_header(read_header(read_at, row, checked=checked), source, pixels, new)
        return copied or read_fields(read_at, row, checked=checked)._replace(source=source)

    for number, found in enumerate(_each(read, manifest, shard, rows)):
        if isinstance(found, Fields):
            found = example_header(found.named(f"{shard.split}/{shard.name}", number), *new)
        yield found


def _each(read: Callable[..., Read], manifest: Manifest, shard: Shard, rows: np.ndarray) -> Iterator[Read]:
    """Yield what `read` of `by_position` gives of each record. Raises DataError: one is damaged."""
    checked = manifest.payload_bytes if manifest.is_local else 0
    with storage.opened_at(manifest.path(shard)) as read_at:
        for number, row in enumerate(rows):
            try:
                yield read(read_at, row, checked=checked)
            except ValueError as error:
                raise DataError(f"{manifest.path(shard)}: record {number}: {error}") from error


def check_first_records(manifest: Manifest) -> None:
    """Check the first record of each shard that another program wrote, since early scans accepted any label.

    Records that are damaged are passed over: what becomes of them is the reader's to decide.

    Raises:
      DataError: one is not of the schema, with the way out.
    """
    if not manifest.notes or not manifest.is_local:  # no scan writes an index of remote shards
        return
    for shard, rows in rows_by_shard(manifest):
        path = manifest.path(shard)
        with storage.opened_at(path) as read_at:
            for number, row in enumerate(rows):  # noqa: B007 - named by the error
                with contextlib.suppress(ValueError):
                    content = read_content(read_at, row)
                    break
            else:
                continue
            try:
                parse_example(content)
                pixels = pixels_in(content, row, manifest.payload_bytes)
                if manifest.dtype != "uint8":
                    values = np.frombuffer(pixels, manifest.dtype)
                    check_range(float(values.min()), float(values.max()), manifest.value_range)
            except ValueError as error:
                raise DataError(
                    f"{path}: record {number}: {error}; an early scan accepted it: repair it, delete "
                    f"{MANIFEST_NAME} and {INDEX_NAME} in {manifest.directory}, and run "
                    f"python -m {tool('index_tfrecords')}"
                ) from error


def write_features(directory: str, rows: np.ndarray) -> str:
    """Write what was measured, rows of `FEATURES_DTYPE` in manifest order; return the file's SHA-256."""
    return _write_rows(storage.join(directory, FEATURES_NAME), rows.astype(FEATURES_DTYPE, copy=False))


def read_features(manifest: Manifest) -> np.ndarray | None:
    """Read what was measured while converting, or return None where nothing was.

    Raises:
      DataError: it is missing, or not the file that the manifest was written with.
    """
    if not manifest.features_sha256:
        return None
    path = storage.join(manifest.directory, FEATURES_NAME)
    rows = _read_rows(path, manifest.features_sha256, manifest.notes)
    if rows.dtype != FEATURES_DTYPE or len(rows) != manifest.records:
        raise DataError(
            f"{path} does not fit the manifest ({counted(len(rows), 'row')}, "
            f"{counted(manifest.records, 'record')}): {way_out(manifest.notes)}"
        )
    return rows


def _write_rows(path: str, rows: np.ndarray) -> str:
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    content = buffer.getvalue()
    storage.replace(path, content)
    return hashlib.sha256(content).hexdigest()


def _read_rows(path: str, sha256: str, notes: object) -> np.ndarray:
    content = storage.read_bytes(path)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(
            f"{path} is damaged or of another run (SHA-256 differs from the manifest): {way_out(notes)}"
        )
    try:
        return _rows_of(content)
    except _NO_HEADER as error:
        reason = one_line(str(error).partition("\n")[0][:200])
        raise DataError(f"{path} is damaged ({reason or 'its header'}): {way_out(notes)}") from error


def _rows_of(content: bytes) -> np.ndarray:
    """Return the rows of an .npy file. Raise ValueError, or what numpy raises where its header is damaged.

    `np.load` takes memory for as many rows as the header claims, before it reads the first.
    """
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in _READ_HEADER:
        raise ValueError(f"an .npy file of version {version}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it looks like one of Python 2, which says nothing to users
        shape, _, dtype = _READ_HEADER[version](file)
    left = len(content) - file.tell()
    if dtype.hasobject or len(shape) != 1 or not dtype.itemsize or shape[0] * dtype.itemsize != left:
        raise ValueError(f"its header claims {shape} of {str(dtype)[:60]}, and {left} bytes follow")
    return np.frombuffer(content, dtype, offset=file.tell()).copy()


def _check_rows(manifest: Manifest, index: np.ndarray, path: str) -> None:
    """Check that every row has a class or findings and a source, and that its pixels lie in its shard.

    Raises:
      DataError: one does not, naming the row and the field.
    """
    classes = 2 if manifest.findings else len(manifest.class_names)
    ends = np.repeat([shard.bytes for shard in manifest.shards], [shard.records for shard in manifest.shards])
    label, record, payload = index["label"], index["record"], index["payload"]
    length = index["length"].astype(np.int64)
    said = FINDING_VALUES if manifest.findings else range(classes)
    # One after the other: the later sums do not overflow where the earlier checks pass.
    for field, find_wrong, expected in (
        ("label", lambda: (label < 0) | (label >= classes), f"one of {classes} classes, from 0"),
        (
            "labels",
            lambda: ~np.isin(labels_of(index).reshape(len(index), -1), said).all(axis=1),
            "1, 0, -1 or -2 for each finding",
        ),
        ("source", lambda: index["source"] >= len(manifest.sources), "one of the sources, from 0"),
        (
            "record",
            lambda: (record < 0) | (record > ends - length - FRAME_HEADER_BYTES - FRAME_FOOTER_BYTES),
            "in its shard",
        ),
        (
            "payload",
            lambda: (
                (payload < record + FRAME_HEADER_BYTES)
                | (payload > record + FRAME_HEADER_BYTES + length - manifest.payload_bytes)
            ),
            "in its record",
        ),
    ):
        if (wrong := find_wrong()).any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{path}: row {row}: {field} is {index[field][row]}, and must be {expected}: "
                + way_out(manifest.notes)
            )
