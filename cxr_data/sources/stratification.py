"""Splits of data with several findings a picture: every finding has its share in every split.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data",
2011): the finding with the fewest images left is distributed first, each of its images to the split that
lacks most of it. Here whole patients are distributed. The tests compare this with iterative-stratification,
which does it image by image in folds of equal size.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping

from cxr_data.core.seeded import seeded_fraction, seeded_hash

_IMAGES = ""
"""In a group's counts: its images, which every group has."""


def stratify_groups(
    images: Mapping[str, int],
    findings: Mapping[str, Counter[str]],
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, str]:
    """Assign whole groups to splits, so that each finding, and the images, have their share in each.

    Args:
      images: {group: its images}.
      findings: {group: {finding: images in which it is present}}.
      fractions: {split: share of the images}, adding up to 1.
      seed: decides between splits that lack as much, and the order of groups of the same size.

    Returns:
      {group: split}.
    """
    counts = {group: Counter({_IMAGES: number}) + findings[group] for group, number in images.items()}
    left: Counter[str] = Counter()
    groups_with: dict[str, set[str]] = defaultdict(set)
    for group, of_group in counts.items():
        left.update(of_group)
        for finding in of_group:
            groups_with[finding].add(group)
    lacking = {
        finding: {split: total * fraction for split, fraction in fractions.items()}
        for finding, total in left.items()
    }
    assigned: dict[str, str] = {}
    while groups_with[_IMAGES]:
        # The images come last: by then, only groups without a finding are left.
        rarest = min((finding for finding in left if left[finding]), key=lambda f: (f == _IMAGES, left[f], f))
        order = sorted(groups_with[rarest], key=lambda g: (-counts[g].total(), seeded_hash(seed, "group", g)))
        for group in order:
            split = _most_lacking(lacking, rarest, seeded_fraction(seed, "split", group))
            assigned[group] = split
            for finding, number in counts[group].items():
                left[finding] -= number
                lacking[finding][split] -= number
                groups_with[finding].discard(group)
    return {group: assigned[group] for group in images}


def _most_lacking(lacking: Mapping[str, Mapping[str, float]], finding: str, draw: float) -> str:
    """Return the split that lacks most of a finding, then of images; `draw` in [0, 1) decides a tie."""
    of_split = {split: (lack, lacking[_IMAGES][split]) for split, lack in lacking[finding].items()}
    most = max(of_split.values())
    equal = [split for split, lack in of_split.items() if lack == most]
    return equal[int(draw * len(equal))]
