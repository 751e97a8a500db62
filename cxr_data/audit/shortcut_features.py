"""The features that may predict the class without the chest: one number a picture, and words for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cxr_data.audit.findings import SOURCE
from cxr_data.audit.pictures import Pictures
from cxr_data.images.assumed import assumed_words
from cxr_data.images.measure import CORNERS, modes_of

UNKNOWN = "unknown source"
"""Name of an empty source."""

_FREQUENT = 5  # a value that every fifth picture has is worth naming
_HIGH = 90  # percentile: where the median is the same in all classes, the upper tenth may differ


@dataclass(frozen=True)
class Feature:
    """One number a picture.

    Attributes:
      name: as in `audit.json`.
      values: float64 [N]; categories are numbered.
      show: a value in words.
      of_file: whether it is of the file, and so in no record.
    """

    name: str
    values: np.ndarray
    show: Callable[[float], str]
    of_file: bool = False


def features_of(pictures: Pictures) -> list[Feature]:
    """Return the features of a dataset; those of the files only where they are known."""
    rows = pictures.rows
    thumbnails = rows["thumbnail"].reshape(len(rows), -1).astype(np.float64) / 255
    found: list[Feature] = []
    if len(set(pictures.sources)) > 1:
        found.append(_source(pictures.sources))
    if pictures.has_files:
        modes, letters = modes_of(rows)
        sizes = np.stack([rows["width"], rows["height"]], axis=1)
        found += [
            _size(sizes),
            Feature("aspect", sizes[:, 0] / np.maximum(sizes[:, 1], 1), "aspect {:.3f}".format, True),
            _category("format", rows["format"]),
            _category("mode", modes),
            Feature("bit depth", rows["bits"].astype(np.float64), "{:.0f} bits".format, True),
            Feature("JPEG quality", rows["quality"].astype(np.float64), _quality, True),
        ]
        if np.any(letters != b""):
            found.append(_category("assumptions", letters, assumed_words))
    found += [
        Feature("border rows", rows["border_rows"].astype(np.float64), _flat("rows")),
        Feature("border columns", rows["border_columns"].astype(np.float64), _flat("columns")),
        Feature("mean", thumbnails.mean(axis=1), "{:.3f}".format),
        Feature("contrast", thumbnails.std(axis=1), "{:.3f}".format),
        Feature("sharpness", rows["sharpness"].astype(np.float64), "{:.3f}".format),
    ]
    for number, corner in enumerate(CORNERS):
        found.append(Feature(f"text {corner}", rows["corners"][:, number].astype(np.float64), _text))
    return found


def _source(sources: Sequence[str]) -> Feature:
    names, numbers = np.unique(np.array(sources, object), return_inverse=True)
    return Feature(SOURCE, numbers.astype(np.float64), lambda value: names[int(value)] or UNKNOWN)


def _size(sizes: np.ndarray) -> Feature:
    area = sizes.astype(np.float64).prod(axis=1)
    names: dict[float, set[str]] = {}
    for value, (width, height) in zip(area.tolist(), sizes.tolist(), strict=True):
        names.setdefault(value, set()).add(f"{width}x{height}")

    def show(value: float) -> str:
        alike = names.get(value, ())
        return next(iter(alike)) if len(alike) == 1 else f"{value:.0f} pixels"

    return Feature("size", area, show, True)


def _category(name: str, values: np.ndarray, words: Callable[[str], str] = str) -> Feature:
    names, numbers = np.unique(values, return_inverse=True)
    return Feature(name, numbers.astype(np.float64), lambda value: words(names[int(value)].decode()), True)


def _quality(value: float) -> str:
    return f"quality {value:.0f}" if value else "no JPEG"


def _flat(lines: str) -> Callable[[float], str]:
    def show(value: float) -> str:
        return f"{_share(value)} of the {lines} flat" if value else f"no flat {lines}"

    return show


def _text(value: float) -> str:
    return f"strong edges in {_share(value)} of the corner" if value else "no strong edges in the corner"


def _share(value: float) -> str:
    return f"{value:.1%}" if value >= 0.0005 else "under 0.1%"


def in_words(feature: Feature, labels: np.ndarray, class_names: Sequence[str]) -> str:
    """Return what each class has: how often the frequent value that differs most, else the median, or what
    a tenth of the pictures exceed.
    """
    distinct, counts = np.unique(feature.values, return_counts=True)
    of_class = [(name, feature.values[labels == k]) for k, name in enumerate(class_names)]
    present = [(name, values) for name, values in of_class if len(values)]
    frequent = distinct[counts * _FREQUENT >= len(feature.values)]
    shares = np.array([[np.mean(values == value) for _, values in present] for value in frequent])
    if frequent.size and (np.ptp(shares, axis=1).any() or len(distinct) == len(frequent)):
        telling = frequent[np.ptp(shares, axis=1).argmax()]
        often = [f"{name} {np.sum(values == telling):,} of {len(values):,}" for name, values in present]
        return f"{feature.show(telling)}: {', '.join(often)}"
    medians = [feature.show(float(np.median(values))) for _, values in present]
    if len(set(medians)) > 1 or len(present) == 1:
        what, shown = "median", medians
    else:
        shown = [feature.show(float(np.percentile(values, _HIGH, method="nearest"))) for _, values in present]
        what = f"percentile {_HIGH}"
    return f"{what}: {', '.join(f'{name} {value}' for (name, _), value in zip(present, shown, strict=True))}"
