"""What --exclude_folders and --exclude_files leave out: folders and files by their names, such as masks."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from cxr_data.core.errors import UsageError
from cxr_data.sources.item import Item
from cxr_data.sources.quarantine import Quarantined

KEEP_ALL = "none"
"""What --exclude_folders says where no folder is left out, not even masks."""


@dataclass(frozen=True)
class LeftOut:
    """What is left out, wherever it is in the source.

    Attributes:
      folders: names of folders; `KEEP_ALL` stands for none.
      files: patterns of names of files, as *_mask.png.
    """

    folders: Sequence[str] = ()
    files: Sequence[str] = ()

    @property
    def keeps_masks(self) -> bool:
        """Whether a file that seems to be a mask counts as a picture."""
        return KEEP_ALL in self.folders

    def apply(self, entries: Iterable[Item | Quarantined]) -> Iterator[Item | Quarantined]:
        """Quarantine the items that are left out; a link to a folder counts as one."""
        for entry in entries:
            why = self._why(PurePosixPath(entry.id)) if isinstance(entry, Item) else ""
            yield Quarantined(entry.id, "excluded", why) if why else entry

    def _why(self, path: PurePosixPath) -> str:
        for folder in self.folders:
            if folder in path.parts[:-1]:
                return f"in a folder {folder}, as --exclude_folders says"
        for pattern in self.files:
            if fnmatchcase(path.name, pattern):
                return f"named like {pattern}, as --exclude_files says"
        return ""

    def refuse_unused(self, quarantined: Iterable[Quarantined]) -> None:
        """Raise UsageError for a name that leaves nothing out, since it may be misspelled."""
        paths = [PurePosixPath(entry.id) for entry in quarantined if entry.reason == "excluded"]
        of_folders = {part for path in paths for part in path.parts} | {KEEP_ALL}
        for folder in self.folders:
            if folder not in of_folders:
                raise UsageError(
                    f"--exclude_folders={folder}: no folder of the source with files has this name; "
                    "correct the name or leave it out"
                )
        for pattern in self.files:
            if not any(fnmatchcase(path.name, pattern) for path in paths):
                raise UsageError(
                    f"--exclude_files={pattern}: no file of the source matches it; correct the pattern "
                    "or leave it out"
                )
