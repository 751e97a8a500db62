"""Find the file of each row: by the end of its path, with or without the ending of an image."""

from collections import defaultdict
from collections.abc import Sequence

from cxr_data.sources.folders import IMAGE_SUFFIXES


class PictureFiles:
    """The files of a source, to be found by what tables call them.

    Args:
      ids: [N], of the files: their paths below the source.
      least_parts: number of the last parts of a path that tell a picture from all others, for `find`; 0 for
        all parts that a row has.
    """

    def __init__(self, ids: Sequence[str], least_parts: int = 0) -> None:
        self._ids = ids
        self._least = least_parts
        self._by_end: dict[int, dict[tuple[str, ...], list[int]]] = {}
        self._by_path: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, name in enumerate(ids):
            self._by_path[_parts(name)].append(number)

    def find(self, path: str) -> list[int]:
        """Return the numbers of the files that a row may mean: one where it is clear."""
        parts = _parts(path)
        # The path may begin with folders that the source lacks, or lack some that the source has.
        shared = self._least or len(parts)
        found = self._ending(parts[-shared:])
        while len(found) > 1 and shared < len(parts):
            shared += 1
            longer = [number for number in found if _parts(self._ids[number])[-shared:] == parts[-shared:]]
            if not longer:
                break
            found = longer
        return self._closest(path, found)

    def find_agreeing(self, path: str) -> list[int]:
        """Return the numbers of the files that a row of any table may mean: one where it is clear.

        It is unknown how many parts tell its pictures apart, so all the parts that both paths have agree:
        the row's path is an end of the file's, or the file's an end of the row's, the longest that there is.
        """
        parts = _parts(path)
        if not parts:
            return []
        found = self._ending(parts)
        for start in range(1, len(parts)):
            found = found or self._by_path.get(parts[start:], [])
        return self._closest(path, found)

    def _closest(self, path: str, found: list[int]) -> list[int]:
        """Return those of the files found whose whole path is the row's; all where there is none."""
        exact = [number for number in found if self._ids[number] == path]
        whole = [number for number in found if _parts(self._ids[number]) == _parts(path)]
        return exact or whole or found

    def _ending(self, parts: tuple[str, ...]) -> list[int]:
        count = len(parts)
        if count not in self._by_end:
            ends: dict[tuple[str, ...], list[int]] = defaultdict(list)
            for number, name in enumerate(self._ids):
                ends[_parts(name)[-count:]].append(number)
            self._by_end[count] = ends
        return self._by_end[count].get(parts, [])


def _parts(path: str) -> tuple[str, ...]:
    """Return the folders and the name of a path, the name without the ending of an image."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    if parts and parts[-1].lower().endswith(IMAGE_SUFFIXES):
        parts[-1] = parts[-1].rpartition(".")[0]
    return tuple(parts)
