"""Which split a patient belongs to: as folders or tables say, or drawn so that every class has its share.

It depends on ids, labels, groups, fractions and the seed, and on nothing else. scikit-learn's grouped
splitters cut equal folds; these have any ratio.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.seeded import seeded_fraction, seeded_hash
from cxr_data.sources.finding_values import PRESENT
from cxr_data.sources.item import Item
from cxr_data.sources.names import split_of
from cxr_data.sources.stratification import stratify_groups

DEFAULT_SPLITS = "train:0.8,validation:0.1,test:0.1"
# Of `patients.Groups.found_by`, what --group_regex does not change.
_STATED = ("CSV", "table", "DICOM PatientID")


def parse_splits(text: str) -> dict[str, float] | None:
    """Read `train:0.8,test:0.2` as {split: fraction}, None for `folders`; `val` is validation here too.

    Raises:
      UsageError: not of this form, a name twice, or fractions that do not add up to 1.
    """
    if text == "folders":
        return None
    fractions: dict[str, float] = {}
    for part in text.split(","):
        name, colon, number = part.strip().partition(":")
        name = split_of(name) or name
        try:
            fraction = float(number)
        except ValueError:
            fraction = -1.0
        if not colon or not name.isidentifier() or not 0 < fraction <= 1 or name in fractions:
            raise UsageError(
                f"--splits={text}: {part!r} must be NAME:FRACTION (such as train:0.8,test:0.2) or folders"
            )
        fractions[name] = fraction
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise UsageError(f"--splits={text}: the fractions add up to {sum(fractions.values()):g}, not 1")
    return fractions


def fractions_of(text: str, has_splits: bool) -> dict[str, float] | None:
    """Read --splits, where "auto" is `folders` if the source has splits, else `DEFAULT_SPLITS`.

    Returns:
      {split: fraction}, or None where folders or the CSV decide.

    Raises:
      UsageError: as `parse_splits`.
    """
    return parse_splits(("folders" if has_splits else DEFAULT_SPLITS) if text == "auto" else text)


def assign_splits(
    items: Sequence[Item], groups: Mapping[str, str], fractions: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Assign whole groups to splits, stratified by class, or by findings as `stratification` has it.

    Groups of several images come first, the largest before, each to a split that still has room
    for it (drawn in proportion to the room, so that every split sees patients of every size);
    images that stand alone then fill each split's share of each class exactly.

    Args:
      items: the inputs.
      groups: {id: group}.
      fractions: {split: share of the images}, adding up to 1.
      seed: decides the draw.

    Returns:
      {group: split}.
    """
    labels = [item.labels or item.label for item in items]
    return place_groups([groups[item.id] for item in items], labels, fractions, seed)


