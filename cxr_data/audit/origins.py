"""How well the pictures tell where they come from: what a network can know of the source without a label."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from cxr_data.audit.findings import SOURCE
from cxr_data.audit.pictures import Pictures
from cxr_data.audit.shortcut_features import UNKNOWN, features_of
from cxr_data.audit.shortcuts import Score, score_targets
from cxr_data.audit.targets import Target
from cxr_data.core.errors import one_line
from cxr_data.core.wording import counted

_MOST_SOURCES = 4


def score_sources(pictures: Pictures, seed: int = 0, *, quiet: bool = False) -> list[Score]:
    """Score every feature but the source, and the pixel probe, against each source and the others.

    Returns:
      As `find_shortcuts`, a source in the place of a class; nothing where there is one source.
    """
    if len(set(pictures.sources)) < 2:
        return []
    names, labels = np.unique(np.array(pictures.sources, object), return_inverse=True)
    groups = np.unique(np.array(pictures.groups, object), return_inverse=True)[1]
    of_label = {number: name or UNKNOWN for number, name in enumerate(names.tolist())}
    target = Target(np.arange(len(labels)), labels, groups, of_label)
    features = [feature for feature in features_of(pictures) if feature.name != SOURCE]
    return score_targets(pictures, [target], features, seed, quiet=quiet)


def counts_of(pictures: Pictures) -> dict[str, int]:
    """Return how many pictures each source has, the largest first; empty where there is one source."""
    counts = Counter(name or UNKNOWN for name in pictures.sources)
    return dict(counts.most_common()) if len(counts) > 1 else {}


def sources_in_words(document: Mapping[str, Any]) -> str:
    """Return which sources the pictures come from, and what tells each best; "" where there is one source.

    Args:
      document: the content of `audit.json`.
    """
    known = document.get("sources")
    if not known:
        return ""
    best: dict[str, Mapping[str, Any]] = {}
    for score in sorted(known["scores"], key=lambda score: -score["auroc"]):
        if score["p"] <= document["alpha"]:
            best.setdefault(score["label"], score)
    told = [
        f"{name} by {score['feature']} {score['auroc']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
        for name, score in best.items()
    ]
    sources = counted(len(known["pictures"]), "source")
    if not told:
        return one_line(f"{sources}; no feature tells one from the others better than chance")
    more = f", and {len(told) - _MOST_SOURCES} more" if len(told) > _MOST_SOURCES else ""
    shown = ", ".join(told[:_MOST_SOURCES])
    return one_line(f"{sources}; the pictures tell them apart (best feature, AUROC): {shown}{more}")
