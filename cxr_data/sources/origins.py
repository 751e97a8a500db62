"""Where a picture comes from: the hospital or data set, as a table, a folder or a flag says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxr_data.sources.item import Item
from cxr_data.sources.names import is_nobody

_MOST_FOLDERS = 100
_FEW_FOLDERS, _FEW_IMAGES = 20, 10
"""So many folders below the classes, with so few images each on average, are no sources either."""


@dataclass(frozen=True)
class Origins:
    """The source of every item.

    Attributes:
      of: {id: source}; empty where it is not known.
      assumed: what was assumed of folders, or "".
    """

    of: Mapping[str, str]
    assumed: str = ""


def find_origins(
    items: Sequence[Item], groups: Mapping[str, str], otherwise: str, *, from_folders: bool
) -> Origins:
    """Find where every item comes from.

    A folder below that of a class is a source, unless it is the patient: where it is the item's group, or
    where there are so many folders that they must be patients or studies.

    Args:
      items: the inputs; their `source` is what a table or a folder says.
      groups: {id: patient}.
      otherwise: the source where neither says one; may be empty.
      from_folders: whether folders say it, and not a table.
    """
    said = {item.id: "" if is_nobody(item.source) else item.source for item in items}
    assumed = ""
    if from_folders:
        said = {name: "" if folder == groups[name] else folder for name, folder in said.items()}
        inside = [folder for folder in said.values() if folder]
        folders = len(set(inside))
        is_crowd = folders > _FEW_FOLDERS and len(inside) < _FEW_IMAGES * folders
        if folders > _MOST_FOLDERS or is_crowd:
            said = dict.fromkeys(said, "")
            assumed = (
                f"the {folders:,} folders below those of the classes are patients or studies, and not places "
                "that pictures come from; a CSV with a column source says otherwise"
            )
    return Origins({name: source or otherwise for name, source in said.items()}, assumed)
