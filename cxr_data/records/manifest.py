"""The manifest: what a directory of shards holds.

`manifest.json` is written last, so a directory that has one is whole. Beside it
stands the index, one row of `index.INDEX_DTYPE` per record in manifest order
(the shards in the order of `Manifest.shards`, the records in file order).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np

from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.core.schema import (
    Count,
    FieldError,
    FileName,
    Items,
    OneOf,
    Range,
    Sha256,
    Text,
    checked,
    parse_json,
    unchecked_keys,
)
from cxr_data.core.wording import listed, tool, typed
from cxr_data.images.preprocess import PixelOptions
from cxr_data.records.example import DTYPES, Fields
from cxr_data.records.layout import INDEX_NAME, MANIFEST_NAME
from cxr_data.records.split_names import joined_splits
from cxr_data.records.tfrecord import FRAME_FOOTER_BYTES, FRAME_HEADER_BYTES
from cxr_data.records.value_range import UNIT, VALUE_RANGES
from cxr_data.sources.finding_values import PRESENT

SCHEMA = "cxr.tfrecord/2"

_SCHEMA_WITHOUT_SOURCES = "cxr.tfrecord/1"
"""Of earlier versions: each picture has one class, and nothing says where it comes from."""

CLASSES, FINDINGS = TASKS = ("classes", "findings")
"""What the labels of a data set say: the one class of a picture, or for each finding whether it shows."""

_LARGEST_SIZE = 1 << 14
_MOST_FEATURES = 1 << 16


@dataclass(frozen=True)
class Shard:
    """One TFRecord file."""

    name: FileName
    split: FileName
    records: Count
    bytes: Count
    sha256: Sha256


@dataclass(frozen=True)
class Manifest:
    """What a directory of shards holds.

    Attributes:
      directory: where it was read from; not written.
      schema: name and version of the record schema.
      class_names: in the order of the label values; where `task` is "findings", of `labels`.
      size: height and width of every image, in pixels.
      channels: 1 or 3; of embeddings, the number of features.
      dtype: one of `example.DTYPES`.
      kernel: how images were resized.
      color: "gray" or "keep".
      shards: in the order of `index.npy`, all shards of a split together.
      counts: {split: {class name: images}}; of a finding, the images in which it is present.
      mean, std: of the training pixels in [0, 1], one number per channel.
      seed: of the plan.
      config_hash: of the flags that decide the output.
      inputs_hash: of the ids, sizes and labels that the plan was made from.
      source_counts: what became of the discovered files: discovered = written + quarantined + duplicates
        + excluded, as users asked for.
      versions: of the programs that decide the pixels.
      index_sha256: of `index.npy`.
      features_sha256: of `features.npy`; empty where nothing was measured while converting.
      crop_border, equalize_to: what was taken out of the images before they were resized, as in
        `preprocess.PixelOptions`.
      notes: that another program wrote the shards; else none.
      value_range: black and white of the stored pixels where they are floats. Written where not [0, 1].
      task: one of `TASKS`.
      sources: hospitals or data sets, in the order of `source` in the index; an empty name stands for images
        of which it is not known.
      embedding: what made the features where the records are embeddings, of size 1 and with a feature in
        each channel; empty where they are pictures. Written where it is not empty.
    """

    directory: str
    schema: str
    class_names: Annotated[tuple[Text, ...], Items(1)]
    size: Annotated[int, Range(1, _LARGEST_SIZE)]
    channels: Annotated[int, Range(1, _MOST_FEATURES)]
    dtype: Annotated[str, OneOf(DTYPES)]
    kernel: str
    color: str
    shards: Annotated[tuple[Shard, ...], Items(1)]
    counts: Mapping[str, Mapping[str, Count]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int
    config_hash: str
    inputs_hash: str
    source_counts: Mapping[str, Count]
    versions: Mapping[str, str]
    index_sha256: Sha256
    features_sha256: str = ""
    crop_border: str = "none"
    equalize_to: Count = 0
    notes: tuple[str, ...] = field(default=())
    value_range: Annotated[tuple[float, float], OneOf(VALUE_RANGES.values())] = UNIT
    task: Annotated[str, OneOf(TASKS)] = CLASSES
    sources: Annotated[tuple[Text, ...], Items(1)] = ("",)
    embedding: Text = ""

    @property
    def features(self) -> int:
        """Number of features of each record; 0 where the records are pictures."""
        return self.channels if self.embedding else 0

    @property
    def findings(self) -> int:
        """Number of findings that each record has a label of; 0 where each has one class."""
        return len(self.class_names) if self.task == FINDINGS else 0

    @property
    def says_sources(self) -> bool:
        """Whether the records were written, or scanned, with their sources."""
        return self.schema != _SCHEMA_WITHOUT_SOURCES

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that hold records, in manifest order."""
        return tuple(dict.fromkeys(shard.split for shard in self.shards))

    @property
    def records(self) -> int:
        """Number of records in all splits."""
        return sum(shard.records for shard in self.shards)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every stored image."""
        return self.size, self.size, self.channels

    @property
    def payload_bytes(self) -> int:
        """Bytes of one stored image."""
        return int(np.prod(self.image_shape)) * np.dtype(self.dtype).itemsize

    @property
    def pixel_options(self) -> PixelOptions:
        """How the images were made from their files."""
        return PixelOptions(
            self.size,
            self.channels,
            self.dtype,
            self.color,
            crop_border=self.crop_border,
            equalize_to=self.equalize_to,
        )

    def shards_of(self, split: str) -> tuple[Shard, ...]:
        """Return the shards of a split, or of several joined by `+`. Raises DataError for one that is not
        there.
        """
        names = joined_splits(split)
        for name in names:
            if name not in self.splits:
                raise DataError(
                    f"{self.directory} has no split {name!r}, only {', '.join(self.splits)}: name one of "
                    "these, or convert again with --splits that draw it"
                )
        return tuple(shard for shard in self.shards if shard.split in names)

    def count(self, split: str) -> int:
        """Return the number of records of a split, or of several joined by `+`; of a fold, of its pool."""
        return sum(shard.records for shard in self.shards_of(split))

    @property
    def is_local(self) -> bool:
        """Whether the shards lie on a mounted file system, where they are read by position."""
        return storage.store_of(self.directory).is_local

    def path(self, shard: Shard) -> str:
        """Return where a shard lies."""
        return storage.join(self.directory, shard.name)


def names_of(fields: Fields, class_names: Sequence[str]) -> list[str]:
    """Return the class of a record, or the findings that are present in it; none for a label out of range."""
    if fields.labels:
        pairs = zip(class_names, fields.labels, strict=False)
        return [name for name, value in pairs if value == PRESENT]
    return [class_names[fields.label]] if 0 <= fields.label < len(class_names) else []


def class_warnings(
    counts: Mapping[str, Mapping[str, int]],
    task: str = CLASSES,
    *,
    planned: Mapping[str, Mapping[str, int]] | None = None,
) -> list[str]:
    """Say which classes have no image in which split, or that there is one class: no mean would show it.

    Args:
      counts: {split: {class name: images}}, as `Manifest.counts`.
      task: one of `TASKS`.
      planned: the counts of the plan, for what the plan did not show: its files are quarantined.

    Returns:
      A line for each split.
    """
    names = {name for by_class in counts.values() for name in by_class}
    lines = []
    if len(names) == 1 and task == CLASSES and planned is None:
        lines.append(f"all images are of one class, {names.pop()!r}: there is nothing to classify")
    of = ("of the class", "of the classes") if task == CLASSES else ("with the finding", "with the findings")
    for split, by_class in counts.items():
        hoped_for = dict.fromkeys(by_class, 1) if planned is None else planned.get(split, {})
        empty = [repr(name) for name, images in by_class.items() if not images and hoped_for.get(name)]
        if empty:
            lines.append(
                f"the {split} split has no image {of[len(empty) > 1]} {listed(empty)}, which cannot be "
                + ("learned" if split == "train" else "measured there")
                + (", since all such files are quarantined" if planned is not None else "")
            )
    return lines


def write_manifest(manifest: Manifest) -> None:
    """Write `manifest.json` into `manifest.directory`, at once or not at all."""
    document = asdict(manifest)
    del document["directory"]
    if manifest.value_range == UNIT:
        del document["value_range"]
    if not manifest.embedding:
        del document["embedding"]
    text = json.dumps(document, indent=2, ensure_ascii=True) + "\n"
    storage.replace(storage.join(manifest.directory, MANIFEST_NAME), text.encode())


def read_manifest(directory: str, *, check_shards: bool = True) -> Manifest:
    """Read `directory/manifest.json` and check that the shards it names are there, at full size.

    Args:
      directory: local or remote.
      check_shards: False leaves missing and truncated shards to the reader.

    Raises:
      DataError: there is no manifest, it is damaged or of another schema, or a shard is missing
        or truncated; one line that names the file and the way out.
    """
    path = storage.join(directory, MANIFEST_NAME)
    if storage.size(path) is None:
        makes = f"python -m {tool('make_tfrecords')} {typed(output=directory)} makes"
        if storage.store_of(directory).has_directory(directory):
            raise DataError(f"{directory} has no {MANIFEST_NAME}, so it is no finished dataset: {makes} one")
        raise DataError(
            f"{directory}: no such folder of shards; if they were moved, or are elsewhere, give their place "
            f"(--data=FOLDER); {makes} them"
        )
    document: Any = None
    try:
        document = parse_json(storage.read_bytes(path))
        if isinstance(document, dict):
            _refuse_schema(path, document)
            document["directory"] = str(directory).rstrip("/") or "/"
        manifest = checked(Manifest, unchecked_keys(Manifest, document))
        _check_together(manifest)
    except ValueError as error:
        notes = document.get("notes") if isinstance(document, dict) else None
        raise DataError(f"{path} is damaged ({error}): {way_out(notes)}") from error
    for shard in manifest.shards if check_shards else ():
        _check_shard(manifest, shard)
    return manifest


def way_out(notes: object) -> str:
    """Return how a damaged manifest or index is made again, by `Manifest.notes`: by a scan where another
    program wrote the shards.
    """
    if notes:
        return f"delete {MANIFEST_NAME} and {INDEX_NAME}, and run python -m {tool('index_tfrecords')}"
    return "run the command that made it, make_tfrecords or embed, again with --overwrite"


def _refuse_schema(path: str, document: Mapping[str, Any]) -> None:
    schema = document.get("schema")
    if schema not in (SCHEMA, _SCHEMA_WITHOUT_SOURCES):
        raise DataError(
            f"{path} has schema {str(schema)[:60]!r}, this program reads {SCHEMA!r}: "
            + way_out(document.get("notes"))
        )


def _check_together(manifest: Manifest) -> None:
    """Refuse fields that contradict each other. Raises FieldError."""
    written = sum(sum(by_class.values()) for by_class in manifest.counts.values())
    if manifest.task == CLASSES and written != manifest.records:
        raise FieldError(f"counts say {written} images, shards say {manifest.records}")
    if len({*manifest.sources}) < len(manifest.sources):
        raise FieldError("sources: a source is named twice")
    if not manifest.says_sources and (manifest.task, manifest.sources) != (CLASSES, ("",)):
        raise FieldError(f"task, sources: are not of schema {manifest.schema}")
    names = {*manifest.class_names}
    if len(names) < len(manifest.class_names):
        raise FieldError("class_names: a class is named twice")
    for split in manifest.splits:
        if names != {*manifest.counts.get(split, ())}:
            raise FieldError(f"counts.{split}: must have the classes of class_names, no more and no less")
    if manifest.embedding and (manifest.size > 1 or manifest.channels == 1 or manifest.dtype == "uint8"):
        raise FieldError("size, channels, dtype: are not of embeddings: 1, the number of features, floats")
    if not manifest.embedding and manifest.channels not in (1, 3):
        raise FieldError("channels: must be 1 or 3")
    if len(manifest.mean) not in (0, 1, 3):
        raise FieldError("mean: must have one number, or one for each channel")
    if len({shard.name for shard in manifest.shards}) < len(manifest.shards):
        raise FieldError("shards: a file is named twice")
    least = FRAME_HEADER_BYTES + manifest.payload_bytes + FRAME_FOOTER_BYTES
    for number, shard in enumerate(manifest.shards):
        if shard.records * least > shard.bytes:
            raise FieldError(
                f"shards[{number}].records: {shard.records} images of {manifest.payload_bytes} bytes are not "
                f"in {shard.bytes} bytes"
            )


def _check_shard(manifest: Manifest, shard: Shard) -> None:
    path = manifest.path(shard)
    found = storage.size(path)
    by_command = "run the command that made it, make_tfrecords or embed, again"
    remedy = way_out(manifest.notes) if manifest.notes else by_command
    if found is None:
        raise DataError(f"shard {path} is missing: {remedy}")
    if found != shard.bytes:
        state = "truncated" if found < shard.bytes else "too long"
        raise DataError(f"shard {path} is {state}: {found} bytes, the manifest says {shard.bytes}: {remedy}")