def place_groups(
    groups: Sequence[str], labels: Sequence[str | Sequence[int]], fractions: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Do as `assign_splits` for images of which group and label are known.

    Args:
      groups: [N].
      labels: [N], the class of each image; or of each its findings, [C] of `finding_values`.
      fractions, seed: as of `assign_splits`.
    """
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    of_findings = False
    for group, label in zip(groups, labels, strict=True):
        if isinstance(label, str):
            sizes[group][label] += 1
        else:
            of_findings = True
            sizes[group].update(str(number) for number, value in enumerate(label) if value == PRESENT)
    if of_findings:
        return stratify_groups(Counter(groups), sizes, fractions, seed)
    return _fill_shares(sizes, fractions, seed)


def _fill_shares(
    sizes: Mapping[str, Counter[str]], fractions: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Place groups of which the images of each class are known, {group: {class: n}}."""
    totals: Counter[str] = Counter()
    for by_class in sizes.values():
        totals.update(by_class)
    room = {label: _shares(total, fractions) for label, total in totals.items()}
    assigned: dict[str, str] = {}
    for group in sorted(sizes, key=lambda g: (-sizes[g].total(), seeded_hash(seed, "group", g))):
        split = _choose(sizes[group], room, list(fractions), seeded_fraction(seed, "split", group))
        assigned[group] = split
        for label, count in sizes[group].items():
            room[label][split] -= count
    return assigned


def _shares(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Return whole numbers that add up to `total`, by the largest remainder."""
    shares = {split: int(total * fraction + 1e-9) for split, fraction in fractions.items()}
    by_remainder = sorted(fractions, key=lambda split: shares[split] - total * fractions[split])
    for split in by_remainder[: total - sum(shares.values())]:
        shares[split] += 1
    return shares


def _choose(
    sizes: Mapping[str, int], room: Mapping[str, Mapping[str, int]], splits: Sequence[str], draw: float
) -> str:
    fitting = [s for s in splits if all(room[label][s] >= count for label, count in sizes.items())]
    if not fitting:  # the least harm: where the squared distance from the shares grows least
        return min(
            splits, key=lambda s: sum(count * (count - 2 * room[label][s]) for label, count in sizes.items())
        )
    weights = [min(room[label][s] for label in sizes) for s in fitting]
    threshold = draw * sum(weights)
    for split, weight in zip(fitting, weights, strict=True):
        threshold -= weight
        if threshold < 0:
            return split
    return fitting[-1]


def splits_of_folders(
    items: Sequence[Item], groups: Mapping[str, str], found_by: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return {group: split} as folders or CSV have it.

    Args:
      items: the inputs, each with a split.
      groups: {id: group}.
      found_by: {id: the rule that found its group}, as `patients.Groups` has it.

    Raises:
      DataError: a group is in two splits, with the ways out.
    """
    assigned: dict[str, tuple[str, str]] = {}
    shared: dict[str, str] = {}
    for item in items:
        group = groups[item.id]
        split, first = assigned.setdefault(group, (item.split or "", item.id))
        if split != item.split:
            shared.setdefault(
                group, f"group {group!r} is in two splits: {first} ({split}) and {item.id} ({item.split})"
            )
    if shared:
        group, where = next(iter(shared.items()))
        source = (found_by or {}).get(assigned[group][1], "")
        raise DataError(
            f"{where}, "
            + (f"according to {source}, " if source else "")
            + f"one of {len(shared):,} in two splits; --splits=train:0.8,validation:0.1,test:0.1 splits all "
            "images by patient, "
            + ("" if source in _STATED else "--group_regex=none takes each image for a patient of its own, ")
            + "or move or exclude one of them"
        )
    return {group: split for group, (split, _) in assigned.items()}


def kept_splits(
    items: Iterable[Item], fractions: Mapping[str, float] | None, has_splits: bool
) -> frozenset[str]:
    """Return the source's own splits that stay as they are.

    All do where no fractions are given. Where fractions name some of them, those are put together and split,
    and the others stay: `train:0.9,validation:0.1` splits the folder train, and keeps test. Where fractions
    name none, all are put together.
    """
    own = frozenset(item.split or "" for item in items) if has_splits else frozenset()
    if fractions is None:
        return own
    return own - fractions.keys() if own & fractions.keys() else frozenset()


def decide_splits(
    items: Sequence[Item],
    groups: Mapping[str, str],
    fractions: Mapping[str, float] | None,
    kept: Collection[str],
    seed: int,
    found_by: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], list[str]]:
    """Decide the split of each group.

    Args:
      items: the inputs.
      groups: {id: group}.
      fractions: of the splits that are drawn, None where folders or the CSV decide.
      kept: the source's own splits that stay, see `kept_splits`.
      seed: of the draw.
      found_by: see `splits_of_folders`.

    Returns:
      {group: split}, and the names of the splits in their order.

    Raises:
      DataError: a group is in two splits.
    """
    drawn = [item for item in items if (item.split or "") not in kept]
    pool = " and ".join(sorted({item.split or "" for item in drawn}))
    places = [item if (item.split or "") in kept else replace(item, split=pool) for item in items]
    split_of = splits_of_folders(places, groups, found_by) if kept else {}
    order = {"train": 0, "validation": 1, "test": 2}
    own = sorted(kept, key=lambda split: (order.get(split, 3), split))
    if fractions is None:
        return split_of, own
    return split_of | assign_splits(drawn, groups, fractions, seed), [*fractions, *own]
