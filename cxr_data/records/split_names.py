"""Names of splits, as flags take them: one, several joined by `+`, and parts of them after `@`.

train                           a split of the data set
train+validation                both together: a pool
train@only=nih,guangzhou        what of it comes from these sources, as `Manifest.sources` names them
train@without=nih               what of it comes from all other sources
train@disjoint=nih              of these, the known sources, less the patients who are in nih too by the audit
train+validation@2of5           the second of five folds of the pool
train+validation@not2of5        the rest of the pool
train@without=nih@2of5          the second of five folds of what comes from other sources

A name is a part of file names. In that of a source, `/`, `,`, `@` and `%` are written as in an address: %2F,
%2C, %40 and %25.
"""

import dataclasses
import re
import urllib.parse
from collections.abc import Sequence

from cxr_data.core.errors import UsageError

_FOLD = re.compile(r"(not)?([1-9][0-9]{0,3})of([1-9][0-9]{0,3})")
_SOURCES = re.compile(r"(only|without|disjoint)=(.*)", re.DOTALL)
# What has a meaning of its own in a name or in a path, or is not shown.
_WRITTEN_OTHERWISE = re.compile(r"[%/,@\x00-\x1f\x7f]")
# File systems have a limit of 255 bytes, and other words stand around the name.
_MOST_BYTES = 200


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


@dataclasses.dataclass(frozen=True)
class Sources:
    """Some sources of a pool, or the rest of the pool.

    Attributes:
      names: each once.
      is_rest: whether it is all of the pool but these sources.
      is_disjoint: whether the rest shares no patient with these sources: it has no picture of an unknown
        source, and none of a patient of whom the data set's audit found a picture in these sources.
    """

    names: tuple[str, ...]
    is_rest: bool = False
    is_disjoint: bool = False

    def meets(self, other: "Sources") -> bool:
        """Return whether this and other sources of the same pool may have images in common."""
        if self.is_rest and other.is_rest:
            return True
        if self.is_rest or other.is_rest:
            some, left_out = (other, self) if self.is_rest else (self, other)
            return bool({*some.names} - {*left_out.names})
        return bool({*self.names} & {*other.names})

    def __str__(self) -> str:
        names = ",".join(_WRITTEN_OTHERWISE.sub(_as_in_addresses, name) for name in self.names)
        kind = "disjoint" if self.is_disjoint else "without" if self.is_rest else "only"
        return f"@{kind}={names}"


@dataclasses.dataclass(frozen=True)
class SplitName:
    """What a name stands for.

    Attributes:
      splits: that it joins, each once.
      sources: which of their sources; None for all.
      fold: which fold of what these sources have; None for all of it.
    """

    splits: tuple[str, ...]
    sources: Sources | None = None
    fold: Fold | None = None

    @property
    def pool(self) -> str:
        """The name without the fold."""
        return "+".join(self.splits) + str(self.sources or "")

    @property
    def is_part(self) -> bool:
        """Whether some records of the splits are left out."""
        return self.sources is not None or self.fold is not None


def parse_split(split: str) -> SplitName:
    """Return what a name stands for.

    Raises:
      UsageError: what follows `@` is no fold and names no sources.
    """
    pool, *parts = split.split("@")
    splits = tuple(dict.fromkeys(pool.split("+")))
    sources = fold = None
    if parts and (found := _SOURCES.fullmatch(parts[0])):
        sources = _parse_sources(split, found[2], found[1])
        parts = parts[1:]
    if parts:
        fold = _parse_fold(split, pool, "@".join(parts))
    return SplitName(splits, sources, fold)


def _parse_sources(split: str, text: str, kind: str) -> Sources:
    names = text.split(",")
    if not all(names) or re.search(r"[/\x00-\x1f\x7f]", text) or len(split.encode()) > _MOST_BYTES:
        raise UsageError(
            f"split {split!r}: must be like train@only=nih,guangzhou, train@without=nih or "
            f"train@disjoint=nih, in at most {_MOST_BYTES} bytes; write / , @ and % of a source as %2F, %2C, "
            "%40 and %25"
        )
    unquoted = tuple(dict.fromkeys(map(urllib.parse.unquote, names)))
    return Sources(unquoted, is_rest=kind != "only", is_disjoint=kind == "disjoint")


def _parse_fold(split: str, pool: str, text: str) -> Fold:
    found = _FOLD.fullmatch(text)
    if not found or int(found[2]) > int(found[3]) or int(found[3]) < 2:
        raise UsageError(
            f"split {split!r}: a fold is written like {pool}@2of5, the rest like {pool}@not2of5, and sources "
            f"before it, like {pool}@only=NAME or {pool}@without=NAME"
        )
    return Fold(int(found[2]), int(found[3]), is_rest=bool(found[1]))


def _as_in_addresses(letter: re.Match[str]) -> str:
    return f"%{ord(letter[0]):02X}"


def joined_splits(split: str) -> list[str]:
    """Return the splits that a name is made of, each once, without what follows `@`."""
    return [*parse_split(split).splits]


def have_common_images(one: str, other: str) -> bool:
    """Return whether two names stand for splits that share images, or may."""
    this, that = parse_split(one), parse_split(other)
    if not {*this.splits} & {*that.splits}:
        return False
    if this.sources and that.sources and not this.sources.meets(that.sources):
        return False
    # Folds of different pools are cut in different ways.
    return this.fold is None or that.fold is None or this.pool != that.pool or this.fold.meets(that.fold)


def images_of(pool: int, split: str) -> int:
    """Return the images of a split, or about as many as its fold has, without reading who is in which.

    Args:
      pool: images of all that the name joins, of its sources alone.
      split: such a name.
    """
    fold = parse_split(split).fold
    if fold is None:
        return pool
    return pool * (fold.count - 1 if fold.is_rest else 1) // fold.count


def fold_splits(pool: str, number: int, count: int) -> tuple[str, str]:
    """Return the names of the rest of a pool, to train on, and of its fold, to validate on."""
    return f"{pool}@not{number}of{count}", f"{pool}@{number}of{count}"


def source_splits(splits: str, sources: Sequence[str], *, is_disjoint: bool = False) -> tuple[str, str]:
    """Return the names of what of some splits comes from other sources, and of what comes from these.

    Args:
      splits: joined by `+`.
      sources: some of them.
      is_disjoint: see `Sources`.
    """
    names = tuple(sources)
    return f"{splits}{Sources(names, is_rest=True, is_disjoint=is_disjoint)}", f"{splits}{Sources(names)}"
