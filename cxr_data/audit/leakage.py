"""Leakage: patients, pictures and their copies that are in two splits, classes or datasets."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_data.audit.findings import LEAKAGE, REPEATS, TWO_CLASSES, Finding
from cxr_data.audit.near_duplicates import find_centres, find_pairs
from cxr_data.audit.pictures import Pictures
from cxr_data.core.wording import counted
from cxr_data.sources.duplicates import tie_groups

# A thumbnail that spans fewer grey levels, as of a failed exposure, is noise: no correlation means much.
_BLANK = 4


@dataclass(frozen=True)
class Pair:
    """Two pictures that show the same.

    Attributes:
      first: position in the audited dataset.
      second: position in it, or in the second dataset if `is_across`.
      ncc: correlation of the thumbnails.
      is_exact: whether the stored pixels are the same, one by one.
      is_across: whether the second picture is of the second dataset.
    """

    first: int
    second: int
    ncc: float
    is_exact: bool
    is_across: bool = False


def pairs_of(own: Pictures, other: Pictures | None = None) -> list[Pair]:
    """Return the pairs that link all pictures that show the same.

    Of many copies of a picture not every two are a pair, but they are all linked; and where copies lie on
    two sides, one of the pairs does. The centres of pictures are looked at where the files are known, and no
    border was cut off.

    Args:
      own: the audited dataset.
      other: a second one; pairs within it are left out.
    """
    rows = own.rows if other is None else np.concatenate([own.rows, other.rows])
    same_form = other is None or own.stored == other.stored
    found = []
    is_whole = all(pictures.is_whole for pictures in (own, other) if pictures is not None)
    for first, second, ncc in _similar(rows, centres=is_whole):
        if first >= len(own):
            continue
        is_across = bool(second >= len(own))
        same_pixels = rows["crc32c"][first] == rows["crc32c"][second] and np.array_equal(
            rows["thumbnail"][first], rows["thumbnail"][second]
        )
        position = int(second) - (len(own) if is_across else 0)
        exact = bool(same_pixels) and (same_form or not is_across)
        found.append(Pair(int(first), position, round(float(ncc), 4), exact, is_across))
    return found


def _similar(rows: np.ndarray, *, centres: bool) -> list[tuple[int, int, float]]:
    """Return `find_pairs`, and `find_centres` if wanted, of what shows something, and the exact copies of
    what is blank.
    """
    is_blank = np.ptp(rows["thumbnail"].reshape(len(rows), -1), axis=1) < _BLANK
    positions = np.flatnonzero(~is_blank)
    pairs = find_pairs(rows["thumbnail"][positions])
    similar = list(zip(positions[pairs.first], positions[pairs.second], pairs.ncc, strict=True))
    if centres:
        sizes = np.stack([rows["width"], rows["height"]], axis=1)[positions]
        known = {(first, second) for first, second, _ in similar}
        found = find_centres(rows["thumbnail"][positions], sizes)
        more = zip(positions[found.first], positions[found.second], found.ncc, strict=True)
        similar += [pair for pair in more if pair[:2] not in known]
    first_of: dict[int, int] = {}
    for position in np.flatnonzero(is_blank):
        first = first_of.setdefault(int(rows["crc32c"][position]), int(position))
        if first != position:
            similar.append((first, position, 1.0))
    return sorted((int(first), int(second), float(ncc)) for first, second, ncc in similar)


def find_leakage(own: Pictures, pairs: Iterable[Pair], other: Pictures | None = None) -> list[Finding]:
    """Return the patients and pictures on two sides, and repeats on one.

    Args:
      own: the audited dataset.
      pairs: from `pairs_of`.
      other: the second dataset.
    """
    pairs = list(pairs)
    inside = [pair for pair in pairs if not pair.is_across]
    found = [
        _patients_in_two(own, "splits", own.splits.__getitem__, LEAKAGE),
        # A patient may have a finding in one picture and not in the next.
        _patients_in_two(own, "classes", own.label_name, TWO_CLASSES) if own.findings is None else None,
        _pictures_in_two(
            own,
            [pair for pair in inside if own.splits[pair.first] != own.splits[pair.second]],
            "splits",
            own.splits.__getitem__,
        ),
        _pictures_in_two(
            own,
            [pair for pair in inside if own.contradict(pair.first, pair.second)],
            "classes",
            own.label_name,
        ),
        _repeats(own, inside),
    ]
    if other is not None:
        found.append(_pictures_in_other(own, other, [pair for pair in pairs if pair.is_across]))
    return [finding for finding in found if finding is not None]


# -- patients ----------------------------------------------------------------------------------


def _patients_in_two(own: Pictures, sides: str, side_of: Callable[[int], str], kind: str) -> Finding | None:
    cases: list[Mapping[str, Any]] = []
    for patient, positions in sorted(own.patients().items()):
        counts: dict[str, int] = {}
        for position in positions:
            side = side_of(position)
            counts[side] = counts.get(side, 0) + 1
        if len(counts) > 1:
            where = ", ".join(f"{side} {count}" for side, count in sorted(counts.items()))
            cases.append({"patient": patient, sides: where, "ids": [own.ids[i] for i in positions]})
    if not cases:
        return None
    are = "is" if len(cases) == 1 else "are"
    text = f"{len(cases):,} of {counted(len(own.patients()), 'known patient')} {are} in two {sides}"
    return Finding(kind, f"patients_in_two_{sides}", len(cases), text, tuple(cases))


# -- pictures ----------------------------------------------------------------------------------


def _pictures_in_two(
    own: Pictures, crossing: list[Pair], sides: str, side_of: Callable[[int], str]
) -> Finding | None:
    if not crossing:
        return None
    cases = tuple(_case(own, own, pair, side_of, side_of) for pair in crossing)
    where = f"in two {sides}"
    if sides == "classes" and own.findings is not None:
        where = "with findings that contradict each other"
    text = f"{_showing_the_same(crossing)} {where}"
    return Finding(LEAKAGE, f"pictures_in_two_{sides}", len(crossing), text, cases)


def _pictures_in_other(own: Pictures, other: Pictures, pairs: list[Pair]) -> Finding | None:
    if not pairs:
        return None

    def own_side(position: int) -> str:
        return f"{own.splits[position]}/{own.label_name(position)}"

    def other_side(position: int) -> str:
        return f"{other.splits[position]}/{other.label_name(position)}".lstrip("/")

    cases = tuple(_case(own, other, pair, own_side, other_side) for pair in pairs)
    text = (
        f"{_showing_the_same(pairs)} here and in {other.where}: neither may evaluate what the other trained "
        "before they are left out"
    )
    return Finding(LEAKAGE, "pictures_in_second_dataset", len(pairs), text, cases)


def _repeats(own: Pictures, pairs: list[Pair]) -> Finding | None:
    here = [
        pair
        for pair in pairs
        if own.splits[pair.first] == own.splits[pair.second] and not own.contradict(pair.first, pair.second)
    ]
    if not here:
        return None
    root = tie_groups({name: name for name in own.ids}, ((own.ids[p.first], own.ids[p.second]) for p in here))
    extra = len(root) - len(set(root.values()))
    repeat = "picture repeats another" if extra == 1 else "pictures repeat others"
    label = "class" if own.findings is None else "findings"
    text = f"{extra:,} {repeat} of the same split and {label} ({_kinds(here)})"
    cases = tuple(_case(own, own, pair, own.splits.__getitem__, own.label_name) for pair in here)
    return Finding(REPEATS, "repeated_pictures", extra, text, cases)


def _case(
    own: Pictures,
    other: Pictures,
    pair: Pair,
    side_of_first: Callable[[int], str],
    side_of_second: Callable[[int], str],
) -> Mapping[str, Any]:
    return {
        "first": own.ids[pair.first],
        "in": side_of_first(pair.first),
        "second": other.ids[pair.second],
        "and": side_of_second(pair.second),
        "ncc": pair.ncc,
        "exact": pair.is_exact,
    }


def _showing_the_same(pairs: list[Pair]) -> str:
    show = "shows" if len(pairs) == 1 else "show"
    return f"{counted(len(pairs), 'pair')} of pictures ({_kinds(pairs)}) {show} the same"


def _kinds(pairs: list[Pair]) -> str:
    """Return `2 exact, 1 nearly so`, without what there is none of."""
    exact = sum(pair.is_exact for pair in pairs)
    kinds = {"exact": exact, "nearly so": len(pairs) - exact}
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
