"""The split file, to be published with a study: others convert the same images into the same splits by it.

A CSV with a line an image: sha256 of its file, id, split, and fold of `cxr_train.main --fold=KofN` (N being
`FOLDS`), empty outside of its pool. It says nothing of labels and patients.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cxr_data.core import storage
from cxr_data.core.csv_table import csv_bytes, csv_rows
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.wording import counted
from cxr_data.records.example import Fields
from cxr_data.records.folds import fold_numbers
from cxr_data.records.manifest import Manifest
from cxr_data.sources.duplicates import digests_of
from cxr_data.sources.item import Item
from cxr_data.sources.quarantine import Quarantined

COLUMNS = ("sha256", "id", "split", "fold")
FOLDS = 5
_POOL = ("train", "validation")  # of --fold, where no other splits are asked for


@dataclass(frozen=True)
class Assigned:
    """What a split file says of the images of a source.

    Attributes:
      items: those that it names, each with its split.
      left_out: {id: the line of quarantine.jsonl} of the others.
      summary: one line for the user, with the counts of both, and of its lines without an image.
    """

    items: tuple[Item, ...]
    left_out: dict[str, Quarantined]
    summary: str


def write_split_file(path: str, made: Manifest, fields: Sequence[Fields]) -> None:
    """Write the split file of a converted data set.

    Args:
      path: of the file, local or remote; it is replaced.
      made: the data set, its index being written.
      fields: of every record, in the order of the index.
    """
    splits = [shard.split for shard in made.shards for _ in range(shard.records)]
    pool = [split for split in _POOL if split in made.splits]
    folds = iter(fold_numbers(made, "+".join(pool), FOLDS) if pool else ())
    rows = (
        (one.sha256, one.id, split, next(folds) if split in pool else None)
        for one, split in zip(fields, splits, strict=True)
    )
    storage.replace(path, csv_bytes([COLUMNS, *rows]))


def assign_by_file(path: str, items: Sequence[Item], max_pixels: int, threads: int) -> Assigned:
    """Give each image the split that a split file has for the content of its file, else for its id.

    Args:
      path: of the split file.
      items: the inputs; their own splits do not count.
      max_pixels: of an image; a file that is too large for it has no content to compare.
      threads: that read the files.

    Raises:
      UsageError: there is no such file.
      DataError: it is no split file, or says two splits of one image.
    """
    by_sha256, by_id = _read(path)
    found: list[Item] = []
    left_out: dict[str, Quarantined] = {}
    used: set[str] = set()
    by_name = 0
    for item, sha256 in zip(items, digests_of(items, max_pixels, threads), strict=True):
        split = by_sha256.get(sha256) or by_id.get(item.id)
        if split is None:
            # Without the folder, which does not decide what the output is.
            why = f"not in the split file {path.rsplit('/', 1)[-1]}"
            left_out[item.id] = Quarantined(item.id, "excluded", why, sha256)
            continue
        by_name += sha256 not in by_sha256
        used.add(sha256 if sha256 in by_sha256 else item.id)
        found.append(replace(item, split=split))
    lines = len(by_sha256) or len(by_id)
    summary = (
        f"splits: {path} names {counted(len(found), 'image')}, {by_name:,} of them by the id alone; "
        f"{counted(len(left_out), 'image')} not in it {'is' if len(left_out) == 1 else 'are'} left out; "
        f"{max(lines - len(used), 0):,} of its {counted(lines, 'line')} have no image here"
    )
    return Assigned(tuple(found), left_out, summary)


def splits_in_file(path: str) -> Counter[str]:
    """Return how many images a split file gives each split. Raises UsageError, DataError: as above."""
    by_sha256, by_id = _read(path)
    return Counter((by_sha256 or by_id).values())


def _read(path: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return {SHA-256: split} and {id: split}."""
    if storage.size(path) is None:
        raise UsageError(f"--split_file={path}: no such file; --write_split_file writes one")
    text = storage.read_bytes(path).decode("utf-8-sig", "surrogateescape")
    by_sha256: dict[str, str] = {}
    by_id: dict[str, str] = {}
    try:
        rows = csv_rows(text, delimiter=max(",;\t", key=text.partition("\n")[0].count))
        _, columns = next(rows, (0, []))
        if not {"sha256", "split"} <= set(columns) and not {"id", "split"} <= set(columns):
            raise DataError(
                f"--split_file={path}: must have the columns {', '.join(COLUMNS[:3])}, and has "
                f"{', '.join(columns) or 'none'}; --write_split_file writes such a file"
            )
        for number, cells in rows:
            row = dict(zip(columns, cells, strict=False))
            for known, key in ((by_sha256, row.get("sha256", "").lower()), (by_id, row.get("id", ""))):
                if key and known.setdefault(key, row.get("split", "")) != row.get("split", ""):
                    raise DataError(
                        f"--split_file={path} line {number}: {key} is in two splits, {known[key]} and "
                        f"{row.get('split', '')}; correct one of its lines"
                    )
                if key and not known[key].isidentifier():
                    raise DataError(
                        f"--split_file={path} line {number}: {known[key]!r} is not the name of a split; "
                        "write "
                        "train, validation or test there"
                    )
    except csv.Error as error:
        raise DataError(f"--split_file={path}: is not a CSV ({error}); write it again") from error
    return by_sha256, by_id
