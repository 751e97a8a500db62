"""Segmentation masks among the pictures, as folders or files: they must not be trained on as pictures."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from pathlib import PurePosixPath

from cxr_data.core.errors import UsageError
from cxr_data.sources.item import Item
from cxr_data.sources.left_out import KEEP_ALL, LeftOut

_MASK_WORD = re.compile(r"(?!un)\w*masks?|segs?|segmentations?|annotations?|contours?|gt|groundtruth")
_MASK_ENDING = re.compile(
    r"(?P<word>[ _.-]?(?:masks?|seg|segmentation|annotation|contour|gt|ground[ _-]?truth))(?:[ _.-]?\d+)?$"
)
_EQUAL_SHARE = 0.9  # of the files' names: few data sets are without a slip


def check_masks(items: Sequence[Item], left_out: LeftOut, *, depth: int) -> str:
    """Look for masks: `CLASS/images` beside `CLASS/masks`, a class called masks, `x_mask.png` and `x.png`.

    Args:
      items: the inputs.
      left_out: what is left out; it says whether masks are taken for pictures.
      depth: of the class folders, 0 where they are at the top.

    Returns:
      A warning of two folders whose files have the same names in every class, or "".

    Raises:
      UsageError: folders or files are named as masks.
    """
    if left_out.keeps_masks:
        return ""
    folders = {folder: item.id for item in items for folder in _folders(item, depth) if _is_of_masks(folder)}
    if folders:
        folder, example = min(folders.items())
        raise UsageError(
            f"the folder {folder!r} (such as {example}) seems to hold masks, which would be trained on as "
            f"pictures: --exclude_folders={','.join(sorted(folders))} leaves them out, "
            f"--exclude_folders={KEEP_ALL} takes them for pictures"
        )
    files = dict(_mask_files(items))
    if files:
        mask, (picture, _) = min(files.items())
        patterns = ",".join(sorted({f"*{word}*" for _, word in files.values()}))
        raise UsageError(
            f"{len(files):,} files seem to hold masks, such as {mask} of {picture}, which would be "
            "trained on as "
            f"pictures: --exclude_files='{patterns}' leaves them out, --exclude_folders={KEEP_ALL} takes "
            "them for pictures"
        )
    return _equal_folders(items, depth)


def _folders(item: Item, depth: int) -> tuple[str, ...]:
    """Return the folder of the item's class and those below it."""
    return PurePosixPath(item.id).parts[depth:-1]


def _is_of_masks(folder: str) -> bool:
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", folder).lower())
    words += [first + second for first, second in pairwise(words)]
    return any(map(_MASK_WORD.fullmatch, words))


def _mask_files(items: Sequence[Item]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield (id of a mask, (id of its picture, ending that says it)): both are of one class."""
    pictures = {(item.split, item.label, _stem(item).lower()): item.id for item in items}
    for item in items:
        found = _MASK_ENDING.search(_stem(item).lower())
        if found and (of := pictures.get((item.split, item.label, _stem(item)[: found.start()].lower()))):
            yield item.id, (of, _stem(item)[found.start("word") : found.end("word")])


def _stem(item: Item) -> str:
    return PurePosixPath(item.id).stem


def _equal_folders(items: Sequence[Item], depth: int) -> str:
    cells: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for item in items:
        folders = _folders(item, depth)
        if len(folders) > 1:
            cells[item.split or "", item.label][folders[1]].add(_MASK_ENDING.sub("", _stem(item).lower()))
    if not cells or len(cells) < len({(item.split, item.label) for item in items}):
        return ""
    for first, second in combinations(sorted(set.intersection(*map(set, cells.values()))), 2):
        if all(_are_equal(cell[first], cell[second]) for cell in cells.values()):
            return (
                f"every class has the folders {first!r} and {second!r} with files of the same names: if one "
                f"of them holds masks, leave that one out, by --exclude_folders={first} or "
                f"--exclude_folders={second}"
            )
    return ""


def _are_equal(first: set[str], second: set[str]) -> bool:
    return len(first & second) >= _EQUAL_SHARE * max(len(first), len(second))
