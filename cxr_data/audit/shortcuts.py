"""How well properties other than the chest predict the class: each feature, and the frame of the picture.

A feature is cut into cells, and a cell's score is the frequency of the class in it, in the training folds;
the pixel probe is a ridge regression on the outermost pixels of the thumbnails. Both are scored on folds that
share no patient with those they were fitted on. What chance gives is asked of one picture of each patient (in
each class), with the labels moved between them: a feature is named only if it beats the best of all features
and classes under such labels (Westfall and Young's maxT), so that a hundred useless features raise one false
alarm as rarely as a single one does. (If all pictures of patients were moved, and one class had patients of
many pictures, moved labels would make other classes larger, and chance would look smaller than it is.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxr_data.audit.findings import PROBE, SHORTCUT, Finding
from cxr_data.audit.pictures import Pictures
from cxr_data.audit.shortcut_features import Feature, features_of, in_words
from cxr_data.audit.targets import Target, targets_of
from cxr_data.core.progress_bar import progress_bar
from cxr_data.images.measure import THUMBNAIL, lung_block
from cxr_data.sources.splits import place_groups
from cxr_data.stats.auroc import Ranking
from cxr_data.stats.bootstrap import PatientBootstrap, disjoint_pairs, exact_interval, percentiles

ALPHA = 0.01
"""Chance of one false alarm or more, over all features and classes of a dataset."""

FEWEST_PATIENTS = 10
"""In a class; with fewer, nothing could be distinguished from chance."""

PERMUTATIONS = 199
RESAMPLES = 300
FOLDS = 5
_MOST_CELLS = 16
_IMAGES_PER_CELL = 20
_RIDGE = 0.1  # of the number of images
_CHUNK = 50  # labelings at once
_PERFECT = 0.9995  # an AUROC that three decimals show as 1


@dataclass(frozen=True)
class Score:
    """How well one feature alone distinguishes one class from the rest.

    Attributes:
      feature, label: names.
      auroc: area under the ROC curve of the held-out pictures.
      low, high: its 95 % interval, patients resampled.
      p: chance of the best of all features doing as well without any shortcut, on one picture a patient.
    """

    feature: str
    label: str
    auroc: float
    low: float
    high: float
    p: float

    @property
    def is_above_chance(self) -> bool:
        """Whether the score is higher than chance explains."""
        return self.p <= ALPHA


def frame_of(thumbnails: np.ndarray) -> np.ndarray:
    """Return float32 [N, D]: the pixels around the block over the lungs, each scaled to mean 0 and variance
    1.
    """
    mask = np.ones((THUMBNAIL, THUMBNAIL), bool)
    block = lung_block(THUMBNAIL)
    mask[block, block] = False
    pixels = thumbnails[:, mask].astype(np.float32)
    # Each picture's own brightness is out of it: exposure follows the lungs, and is a feature already.
    pixels -= pixels.mean(axis=1, keepdims=True)
    pixels /= np.maximum(pixels.std(axis=1, keepdims=True), 1)
    pixels -= pixels.mean(axis=0)
    pixels /= np.maximum(pixels.std(axis=0), 1e-3)
    if len(pixels) >= pixels.shape[1]:
        return pixels
    # Fewer pictures than pixels: turned into as many columns, which a ridge regression cannot tell apart.
    triangle: np.ndarray = np.linalg.qr(pixels.T, mode="r")  # type: ignore[assignment]
    return np.ascontiguousarray(triangle.T)


def cells_of(values: np.ndarray) -> np.ndarray:
    """Cut a feature into cells: int [N]. Frequent values get their own, the others nearly equal shares."""
    cells = min(_MOST_CELLS, max(2, len(values) // _IMAGES_PER_CELL))
    distinct, counts = np.unique(values, return_counts=True)
    frequent = distinct[counts * 2 * cells >= len(values)]
    rare = values[~np.isin(values, frequent)]
    quantiles = np.quantile(rare, np.arange(1, cells) / cells, method="nearest") if rare.size else rare
    bounds = np.unique(np.concatenate([quantiles, frequent, np.nextafter(frequent, np.inf)]))
    return np.unique(np.searchsorted(bounds, values, side="right"), return_inverse=True)[1]


# -- the test ----------------------------------------------------------------------------------


def find_shortcuts(pictures: Pictures, seed: int = 0, *, quiet: bool = False) -> list[Score]:
    """Score every feature and the pixel probe against every class or finding; `quiet`: no progress on stderr.

    Each finding is tried on the pictures in which it is known.
    """
    return score_targets(pictures, list(targets_of(pictures)), features_of(pictures), seed, quiet=quiet)


def score_targets(
    pictures: Pictures, targets: Sequence[Target], features: Sequence[Feature], seed: int, *, quiet: bool
) -> list[Score]:
    """Score features and the pixel probe against labels; chance is that of the best of all of them.

    Returns:
      A score for each pair, in the order of the features; none of a label of too few patients.
    """
    targets = [target for target in targets if _scored(target)]
    if not targets:
        return []
    labels: list[str] = []
    values: list[np.ndarray] = []  # AUROC, low and high of each label: [features, 3, labels]
    by_chance: list[np.ndarray] = []  # [permutations, features, labels]
    with progress_bar("look for shortcuts", "features", len(targets) * len(features), shown=not quiet) as bar:
        for number, target in enumerate(targets):
            scored = _scored(target)
            measured, chance = _try_features(pictures, features, target, seed + number, bar.update)
            labels += [target.names[label] for label in scored]
            values.append(measured[:, :, scored])
            by_chance.append(chance[:, :, scored])
    p = adjusted_p(np.concatenate(by_chance, axis=2))
    measured = np.concatenate(values, axis=2)
    return [
        Score(name, label, *_rounded(*measured[i, :, column], p[i, column]))
        for i, name in enumerate([*(feature.name for feature in features), PROBE])
        for column, label in enumerate(labels)
    ]


def _try_features(
    pictures: Pictures, features: Sequence[Feature], target: Target, seed: int, tick: Callable[[], object]
) -> tuple[np.ndarray, np.ndarray]:
    """Return AUROC, low and high [features, 3, K], and AUROCs under moved labels [permutations, features, K].

    The pixel probe is the last of the features.
    """
    labels, groups, classes = target.labels, target.groups, int(target.labels.max()) + 1
    folds = folds_of(labels, groups)
    assert folds is not None  # since a label can be scored
    one = one_of_each(labels, groups, seed)
    labelings = permuted(labels[one], PERMUTATIONS, seed)
    weights = resampled(groups, RESAMPLES, seed)
    values: list[np.ndarray] = []
    by_chance: list[np.ndarray] = []
    for feature in features:
        cells = cells_of(feature.values[target.positions])
        values.append(_with_interval(frequency_scores(cells, labels, folds), labels, folds, weights, groups))
        by_chance.append(_in_chunks(frequency_aurocs, cells[one], labelings, folds[one], classes))
        tick()
    frame = frame_of(pictures.rows["thumbnail"][target.positions])
    scores = ridge_scores(frame, labels[None], folds, classes)[:, 0]
    values.append(_with_interval(scores, labels, folds, weights, groups))
    frame = frame[one] - frame[one].mean(axis=0)
    by_chance.append(_in_chunks(ridge_aurocs, frame, labelings, folds[one], classes))
    return np.stack(values), np.stack(by_chance, axis=1)


def too_few(pictures: Pictures) -> list[str]:
    """Return the classes or findings that are not scored: too few patients have them, or have them not."""
    return [
        name
        for target in targets_of(pictures)
        for label, name in target.names.items()
        if label not in _scored(target)
    ]


def _scored(target: Target) -> list[int]:
    """Return the labels that can be scored."""
    can = np.flatnonzero(_can_be_scored(target.labels, target.groups)).tolist()
    return [label for label in can if label in target.names]


def _can_be_scored(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return bool [K]."""

    def patients(chosen: np.ndarray) -> int:
        return len(np.unique(groups[chosen]))

    classes = [labels == k for k in range(int(labels.max()) + 1)]
    return np.array([min(patients(own), patients(~own)) >= FEWEST_PATIENTS for own in classes])


