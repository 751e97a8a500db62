"""What the audit examines: a row for each picture, from shards, their records, or the files themselves."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.core.progress_bar import progress_bar
from cxr_data.core.runtime import cores
from cxr_data.core.wording import counted
from cxr_data.images import measure
from cxr_data.images.guarded import Limits, SourceFile, read_each, read_one, read_picture
from cxr_data.images.harmonize import NONE
from cxr_data.images.preprocess import PixelOptions
from cxr_data.images.undecodable import Undecodable
from cxr_data.records import example
from cxr_data.records.by_position import pixels_in, read_content, read_fields, read_payload
from cxr_data.records.index import read_features, read_index, rows_by_shard
from cxr_data.records.manifest import Manifest, way_out
from cxr_data.records.value_range import in_unit_range
from cxr_data.sources.discover import discover_images
from cxr_data.sources.finding_values import ABSENT, PRESENT
from cxr_data.sources.folders import list_files
from cxr_data.sources.item import Item
from cxr_data.sources.left_out import LeftOut
from cxr_data.sources.patients import AUTO, find_groups


@dataclass(frozen=True)
class Pictures:
    """All pictures of a dataset, in the order of its index.

    Attributes:
      where: the folder that holds them.
      ids: path of each, relative to its source.
      groups: patient of each; the id itself where none is known.
      splits: split of each.
      labels: int [N], index into `class_names`; of pictures with `findings`, 1 where any is present.
      class_names: in the order of the label values, or of the columns of `findings`.
      rows: [N] of `measure.FEATURES_DTYPE`.
      has_files: whether the rows say anything about the files.
      stored: what decides the stored pixels: equal ones can only be asked for where it is the same.
      findings: int [N, C], of `FINDING_VALUES`; None where each picture has one class.
      sources: hospital or data set of each, empty where it is not known; no names at all for none.
      load: gives the picture at a position, uint8 [S, S] or [S, S, 3]; None where only thumbnails are known.
    """

    where: str
    ids: Sequence[str]
    groups: Sequence[str]
    splits: Sequence[str]
    labels: np.ndarray
    class_names: Sequence[str]
    rows: np.ndarray
    has_files: bool
    stored: tuple[object, ...] = ()
    load: Callable[[int], np.ndarray] | None = None
    findings: np.ndarray | None = None
    sources: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_whole(self) -> bool:
        """Whether the pictures show whole files: no border was cut off."""
        return len(self.stored) < 5 or self.stored[3] == NONE

    def image(self, position: int) -> np.ndarray:
        """Return one picture, as large as it can be had: uint8 [S, S] or [S, S, 3]."""
        thumbnail: np.ndarray = self.rows["thumbnail"][position]
        return thumbnail if self.load is None else self.load(position)

    def label_name(self, position: int) -> str:
        """Return the class name of one picture, or the findings that are present in it."""
        if self.findings is not None:
            present = np.flatnonzero(self.findings[position] == PRESENT)
            return "+".join(self.class_names[k] for k in present) or "no finding"
        return self.class_names[int(self.labels[position])]

    def contradict(self, first: int, second: int) -> bool:
        """Whether two pictures differ in their class, or in a finding that is known of both."""
        if self.findings is None:
            return bool(self.labels[first] != self.labels[second])
        one, other = self.findings[first], self.findings[second]
        return bool(np.any((one != other) & (one >= ABSENT) & (other >= ABSENT)))

    def patients(self) -> dict[str, list[int]]:
        """Return the position of the pictures of each known patient."""
        known: dict[str, list[int]] = {}
        for position, (name, group) in enumerate(zip(self.ids, self.groups, strict=True)):
            if example.is_known_patient(name, group):
                known.setdefault(group, []).append(position)
        return known


# -- from shards -------------------------------------------------------------------------------


def pictures_of_shards(
    made: Manifest, quiet: bool = False, known: Sequence[example.Fields] | None = None
) -> Pictures:
    """Return the pictures of a dataset, by what was measured while converting, else by its records.

    Args:
      made: the manifest.
      quiet: no progress bar.
      known: the fields of all records in the order of the index; without them they are read.

    Raises:
      DataError: the index, the features or a shard cannot be read; records are damaged, how many; or they
        are embeddings.
    """
    if made.embedding:
        raise DataError(
            f"{made.directory} holds embeddings ({made.embedding}), and an audit looks at pictures: audit "
            "the data set that they were made from"
        )
    rows = read_features(made)
    names = list(known or ())
    measured: list[np.ndarray] = []
    wanted = rows is None
    for fields, image in progress_bar(
        "read records",
        "images",
        made.records,
        _records(made, wanted) if wanted or known is None else (),
        shown=wanted and not quiet,
    ):
        if known is None:
            names.append(fields)
        if image is not None:
            measured.append(measure.row_of(image))
    splits = [shard.split for shard in made.shards for _ in range(shard.records)]
    return Pictures(
        where=made.directory,
        ids=[fields.id for fields in names],
        groups=[fields.group for fields in names],
        splits=splits,
        labels=np.array([fields.label for fields in names]),
        class_names=made.class_names,
        rows=np.array(measured, measure.FEATURES_DTYPE) if rows is None else rows,
        has_files=rows is not None,
        stored=_form(made),
        load=partial(_stored_at, made, cache(partial(read_index, made))),
        findings=np.array([fields.labels for fields in names]) if made.findings else None,
        sources=[fields.source for fields in names],
    )


def _records(made: Manifest, with_pixels: bool) -> Iterator[tuple[example.Fields, np.ndarray | None]]:
    """Yield what the records say. All of a local shard is read, and checked; of a remote one, whose bytes
    cost time and money, what is wanted.
    """
    damaged: list[str] = []
    for shard, rows in rows_by_shard(made):
        path = made.path(shard)
        try:
            # All of a remote shard at once where its pixels are wanted, else only the heads of its records.
            whole = storage.local(path) if with_pixels else nullcontext(path)
            with whole as copy, storage.opened_at(copy) as read_at:
                for number, row in enumerate(rows):
                    if not with_pixels and not made.is_local:
                        fields, pixels = read_fields(read_at, row), None
                    else:
                        try:
                            content = read_content(read_at, row)
                            pixels = pixels_in(content, row, made.payload_bytes)
                        except ValueError as error:
                            damaged.append(f"{path}: record {number}: {error}")
                            continue
                        fields = example.parse_example(content).fields
                    yield (
                        fields.named(f"{shard.split}/{shard.name}", number),
                        _image_of(made, pixels) if with_pixels and pixels is not None else None,
                    )
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path}: {error}") from error
    if damaged:
        raise DataError(
            f"damaged: {len(damaged):,} of {counted(made.records, 'record')}, the first is {damaged[0]}: "
            f"{way_out(made.notes)}"
        )


def _stored_at(made: Manifest, index: Callable[[], np.ndarray], position: int) -> np.ndarray:
    return stored_image(made, index()[position])


def stored_image(made: Manifest, row: np.void) -> np.ndarray:
    """Return the 8-bit pixels of one record: uint8 [S, S], or [S, S, 3] if they are coloured.

    Args:
      made: the manifest.
      row: the record's row of the index.

    Raises:
      DataError: it cannot be read, or its pixels fail their checksum.
    """
    path = made.path(made.shards[row["shard"]])
    with storage.opened_at(path) as read_at:
        try:
            return _image_of(made, read_payload(read_at, row, made.payload_bytes))
        except ValueError as error:
            place = f"{path}: record at byte {row['record']}"
            raise DataError(f"{place}: {error}: {way_out(made.notes)}") from error


def _image_of(made: Manifest, payload: bytes | memoryview) -> np.ndarray:
    """Return the 8-bit pixels of one record: uint8 [S, S], or [S, S, 3] if they are coloured."""
    values = in_unit_range(np.frombuffer(payload, made.dtype), made.value_range).reshape(made.image_shape)
    pixels = values if made.dtype == "uint8" else np.rint(values.astype(np.float32) * 255).astype(np.uint8)
    is_gray = made.channels == 1 or all(np.array_equal(pixels[..., 0], pixels[..., c]) for c in (1, 2))
    return np.ascontiguousarray(pixels[..., 0]) if is_gray and made.color == "gray" else pixels


# -- from files --------------------------------------------------------------------------------


def with_files(
    pictures: Pictures, made: Manifest, source: str, limits: Limits, quiet: bool = False, **places: Any
) -> Pictures:
    """Return the same pictures, measured again from the files that they were made from.

    `limits` are of one file; `places` says more of the source, as `discover_images` takes it.

    Raises:
      DataError: a file is not in the source, or cannot be decoded.
    """
    items = {item.id: item for item in _files_of(made, source, **places)}
    missing = [name for name in pictures.ids if name not in items]
    if missing:
        raise DataError(
            f"--source={source} lacks {len(missing)} of {counted(len(pictures), 'picture')}, "
            f"as {missing[0]}: give the folder or CSV that the shards were made from"
        )
    rows = []
    for name, row in zip(
        pictures.ids,
        _measured([items[name] for name in pictures.ids], made.pixel_options, limits, quiet),
        strict=True,
    ):
        if isinstance(row, Undecodable):
            raise DataError(f"--source={source}: {name}: {row}")
        rows.append(row)
    return replace(pictures, rows=np.array(rows, measure.FEATURES_DTYPE), has_files=True)


def _files_of(
    made: Manifest, source: str, left_out: LeftOut | None = None, follow_links: str = ""
) -> Sequence[Item]:
    if not made.findings:
        return discover_images(source, left_out=left_out, follow_links=follow_links).items
    linked = Path(follow_links).resolve() if follow_links else None  # the folders say no class
    return [entry for entry in list_files(source, linked, left_out or LeftOut()) if isinstance(entry, Item)]


def pictures_of_files(
    source: str, like: Manifest, limits: Limits, quiet: bool = False, **places: Any
) -> Pictures:
    """Return the pictures of `--against`, a folder or CSV, in the form of a dataset, without what is no
    picture.

    `limits` are of one file; `places` says more of the source, as `discover_images` takes it.

    Raises:
      UsageError, DataError: there is no such source, or nothing in it can be decoded.
    """
    items = discover_images(source, "--against=", **places).items
    rows = list(_measured(items, like.pixel_options, limits, quiet))
    kept = [(item, row) for item, row in zip(items, rows, strict=True) if not isinstance(row, Undecodable)]
    if not kept:
        raise DataError(f"{source}: not one of {counted(len(items), 'file')} can be decoded")
    groups = find_groups([item for item, _ in kept], AUTO, {}).of
    class_names = sorted({item.label for item, _ in kept})
    return Pictures(
        where=source,
        ids=[item.id for item, _ in kept],
        groups=[groups[item.id] for item, _ in kept],
        splits=[item.split or "" for item, _ in kept],
        labels=np.array([class_names.index(item.label) for item, _ in kept]),
        class_names=class_names,
        rows=np.array([row for _, row in kept], measure.FEATURES_DTYPE),
        has_files=True,
        stored=_form(like),
        load=partial(_decoded_at, [item.path for item, _ in kept], like.pixel_options, limits),
    )


def _decoded_at(paths: Sequence[str], options: PixelOptions, limits: Limits, position: int) -> np.ndarray:
    read = partial(read_picture, options=options, limits=limits)
    return read_one(read, SourceFile(paths[position]), limits).pixels


def _form(made: Manifest) -> tuple[object, ...]:
    return made.size, made.kernel, made.color, made.crop_border, made.equalize_to


def _measured(
    items: Sequence[Item], options: PixelOptions, limits: Limits, quiet: bool
) -> Iterator[np.ndarray | Undecodable]:
    """Yield a row of each file, or the reason why there is none."""
    files = [SourceFile(item.path, item.bytes) for item in items]
    rows = read_each(partial(_measure, options=options, limits=limits), files, limits, cores())
    yield from progress_bar("read files", "images", len(files), rows, shown=not quiet)


def _measure(file: SourceFile, options: PixelOptions, limits: Limits) -> np.ndarray:
    picture = read_picture(file, options, limits)
    return measure.row_of(picture.pixels, picture.facts)
