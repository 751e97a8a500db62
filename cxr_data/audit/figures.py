"""The audit in pictures: pairs that show the same, side by side, and the features of each class."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cxr_data.audit.audit import Audit
from cxr_data.audit.findings import SHORTCUT
from cxr_data.audit.shortcut_features import Feature, features_of
from cxr_data.core import storage
from cxr_data.core.errors import one_line
from cxr_data.core.figures import figure_bytes, plain
from cxr_data.records.layout import HISTOGRAMS_NAME, PAIRS_NAME

_MOST_PAIRS = 12
_MOST_VALUES = 8
_BINS = 30


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
    """Remove the pictures of an earlier audit, which would be taken for those of the next."""
    for name in (PAIRS_NAME, HISTOGRAMS_NAME):
        storage.remove(storage.join(directory, name))


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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.4 * len(features)), layout="constrained")
    axes = figure.subplots(len(features), 1, squeeze=False)[:, 0]
    classes = [(k, name) for k, name in enumerate(audit.own.class_names) if np.any(audit.own.labels == k)]
    for axis, feature in zip(axes, features, strict=True):
        distinct = np.unique(feature.values)
        few = len(distinct) <= _MOST_VALUES
        edges = (
            np.arange(len(distinct) + 1) - 0.5 if few else np.linspace(distinct[0], distinct[-1], _BINS + 1)
        )
        values = np.searchsorted(distinct, feature.values) if few else feature.values
        for k, name in classes:
            of_class = values[audit.own.labels == k]
            axis.hist(
                of_class,
                edges,
                weights=np.full(len(of_class), 1 / len(of_class)),
                alpha=0.5,
                label=_plain(name),
            )
        if few:
            axis.set_xticks(range(len(distinct)), [feature.show(value) for value in distinct], fontsize=7)
        axis.set_title(feature.name, fontsize=9)
        axis.set_ylabel("share of class", fontsize=7)
    axes[0].legend(fontsize=7)
    return _save(figure, path)


def _plain(name: str) -> str:
    """Return a name of the user's as matplotlib shows it: its dollars begin no formula."""
    return plain(one_line(name))


def _save(figure: Any, path: str) -> str:
    storage.make_directory(os.path.dirname(path))
    storage.replace(path, figure_bytes(figure, format="png", dpi=110))
    return path