def _rounded(*values: float) -> tuple[float, ...]:
    # Sums in float32 differ in their last digits from one processor to another.
    return tuple(round(float(value), 4) for value in values)


def folds_of(labels: np.ndarray, groups: np.ndarray) -> np.ndarray | None:
    """Return the fold of each image, int [N], no patient in two; None where no class can be scored."""
    if not _can_be_scored(labels, groups).any():
        return None
    fractions = {str(fold): 1 / FOLDS for fold in range(FOLDS)}
    names, classes = [str(group) for group in groups], [str(label) for label in labels]
    fold_of = place_groups(names, classes, fractions, seed=0)
    folds = np.array([int(fold_of[name]) for name in names])
    return np.unique(folds, return_inverse=True)[1]  # a fold may stay empty beside a patient of most images


def one_of_each(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return where one picture of each patient in each of its classes is, drawn: int [P], ascending."""
    shuffled = np.random.default_rng([seed, 2]).permutation(len(groups))
    who = groups[shuffled] * (int(labels.max()) + 1) + labels[shuffled]
    return np.sort(shuffled[np.unique(who, return_index=True)[1]])


def permuted(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the labels, and as they could be without any shortcut: int [1 + count, P]."""
    rng = np.random.default_rng([seed, 0])
    return np.stack([labels, *(rng.permutation(labels) for _ in range(count))])


def resampled(groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return how often each image is drawn when patients are drawn with replacement: float32 [count, N]."""
    bootstrap = PatientBootstrap(groups, resamples=count, seed=[seed, 1])
    return np.concatenate([times.astype(np.float32) for times in bootstrap.times_drawn()])[:, groups]


def adjusted_p(aurocs: np.ndarray) -> np.ndarray:
    """Return the chance of the largest of all statistics being as large, under permuted labels.

    Args:
      aurocs: [R, features, classes], the first row as observed, the others permuted.

    Returns:
      [features, classes].
    """
    deviation = aurocs.std(axis=0)
    z = np.where(deviation > 1e-9, (aurocs - aurocs.mean(axis=0)) / np.maximum(deviation, 1e-9), 0.0)
    largest = z.reshape(len(z), -1).max(axis=1)
    p: np.ndarray = (largest[:, None, None] >= z[0]).mean(axis=0)
    return np.where(deviation > 1e-9, p, 1.0)


def _in_chunks(
    aurocs: Callable[..., np.ndarray],
    inputs: np.ndarray,
    labelings: np.ndarray,
    folds: np.ndarray,
    classes: int,
) -> np.ndarray:
    chunks = [labelings[at : at + _CHUNK] for at in range(0, len(labelings), _CHUNK)]
    return np.concatenate([aurocs(inputs, chunk, folds, classes) for chunk in chunks])


# -- class frequencies in cells ----------------------------------------------------------------


def _tables(cells: np.ndarray, labelings: np.ndarray, folds: np.ndarray, classes: int) -> np.ndarray:
    """Return the images of each labeling, fold, cell and class: float64 [R, F, C, K]."""
    shape = (len(labelings), int(folds.max()) + 1, int(cells.max()) + 1, classes)
    flat = np.ravel_multi_index((np.arange(shape[0])[:, None], folds, cells, labelings), shape)
    return np.bincount(flat.reshape(-1), minlength=int(np.prod(shape))).reshape(shape).astype(np.float64)


def _frequencies(tables: np.ndarray) -> np.ndarray:
    """Return each class's frequency in each cell, of all folds but one: [R, F, C, K].

    One image's worth of the class's overall frequency is added to each cell (m-estimate), so that a cell
    that is empty there says nothing.
    """
    training = tables.sum(axis=1, keepdims=True) - tables
    overall = training.sum(axis=2, keepdims=True)
    overall /= np.maximum(overall.sum(axis=3, keepdims=True), 1)
    return (training + overall) / (training.sum(axis=3, keepdims=True) + 1)


def frequency_aurocs(cells: np.ndarray, labelings: np.ndarray, folds: np.ndarray, classes: int) -> np.ndarray:
    """Return the AUROC of each class by the frequencies in cells, for each labeling: [R, K]."""
    tables = _tables(cells, labelings, folds, classes)
    scores = _frequencies(tables)
    negatives = tables.sum(axis=3, keepdims=True) - tables
    concordant = np.zeros((len(labelings), classes))
    for cell in range(tables.shape[2]):
        # Every picture of this cell against every picture of every cell of its fold.
        above = (scores[:, :, cell, None] > scores) + 0.5 * (scores[:, :, cell, None] == scores)
        concordant += (tables[:, :, cell] * (above * negatives).sum(axis=2)).sum(axis=1)
    pairs = (tables.sum(axis=2) * negatives.sum(axis=2)).sum(axis=1)
    return np.where(pairs > 0, concordant / np.maximum(pairs, 1), 0.5)


def frequency_scores(cells: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the held-out score of each image for each class, by the observed labels: [N, K]."""
    scores: np.ndarray = _frequencies(_tables(cells, labels[None], folds, int(labels.max()) + 1))[0]
    return scores[folds, cells]


# -- ridge regression on pixels ----------------------------------------------------------------


def ridge_scores(pixels: np.ndarray, labelings: np.ndarray, folds: np.ndarray, classes: int) -> np.ndarray:
    """Return the held-out scores of a ridge regression to class indicators: float32 [N, R, K].

    Args:
      pixels: float32 [N, D], columns of mean 0.
      labelings: int [R, N].
      folds: int [N].
      classes: K; not every one needs to occur.
    """
    targets = (labelings.T[..., None] == np.arange(classes)).astype(np.float32)
    targets = (targets - targets.mean(axis=0)).reshape(len(pixels), -1)
    gram, product = pixels.T @ pixels, pixels.T @ targets
    scores = np.empty_like(targets)
    for fold in range(int(folds.max()) + 1):
        held_out = folds == fold
        x, y = pixels[held_out], targets[held_out]
        penalty = _RIDGE * (len(pixels) - len(x)) * np.eye(pixels.shape[1], dtype=np.float32)
        scores[held_out] = x @ np.linalg.solve(gram - x.T @ x + penalty, product - x.T @ y)
    return scores.reshape(len(pixels), len(labelings), classes)


def ridge_aurocs(pixels: np.ndarray, labelings: np.ndarray, folds: np.ndarray, classes: int) -> np.ndarray:
    """Return the AUROC of each class by the ridge regression, for each labeling: [R, K]."""
    scores = ridge_scores(pixels, labelings, folds, classes)
    concordant = np.zeros((len(labelings), classes))
    pairs = np.zeros_like(concordant)
    for fold in range(int(folds.max()) + 1):
        held_out = folds == fold
        positive = (labelings.T[held_out, :, None] == np.arange(classes)).astype(np.float32)
        ordered = np.take_along_axis(positive, np.argsort(scores[held_out], axis=0), axis=0)
        count = ordered.sum(axis=0, dtype=np.float64)
        ranks = np.arange(1, len(ordered) + 1, dtype=np.float64)
        concordant += np.einsum("n,nrk->rk", ranks, ordered) - count * (count + 1) / 2
        pairs += count * (len(ordered) - count)
    return np.where(pairs > 0, concordant / np.maximum(pairs, 1), 0.5)


# -- intervals ---------------------------------------------------------------------------------


def _with_interval(
    scores: np.ndarray, labels: np.ndarray, folds: np.ndarray, weights: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """Return the AUROC of each class, and the low and high end of its 95 % interval: [3, K].

    The interval of an AUROC of 0 or 1, which all resamples have, is the exact one over pairs of patients.
    """
    weights = np.concatenate([np.ones_like(weights[:1]), weights])
    parts = [np.flatnonzero(folds == fold) for fold in range(int(folds.max()) + 1)]
    ends = []
    for k in range(scores.shape[1]):
        concordant, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for held_out in parts:
            ranking = Ranking.of(labels[held_out] == k, scores[held_out, k])
            more = ranking.pairs(weights[:, held_out[ranking.images]])
            concordant += more[0]
            pairs += more[1]
        auroc = np.where(pairs > 0, concordant / np.maximum(pairs, 1), 0.5)
        reach = percentiles(auroc[1:])
        if auroc[0] in (0, 1):
            trials = sum(disjoint_pairs(groups[part], labels[part] == k) for part in parts)
            reach = exact_interval(auroc[0], trials) if trials else reach
        ends.append([auroc[0], *reach])
    return np.array(ends).T


# -- findings ----------------------------------------------------------------------------------


def shortcut_findings(pictures: Pictures, scores: Sequence[Score]) -> list[Finding]:
    """Return one finding for each feature that predicts a class better than chance explains."""
    features = {feature.name: feature for feature in features_of(pictures)}
    by_feature: dict[str, list[Score]] = {}
    for score in scores:
        if score.is_above_chance:
            by_feature.setdefault(score.feature, []).append(score)
    return [_finding(pictures, features.get(name), above) for name, above in by_feature.items()]


def _finding(pictures: Pictures, feature: Feature | None, above: list[Score]) -> Finding:
    above = sorted(above, key=lambda score: -score.auroc)
    name = above[0].feature
    best = f"{above[0].label} {above[0].auroc:.3f} [{above[0].low:.3f}, {above[0].high:.3f}]"
    areas = ", ".join([best, *(f"{score.label} {score.auroc:.3f}" for score in above[1:])])
    perfect = [score.label for score in above if score.auroc >= _PERFECT]
    nearly = "nearly " if any(score.auroc < 1 for score in above if score.label in perfect) else ""
    s = "" if name.endswith(("rows", "columns")) else "s"
    what_label = "the class" if pictures.findings is None else "findings"
    how = f"separate{s} {' and '.join(perfect)} {nearly}perfectly" if perfect else f"predict{s} {what_label}"
    if feature is None:
        what = "the frame of the picture alone, without the block over the lungs,"
        details = ""
    else:
        what = f"{name} alone{' (of the file)' if feature.of_file else ''}"
        details = f"; {_details(pictures, feature, above[0].label)}"
    text = f"{what} {how}: AUROC {areas}{details}"
    return Finding(SHORTCUT, name, above[0].auroc, text)


def _details(pictures: Pictures, feature: Feature, label: str) -> str:
    """Return what the pictures of each class have, or those with and without the finding `label`."""
    if pictures.findings is None:
        return in_words(feature, pictures.labels, pictures.class_names)
    target = next(target for target in targets_of(pictures) if label in target.names.values())
    known = replace(feature, values=feature.values[target.positions])
    return in_words(known, target.labels, target.all_names)
