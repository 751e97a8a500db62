"""A training epoch in which each source has a share of its own: `--mix=nih:2,guangzhou:1`.

An epoch has as many steps as without a mix. Of its examples a source gives its share, whatever its size: it
is a row of permutations of its images, one after the other, and each epoch takes the next piece of it. A
source that is larger than its share is seen in several epochs; a smaller one is seen several times in one. An
epoch is a function of the seed and its number, so that a run that goes on after a stop needs no state.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from cxr_data.core.errors import UsageError

LEAST_IN_BATCH = 8
"""Examples of each source in a balanced batch: statistics of fewer say little of a source."""


def parse_mix(text: str) -> dict[str, float]:
    """Parse `NAME:WEIGHT,...`; an empty text is no mix.

    Raises:
      UsageError: it is none, a source is there twice, or a weight is not above 0.
    """
    weights: dict[str, float] = {}
    for part in text.split(",") if text else ():
        name, colon, number = part.rpartition(":")
        try:
            weight = float(number)
        except ValueError:
            weight = -1.0
        if not colon or not 0 < weight < np.inf:
            raise UsageError(f"--mix={text}: must be like nih:2,guangzhou:1, with weights above 0")
        if name in weights:
            raise UsageError(f"--mix={text}: {name} is there twice")
        weights[name] = weight
    return weights


@dataclasses.dataclass(frozen=True, eq=False)
class Mix:
    """The images of each source, and its share.

    Attributes:
      positions: int64 [n], ascending, of each source.
      shares: of each source, adding up to 1.
      balanced: whether every batch has these shares, and not only the epoch.
      numbers: of each source in `Manifest.sources`.
    """

    positions: tuple[np.ndarray, ...]
    shares: tuple[float, ...]
    balanced: bool = False
    numbers: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        weights: Mapping[str, float],
        names: Sequence[str],
        positions: np.ndarray,
        sources: np.ndarray,
        *,
        balanced: bool,
    ) -> "Mix":
        """Return the mix of some images.

        Args:
          weights: of each source; an empty mapping gives each the same.
          names: of the sources, by number.
          positions: int64 [N], ascending, of the images.
          sources: int [N], the number of the source of each.
          balanced: see the attribute.

        Raises:
          UsageError: a source is not there, or one that is there has no weight.
        """
        there = [name for number, name in enumerate(names) if (sources == number).any()]
        listed = ", ".join(name or "(unknown)" for name in there)
        flag = "--mix=" + ",".join(f"{name}:{weight:g}" for name, weight in weights.items())
        for name in weights:
            if name not in there:
                raise UsageError(f"{flag}: no training image is of the source {name!r}, only of {listed}")
        left_out = [name for name in there if weights and name not in weights]
        if left_out:
            raise UsageError(
                f"{flag}: gives no weight to {', '.join(map(repr, left_out))}; add it, such as "
                f"{left_out[0]}:1"
            )
        total = sum(weights.values()) or len(there)
        return cls(
            tuple(positions[sources == names.index(name)] for name in there),
            tuple(weights.get(name, 1.0) / total for name in there),
            balanced,
            tuple(names.index(name) for name in there),
        )

    def check_batch(self, batch_size: int) -> None:
        """Raise UsageError unless a balanced batch has whole numbers, and enough, of each source."""
        if not self.balanced:
            return
        of_batch = [share * batch_size for share in self.shares]
        if any(abs(number - round(number)) > 1e-9 or round(number) < LEAST_IN_BATCH for number in of_batch):
            found = ", ".join(f"{number:g}" for number in of_batch)
            raise UsageError(
                f"--balance_batches: a batch of {batch_size} has {found} of the {len(self.shares)} sources, "
                f"and must have whole numbers of at least {LEAST_IN_BATCH}; change --batch_size or --mix"
            )

    def epoch(self, steps: int, batch_size: int, *, seed: int, epoch: int) -> np.ndarray:
        """Return the positions of the global batches of an epoch, int64 [steps, batch_size].

        Args:
          steps: batches in every epoch.
          batch_size: global.
          seed, epoch: name the order.
        """
        random = np.random.default_rng([seed, epoch])
        if self.balanced:
            counts = [round(share * batch_size) for share in self.shares]
            pieces = [
                self._piece(source, steps * count, seed=seed, epoch=epoch).reshape(steps, count)
                for source, count in enumerate(counts)
            ]
            # Within a batch in any order, so that each replica has some of each.
            return random.permuted(np.concatenate(pieces, axis=1), axis=1)
        counts = _whole_shares(steps * batch_size, self.shares)
        pieces = [self._piece(source, count, seed=seed, epoch=epoch) for source, count in enumerate(counts)]
        return random.permutation(np.concatenate(pieces)).reshape(steps, batch_size)

    def _piece(self, source: int, count: int, *, seed: int, epoch: int) -> np.ndarray:
        """Return the part of a source's row of permutations that an epoch of `count` examples takes."""
        positions = self.positions[source]
        first, last = epoch * count, (epoch + 1) * count
        turns = range(first // len(positions), -(-last // len(positions)))
        orders = [np.random.default_rng([seed, source, turn, 1]).permutation(positions) for turn in turns]
        start = first - turns.start * len(positions)
        return np.concatenate([*orders, positions[:0]])[start : start + count]


def _whole_shares(total: int, shares: Sequence[float]) -> list[int]:
    """Return whole numbers that add up to `total`, by the largest remainder."""
    exact = np.array(shares) * total
    counts = np.floor(exact + 1e-9).astype(int)
    for number in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[number] += 1
    return counts.tolist()
