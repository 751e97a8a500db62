"""The audit in pictures: pairs that show the same, side by side, and the features of each class."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cxr_data.audit.audit import Audit
from cxr_data.audit.findings import SHORTCUT
from cxr_data.audit.shortcut_features import Feature, features_of
from cxr_data.core import storage
from cxr_data.core.errors import one_line
from cxr_data.core.figures import figure_bytes, plain
from cxr_data.core.page import Picture, embed
from cxr_data.records.layout import HISTOGRAMS_NAME, PAGE_NAME, PAIRS_NAME
from cxr_data.sources.finding_values import PRESENT

CAPTIONS = {
    HISTOGRAMS_NAME: "What distinguishes the classes: the share of each class that has each value.",
    PAIRS_NAME: "Pairs of pictures that show the same.",
}
"""What each picture shows, by its name, in the order of a page."""

_MOST_PAIRS = 12
_MOST_VALUES = 8
_MOST_FINDINGS = 4
_MOST_LETTERS = 40  # of the values below a panel, side by side
_BINS = 30
_PANELS_IN_ROW = 2
_PANEL_INCHES = 3.6
_COLOR = "#0072B2"
_LARGE = 1e5  # from which on a number on an axis is written as 2M


def draw_figures(directory: str, audit: Audit) -> list[str]:
    """Write pictures of the pairs and of the features into a folder, where there is something to show.

    Returns:
      The paths that were written.
    """
    paths = []
    if audit.pairs:
        paths.append(_draw_pairs(storage.join(directory, PAIRS_NAME), audit))
    named = [finding.name for finding in audit.found if finding.kind == SHORTCUT]
    features = [feature for feature in features_of(audit.own) if feature.name in named]
    if features:
        paths.append(_draw_features(storage.join(directory, HISTOGRAMS_NAME), audit, features))
    return paths


def remove_figures(directory: str) -> None:
    """Remove the pictures and the page of an earlier audit, so that nobody takes them for new ones."""
    for name in (*CAPTIONS, PAGE_NAME):
        storage.remove(storage.join(directory, name))


def embedded(paths: Iterable[str]) -> list[tuple[Picture, str]]:
    """Return pictures that `draw_figures` has written, for a page, each with its caption."""
    by_name = {os.path.basename(path): path for path in paths}
    return [
        (embed(storage.read_bytes(by_name[name]), "image/png", caption), caption)
        for name, caption in CAPTIONS.items()
        if name in by_name
    ]


def _draw_pairs(path: str, audit: Audit) -> str:
    from matplotlib.figure import Figure

    # Across splits, classes and datasets first.
    def is_inside(number: int) -> bool:
        pair, own = audit.pairs[number], audit.own
        return not pair.is_across and own.splits[pair.first] == own.splits[pair.second]

    shown = sorted(range(len(audit.pairs)), key=is_inside)[:_MOST_PAIRS]
    figure = Figure(figsize=(7, 2.6 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 2, squeeze=False)
    for row, number in zip(axes, shown, strict=True):
        pair = audit.pairs[number]
        second = audit.other if pair.is_across and audit.other else audit.own
        kind = "exact" if pair.is_exact else f"NCC {pair.ncc:.4f}"
        for axis, pictures, position in zip(row, (audit.own, second), (pair.first, pair.second), strict=True):
            axis.imshow(pictures.image(position), cmap="gray", vmin=0, vmax=255)
            axis.set_title(_plain(f"{pictures.splits[position]}: {pictures.ids[position][-45:]}"), fontsize=7)
            axis.set_axis_off()
        row[1].text(1.02, 0.5, kind, transform=row[1].transAxes, fontsize=7, rotation=90, va="center")
    return _save(figure, path)


def _draw_features(path: str, audit: Audit, features: Sequence[Feature]) -> str:
    """Draw a panel a feature, and in it a strip a class, all of one scale."""
    from matplotlib.figure import Figure

    rows = -(-len(features) // _PANELS_IN_ROW)
    of_feature = [_strips_of(audit, feature) for feature in features]
    height = 0.5 * max(map(len, of_feature)) + 0.7
    figure = Figure(figsize=(_PANEL_INCHES * _PANELS_IN_ROW, height * rows), layout="constrained")
    panels = figure.subfigures(rows, _PANELS_IN_ROW, squeeze=False).ravel()
    for panel, feature, shown in zip(panels, features, of_feature, strict=False):
        strips = panel.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        _draw_strips(strips, feature, shown)
        panel.suptitle(_plain(feature.name), fontsize=10, weight="bold")
    return _save(figure, path)


def _strips_of(audit: Audit, feature: Feature) -> list[tuple[str, np.ndarray]]:
    """Return (name, which pictures, bool [N]): each class, or all pictures and the findings it predicts."""
    own = audit.own
    if own.findings is None:
        classes = [(name, own.labels == k) for k, name in enumerate(own.class_names)]
        return [(name, chosen) for name, chosen in classes if chosen.any()]
    above = [s for s in audit.scores if s.feature == feature.name and s.is_above_chance]
    named = [s.label for s in sorted(above, key=lambda score: -score.auroc)[:_MOST_FINDINGS]]
    present = [(name, own.findings[:, list(own.class_names).index(name)] == PRESENT) for name in named]
    return [("all pictures", np.ones(len(own), bool)), *present]


def _draw_strips(strips: Sequence[Any], feature: Feature, shown: Sequence[tuple[str, np.ndarray]]) -> None:
    """Draw the share of each class or finding that has each value of a feature, a histogram each."""
    from matplotlib.ticker import EngFormatter

    distinct = np.unique(feature.values)
    few = len(distinct) <= _MOST_VALUES
    edges = np.arange(len(distinct) + 1) - 0.5 if few else np.linspace(distinct[0], distinct[-1], _BINS + 1)
    values = np.searchsorted(distinct, feature.values) if few else feature.values
    for strip, (name, chosen) in zip(strips, shown, strict=True):
        of_class = values[chosen]
        strip.hist(of_class, edges, weights=np.full(len(of_class), 1 / len(of_class)), color=_COLOR)
        strip.set_ylabel(_plain(name), fontsize=8, rotation=0, ha="right", va="center")
        strip.set_yticks([])
        strip.spines[["top", "right", "left"]].set_visible(False)
        strip.tick_params(labelsize=8)
    if few:
        names = [_plain(feature.show(value)) for value in distinct]
        tilted = {"rotation": 30, "ha": "right"} if sum(map(len, names)) > _MOST_LETTERS else {}
        strips[-1].set_xticks(range(len(distinct)), names, **tilted)
    elif distinct[-1] >= _LARGE:
        strips[-1].xaxis.set_major_formatter(EngFormatter(sep=""))


def _plain(name: str) -> str:
    """Return a name of the user's as matplotlib shows it: its dollars begin no formula."""
    return plain(one_line(name))


def _save(figure: Any, path: str) -> str:
    storage.make_directory(os.path.dirname(path))
    storage.replace(path, figure_bytes(figure, format="png", dpi=110))
    return path
