"""Pictures that show the same: found among the thumbnails without comparing all pairs, and none missed.

On thumbnails of mean 0 and norm 1, |a - b|^2 = 2 - 2 NCC(a, b), and a projection on orthonormal axes
makes no distance longer. So all pairs that correlate above a threshold lie within one radius
in the few dimensions in which the pictures differ most. There they are cut into leaves of a k-d tree; two
leaves whose boxes lie apart hold no pair, and the others are compared by one matrix product. The shortlist is
complete by construction. The decision is the correlation itself, the second picture being allowed to
lie a fraction of a thumbnail's pixel beside the first: a shift of two pixels of a small file is that much.

Collections also cut pictures to squares: a square file is compared with the central squares of longer files,
in the same tree.

A 64-bit difference hash alone flags hundreds of pairs of frontal X-rays, which all look alike to it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

SAME_NCC = 0.99
"""Pictures that correlate above it, on 32x32 pixels, show the same."""

SAME_CENTRE_NCC = 0.98
"""So does a picture that correlates above it with the centre of another, which has fewer of the 32 pixels."""

_SQUARE = 0.01  # share of its longer side by which the other may be shorter

# A shifted copy of a small file correlates this much at least before it is aligned.
_SHORTLIST_NCC = 0.97
_RADIUS = (2 - 2 * _SHORTLIST_NCC) ** 0.5 + 1e-4  # of float32 sums
_DIMENSIONS = 48
_LEAF_POINTS = 256  # fewer make smaller boxes, and products too small for BLAS
_COLUMNS = 4096  # of a product, which then stays in the cache
_FITTED_ON = 4096  # thumbnails that decide the axes
_ITERATIONS = 4
_BATCH = 2048
_MOST_SHIFT = 0.5  # thumbnail pixels by which a picture is moved onto the other


class Pairs(NamedTuple):
    """Pairs of positions first < second, ascending.

    Attributes:
      first, second: int64 [P].
      ncc: float32 [P], of the aligned thumbnails.
    """

    first: np.ndarray
    second: np.ndarray
    ncc: np.ndarray


def find_pairs(thumbnails: np.ndarray) -> Pairs:
    """Return all pairs that show the same.

    Args:
      thumbnails: uint8 [N, S, S].
    """
    if not len(thumbnails):
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    unique, member = np.unique(thumbnails.reshape(len(thumbnails), -1), axis=0, return_inverse=True)
    images = unique.reshape(-1, *thumbnails.shape[1:])
    first, second = _shortlist(normalised(images))
    values = _aligned(images, first, second)
    same = values > SAME_NCC
    return _expand(Pairs(first[same], second[same], values[same]), member)


def find_centres(thumbnails: np.ndarray, sizes: np.ndarray) -> Pairs:
    """Return the pairs of a square file and a longer one whose central square it shows.

    The first of equal thumbnails stands for all of them, which are pairs of `find_pairs`.

    Args:
      thumbnails: uint8 [N, S, S], of whole files, each stretched to a square.
      sizes: int [N, 2], widths and heights of the files in pixels; 0 where they are not known.
    """
    sides = sizes.astype(np.int64)
    differ = np.ptp(sides, axis=1)
    squares = _distinct(thumbnails, sides, (sides[:, 0] > 0) & (differ <= _SQUARE * sides.max(axis=1)))
    longer = _distinct(thumbnails, sides, (sides.min(axis=1) > 0) & (differ > 0))
    if not len(squares) or not len(longer):
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    images = np.concatenate(
        [thumbnails[squares].astype(np.float32), [_centre(thumbnails[at], *sides[at]) for at in longer]]
    )
    first, second = _shortlist(normalised(images))
    is_both = (first < len(squares)) & (second >= len(squares))
    first, second = first[is_both], second[is_both]
    one, other = squares[first], longer[second - len(squares)]
    values = _aligned(images, first, second)
    kept = np.flatnonzero((values > SAME_CENTRE_NCC) & (one != other))
    order = kept[np.lexsort((np.maximum(one, other)[kept], np.minimum(one, other)[kept]))]
    return Pairs(np.minimum(one, other)[order], np.maximum(one, other)[order], values[order])


def _distinct(thumbnails: np.ndarray, sides: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the first position of each thumbnail and shape among those `chosen`: int64, ascending."""
    positions = np.flatnonzero(chosen)
    if not len(positions):
        return positions
    flat = thumbnails[positions].reshape(len(positions), -1)
    rows = np.column_stack([flat, np.rint(256 * sides[positions] / sides[positions].max(axis=1)[:, None])])
    return positions[np.sort(np.unique(rows.astype(np.int16), axis=0, return_index=True)[1])]


