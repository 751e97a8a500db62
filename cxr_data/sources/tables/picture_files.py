"""Find the file of each row: by the end of its path, with or without the ending of an image."""

from collections import defaultdict
from collections.abc import Sequence

from cxr_data.sources.folders import IMAGE_SUFFIXES
from cxr_data.sources.item import Item


class PictureFiles:
    """The files of a source, to be found by what tables call them.

    Args:
      items: the files.
      least_parts: number of the last parts of a path that tell a picture from all others; 0 for all parts
        that a row has.
    """

    def __init__(self, items: Sequence[Item], least_parts: int) -> None:
        self._items = items
        self._least = least_parts
        self._by_end: dict[int, dict[tuple[str, ...], list[Item]]] = {}

    def find(self, path: str) -> list[Item]:
        """Return the files that a row may mean: one where it is clear."""
        parts = _parts(path)
        # The path may begin with folders that the source lacks, or lack some that the source has.
        shared = self._least or len(parts)
        found = self._ending(parts[-shared:])
        while len(found) > 1 and shared < len(parts):
            shared += 1
            longer = [item for item in found if _parts(item.id)[-shared:] == parts[-shared:]]
            if not longer:
                break
            found = longer
        exact = [item for item in found if item.id == path]
        whole = [item for item in found if _parts(item.id) == parts]
        return exact or whole or found

    def _ending(self, parts: tuple[str, ...]) -> list[Item]:
        count = len(parts)
        if count not in self._by_end:
            ends: dict[tuple[str, ...], list[Item]] = defaultdict(list)
            for item in self._items:
                ends[_parts(item.id)[-count:]].append(item)
            self._by_end[count] = ends
        return self._by_end[count].get(parts, [])


def _parts(path: str) -> tuple[str, ...]:
    """Return the folders and the name of a path, the name without the ending of an image."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    if parts and parts[-1].lower().endswith(IMAGE_SUFFIXES):
        parts[-1] = parts[-1].rpartition(".")[0]
    return tuple(parts)
