"""Names of splits, as flags take them: one, several joined by `+`, and folds of them.

train                      a split of the data set
train+validation           both together: a pool
train+validation@2of5      the second of five folds of the pool
train+validation@not2of5   the rest of the pool
"""

import dataclasses
import re

from cxr_data.core.errors import UsageError

_FOLD = re.compile(r"(not)?([1-9][0-9]{0,3})of([1-9][0-9]{0,3})")


@dataclasses.dataclass(frozen=True)
class Fold:
    """A fold of a pool, or the rest of the pool.

    Attributes:
      number: from 1.
      count: how many folds the pool has.
      is_rest: whether it is all of the pool but the fold.
    """

    number: int
    count: int
    is_rest: bool = False

    def meets(self, other: "Fold") -> bool:
        """Return whether this and another fold of the same pool have images in common."""
        if self.count != other.count or (self.is_rest and other.is_rest):
            return True  # of one pool cut in two ways, nothing is known
        return (self.number == other.number) is (self.is_rest is other.is_rest)


def parse_split(split: str) -> tuple[list[str], Fold | None]:
    """Return the splits that a name joins, each once, and the fold of them, if it is one.

    Raises:
      UsageError: what follows `@` is no fold.
    """
    pool, at, fold = split.partition("@")
    names = list(dict.fromkeys(pool.split("+")))
    if not at:
        return names, None
    found = _FOLD.fullmatch(fold)
    if not found or int(found[2]) > int(found[3]) or int(found[3]) < 2:
        raise UsageError(f"split {split!r}: a fold is written like {pool}@2of5, the rest like {pool}@not2of5")
    return names, Fold(int(found[2]), int(found[3]), is_rest=bool(found[1]))


def joined_splits(split: str) -> list[str]:
    """Return the splits that a name is made of, each once, without the fold."""
    return parse_split(split)[0]


def have_common_images(one: str, other: str) -> bool:
    """Return whether two names stand for splits that share images."""
    (names, fold), (others, other_fold) = parse_split(one), parse_split(other)
    if not set(names) & set(others):
        return False
    # Folds of different pools are cut in different ways.
    return fold is None or other_fold is None or names != others or fold.meets(other_fold)


def images_of(pool: int, split: str) -> int:
    """Return the images of a split, or about as many as its fold has, without reading who is in which.

    Args:
      pool: images of all the splits that the name joins.
      split: such a name.
    """
    fold = parse_split(split)[1]
    if fold is None:
        return pool
    return pool * (fold.count - 1 if fold.is_rest else 1) // fold.count


def fold_splits(pool: str, number: int, count: int) -> tuple[str, str]:
    """Return the names of the rest of a pool, to train on, and of its fold, to validate on."""
    return f"{pool}@not{number}of{count}", f"{pool}@{number}of{count}"