def _centre(thumbnail: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the central square of a file from its thumbnail: float32 [S, S], between pixels linear."""
    size, short = len(thumbnail), min(width, height)
    steps = np.arange(size, dtype=np.float32) + 0.5 - size / 2
    x, y = (steps * short / side + size / 2 - 0.5 for side in (width, height))
    x, y = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    return cv2.remap(thumbnail.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def normalised(thumbnails: np.ndarray) -> np.ndarray:
    """Return float32 [N, S * S] of mean 0 and norm 1; 0 where all pixels are the same."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return flat


def _shortlist(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs first < second above `_SHORTLIST_NCC`, and some below."""
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for rows, columns in pairs_within(_RADIUS, vectors @ _axes(vectors)):
        for at in range(0, len(rows), _BATCH):
            a, b = rows[at : at + _BATCH], columns[at : at + _BATCH]
            close = np.einsum("ij,ij->i", vectors[a], vectors[b]) > _SHORTLIST_NCC
            first.append(np.minimum(a, b)[close])
            second.append(np.maximum(a, b)[close])
    return np.concatenate(first), np.concatenate(second)


def pairs_within(
    radius: float, points: np.ndarray, leaf_points: int = _LEAF_POINTS, product_columns: int = _COLUMNS
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs of points within `radius` of each other, once each, as arrays of positions.

    Args:
      radius: Euclidean.
      points: float32 [N, D].
      leaf_points, product_columns: decide the speed, not the pairs.
    """
    leaves = list(_leaves(points, np.arange(len(points)), leaf_points))
    low = np.array([points[leaf].min(axis=0) for leaf in leaves])
    high = np.array([points[leaf].max(axis=0) for leaf in leaves])
    squares = np.einsum("ij,ij->i", points, points)
    # Of these rows and columns the product is minus the squared distance.
    ones = np.ones_like(squares)
    left = np.column_stack([2 * points, -squares, ones])
    right = np.column_stack([points, ones, -squares])
    for number, leaf in enumerate(leaves):
        gap = np.maximum(np.maximum(low[number:] - high[number], low[number] - high[number:]), 0)
        reached = number + np.flatnonzero(np.einsum("ij,ij->i", gap, gap) <= radius**2)
        others = np.concatenate([leaves[other] for other in reached])
        for at in range(0, len(others), product_columns):
            some = others[at : at + product_columns]
            rows, columns = np.nonzero(left[leaf] @ right[some].T >= -(radius**2))
            # The first of the others are the leaf itself: one of the two orders, and no point with itself.
            once = columns + at > rows
            yield leaf[rows[once]], some[columns[once]]


def _leaves(points: np.ndarray, members: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Cut points at the median of the widest dimension, again and again, into arrays of positions."""
    if len(members) <= size:
        if len(members):
            yield members
        return
    inside = points[members]
    widest = int((inside.max(axis=0) - inside.min(axis=0)).argmax())
    order = members[np.argpartition(inside[:, widest], len(members) // 2)]
    yield from _leaves(points, order[: len(members) // 2], size)
    yield from _leaves(points, order[len(members) // 2 :], size)


def _axes(vectors: np.ndarray) -> np.ndarray:
    """Return the orthonormal axes, [S * S, D], along which the pictures vary most, nearly.

    By subspace iteration (Halko et al., 2011), a tenth of the time of all eigenvectors. Any axes give a
    complete shortlist; these make it short.
    """
    sample = vectors[:: -(-len(vectors) // _FITTED_ON)]
    centred = sample - sample.mean(axis=0)
    axes: np.ndarray = np.random.default_rng(0).standard_normal((vectors.shape[1], _DIMENSIONS), np.float32)
    for _ in range(_ITERATIONS):
        axes = np.linalg.qr(centred.T @ (centred @ axes))[0]
    return axes


def _aligned(images: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return `aligned_ncc` of pairs of positions, so many at once as fit into the cache."""
    ncc = [
        aligned_ncc(images[first[at : at + _BATCH]], images[second[at : at + _BATCH]])
        for at in range(0, len(first), _BATCH)
    ]
    return np.concatenate([np.empty(0, np.float32), *ncc])


def aligned_ncc(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlation of pairs, the second of each moved by up to half a pixel where that makes it
    larger.

    The move is the least-squares solution of first = a + b second + c d(second)/dx + d d(second)/dy: for
    shifts below a pixel, the Taylor series of the moved picture.

    Args:
      first, second: uint8 or float32 [P, S, S].

    Returns:
      float32 [P].
    """
    a, b = (normalised(x).reshape(x.shape) for x in (first, second))
    plain = np.einsum("pij,pij->p", a, b)
    dy, dx = np.gradient(b, axis=(1, 2))
    basis = np.stack([b, dx, dy], axis=1).reshape(len(b), 3, -1)
    basis -= basis.mean(axis=2, keepdims=True)
    gram = basis @ basis.transpose(0, 2, 1) + 1e-9 * np.eye(3, dtype=np.float32)
    weights = np.linalg.solve(gram, basis @ a.reshape(len(a), -1, 1))
    shift = weights[:, 1:] / np.maximum(weights[:, :1], 1e-6)
    shift = np.clip(shift, -_MOST_SHIFT, _MOST_SHIFT)
    moved = basis[:, 0] + np.einsum("pkn,pk->pn", basis[:, 1:], shift[..., 0])
    moved /= np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-6)
    return np.maximum(plain, np.einsum("pn,pn->p", moved, a.reshape(len(a), -1)))


def _expand(pairs: Pairs, member: np.ndarray) -> Pairs:
    """Turn pairs of distinct thumbnails into pairs of pictures: copies of a thumbnail are pairs too."""
    order = np.argsort(member, kind="stable")
    copies = np.split(order, np.flatnonzero(np.diff(member[order])) + 1)
    out: list[tuple[int, int, float]] = []
    for same in copies:
        out += [(int(same[0]), int(other), 1.0) for other in same[1:]]
    for first, second, ncc in zip(*pairs, strict=True):
        for i in copies[first]:
            for j in copies[second]:
                out.append((min(i, j), max(i, j), ncc))
    out.sort()
    columns = np.array(out, np.float64).reshape(-1, 3)
    return Pairs(
        columns[:, 0].astype(np.int64), columns[:, 1].astype(np.int64), columns[:, 2].astype(np.float32)
    )
