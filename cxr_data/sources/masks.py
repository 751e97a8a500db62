"""Folders that hold segmentation masks beside the pictures: they must not be trained on as pictures."""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import PurePosixPath

from cxr_data.core.errors import UsageError
from cxr_data.sources.discover import KEEP_ALL, Item

_MASK_WORDS = {
    *("mask", "masks", "segmentation", "segmentations", "annotation", "annotations", "contour", "contours"),
    "groundtruth",
}
_EQUAL_SHARE = 0.9  # of the files' names: few data sets are without a slip


def check_masks(items: Sequence[Item], exclude_folders: Sequence[str], *, depth: int) -> str:
    """Look for folders of masks: `CLASS/images` beside `CLASS/masks`, or a class that is called masks.

    Args:
      items: the inputs, in class folders.
      exclude_folders: as the flag says; `KEEP_ALL` takes masks for pictures.
      depth: of the class folders, 0 where they are at the top.

    Returns:
      A warning of two folders whose files have the same names in every class, or "".

    Raises:
      UsageError: folders are named as masks.
    """
    if KEEP_ALL in exclude_folders:
        return ""
    cells: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    masks: dict[str, str] = {}
    for item in items:
        *folders, name = PurePosixPath(item.id).parts[depth:]
        masks |= {folder: item.id for folder in folders if _is_of_masks(folder)}
        if len(folders) > 1:
            cells[item.split or "", item.label][folders[1]].add(_plain(name))
    if masks:
        folder, example = min(masks.items())
        raise UsageError(
            f"the folder {folder!r} (as of {example}) seems to hold masks, which would be trained on as "
            f"pictures: --exclude_folders={','.join(sorted(masks))} leaves them out, "
            f"--exclude_folders={KEEP_ALL} takes them for pictures"
        )
    if len(cells) < len({(item.split, item.label) for item in items}):
        return ""
    for first, second in combinations(sorted(set.intersection(*map(set, cells.values()))), 2):
        if all(_are_equal(cell[first], cell[second]) for cell in cells.values()):
            return (
                f"every class has the folders {first!r} and {second!r} with files of the same names: if one "
                f"of them holds masks, leave it out, as by --exclude_folders={second}"
            )
    return ""


def _is_of_masks(folder: str) -> bool:
    return not _MASK_WORDS.isdisjoint(re.findall(r"[a-z]+", folder.lower()))


def _plain(name: str) -> str:
    """Return the name of a file without its suffix and the word for a mask."""
    return re.sub(r"[ _-]?mask$", "", PurePosixPath(name).stem.lower())


def _are_equal(first: set[str], second: set[str]) -> bool:
    return len(first & second) >= _EQUAL_SHARE * max(len(first), len(second))
