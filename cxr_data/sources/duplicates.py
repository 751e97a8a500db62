"""Exact duplicates: files with the same bytes.

Only files of the same size can be the same, so only those are read for it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cxr_data.core.errors import DataError
from cxr_data.images.source_file import digest_of
from cxr_data.images.undecodable import Undecodable
from cxr_data.sources.item import Item
from cxr_data.sources.quarantine import Quarantined

POLICIES = ("exclude", "keep", "fail")


@dataclass(frozen=True)
class Deduplicated:
    """What is left, what is not, and which ids must stay in one split (only for "keep")."""

    items: tuple[Item, ...]
    excluded: tuple[Quarantined, ...]
    same: tuple[tuple[str, ...], ...]


def digests_of(items: Sequence[Item], max_pixels: int, threads: int) -> Iterator[str]:
    """Yield the SHA-256 of each file, read in several threads; "" for one that cannot be read."""

    def digest(item: Item) -> str:
        try:
            return digest_of(item.path, max_pixels, item.bytes)
        except Undecodable:
            return ""  # it will be quarantined with its reason when it is converted

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        yield from pool.map(digest, items)


def find_duplicates(items: Iterable[Item], max_pixels: int, threads: int) -> dict[str, list[Item]]:
    """Return {SHA-256: items} of contents that occur more than once, items by id."""
    by_size: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        by_size[item.bytes].append(item)
    suspects = [item for same in by_size.values() if len(same) > 1 and same[0].bytes for item in same]
    by_digest: dict[str, list[Item]] = defaultdict(list)
    for item, sha256 in zip(suspects, digests_of(suspects, max_pixels, threads), strict=True):
        by_digest[sha256].append(item)
    return {sha256: same for sha256, same in by_digest.items() if sha256 and len(same) > 1}


def apply_policy(
    items: Sequence[Item], duplicates: Mapping[str, Sequence[Item]], policy: str
) -> Deduplicated:
    """Apply --duplicates.

    "exclude" keeps one of each: that of the smallest split where folders decide (evaluation sets
    stay whole), the first by id otherwise; where the labels differ none is kept, as one of them is
    wrong. "keep" keeps all and ties them to one split. "fail" refuses.

    Raises:
      DataError: "fail" and there are any; "keep" and folders put them into two splits.
    """
    if duplicates and policy == "fail":
        same = next(iter(duplicates.values()))
        raise DataError(
            f"{len(duplicates)} contents occur more than once, such as {same[0].id} = {same[1].id}; "
            "remove one file of each pair, or pass --duplicates=exclude to leave one out"
        )
    if policy == "keep":
        for same in duplicates.values():
            if len({item.split for item in same}) > 1:
                raise DataError(
                    f"the same image is in two splits: {same[0].id} = {same[1].id}; "
                    "pass --duplicates=exclude to leave one of them out"
                )
        return Deduplicated(
            tuple(items), (), tuple(tuple(i.id for i in same) for same in duplicates.values())
        )
    in_split = Counter(item.split for item in items)
    excluded: dict[str, Quarantined] = {}
    for sha256, same in duplicates.items():
        ordered = sorted(same, key=lambda item: (in_split[item.split], item.id))
        if len({item.truth for item in same}) > 1:
            text = " and ".join(f"{item.id} ({item.label or 'other findings'})" for item in ordered)
            excluded.update({i.id: Quarantined(i.id, "conflicting_labels", text, sha256) for i in ordered})
        else:
            detail = f"same bytes as {ordered[0].id}"
            excluded.update({i.id: Quarantined(i.id, "duplicate", detail, sha256) for i in ordered[1:]})
    kept = tuple(item for item in items if item.id not in excluded)
    return Deduplicated(kept, tuple(sorted(excluded.values())), ())


def tie_groups(groups: Mapping[str, str], same: Iterable[Sequence[str]]) -> dict[str, str]:
    """Merge the groups of images that are the same.

    Args:
      groups: {id: group}.
      same: ids of images that are the same; what two of these sequences share is tied through.

    Returns:
      {id: group}, in the order of `groups`: of groups that are tied, the first by name.
    """
    # Not by SciPy: to import its sparse graphs takes longer than to audit a small dataset.
    above = {group: group for group in groups.values()}

    def first_tied(group: str) -> str:
        while above[group] != group:
            above[group] = above[above[group]]  # halves the way for the next search
            group = above[group]
        return group

    for ids in same:
        for name in ids[1:]:
            first, second = sorted((first_tied(groups[ids[0]]), first_tied(groups[name])))
            above[second] = first
    return {name: first_tied(group) for name, group in groups.items()}
