"""Superpixels of a map: SLIC, whose compactness adapts to each superpixel (SLICO)."""

import numpy as np
from jaxtyping import Float, Int

START = 0.2  # difference of values that weighs as much as one spacing of the seeds, at first
LEAST = 0.01  # and at least
Labels = Int[np.ndarray, "h w"]


def superpixels(values: Float[np.ndarray, "h w"], count: int, rounds: int = 10) -> Labels:
    """About `count` superpixels of a map in [0, 1], each connected by sides, numbered from 0.

    After Achanta et al. (SLIC, PAMI 2012): k-means of value and place, from seeds on a lattice. A
    pixel belongs to one of the 3 x 3 seeds of cells around it; a difference of values counts
    relative to the largest one in the superpixel of the round before. The rest of a superpixel
    in pieces falls to its neighbours.
    """
    h, w = values.shape
    spacing = np.sqrt(h * w / count)
    shape = max(round(h / spacing), 1), max(round(w / spacing), 1)
    # One map per feature: the value, and the row and the column in spacings.
    values = values.astype(np.float32)
    rows, cols = (np.arange(n, dtype=np.float32) / np.float32(spacing) for n in (h, w))
    features = (values, *np.broadcast_arrays(rows[:, None], cols))
    cells = [np.arange(n) * k // n for n, k in zip((h, w), shape, strict=True)]
    labels = cells[0][:, None] * shape[1] + cells[1]
    means = np.zeros((3, shape[0] * shape[1]), np.float32)
    spread = np.full(means.shape[1], START, np.float32)
    for _ in range(rounds):
        means = _means(labels, features, means)
        labels = _nearest(features, means, spread, cells, shape)
        spread = _spread(labels, values, means[0])
    return _connected(labels)


def _means(labels: Labels, features, before: Float[np.ndarray, "3 K"]):
    """The mean features of each superpixel; one that lost all pixels stays where it was."""
    flat, size = labels.ravel(), before.shape[1]
    count = np.bincount(flat, minlength=size)
    sums = np.stack([np.bincount(flat, x.ravel(), size) for x in features])
    return np.where(count, sums / np.maximum(count, 1), before).astype(np.float32)


def _spread(labels: Labels, values, means) -> Float[np.ndarray, "K"]:
    """The largest difference of values from the mean in each superpixel."""
    found = np.full(means.shape, LEAST, np.float32)
    np.maximum.at(found, labels.ravel(), np.abs(values - means[labels]).ravel())
    return found


def _nearest(features, means, spread, cells, shape) -> Labels:
    """The nearest of the superpixels whose seeds are in the 3 x 3 cells around each pixel."""
    best = np.full(features[0].shape, np.inf, np.float32)
    labels = np.zeros(best.shape, np.int64)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            moved = [
                np.clip(c + d, 0, n - 1) for c, d, n in zip(cells, (dy, dx), shape, strict=True)
            ]
            which = moved[0][:, None] * shape[1] + moved[1]
            value, row, col = (x - m[which] for x, m in zip(features, means, strict=True))
            value /= spread[which]
            distance = value * value + row * row + col * col
            nearer = distance < best
            best[nearer], labels[nearer] = distance[nearer], which[nearer]
    return labels


def _connected(labels: Labels) -> Labels:
    """Each superpixel reduced to its largest piece, which others grow into; numbered anew."""
    pieces = _pieces(labels)
    roots, sizes = np.unique(pieces, return_counts=True)
    owner = labels.ravel()[roots]
    order = np.lexsort((roots, -sizes, owner))  # the largest piece of each owner first
    largest = roots[order[np.unique(owner[order], return_index=True)[1]]]
    labels = np.where(np.isin(pieces, largest), labels, -1)
    while (labels < 0).any():
        padded = np.pad(labels, 1, constant_values=-1)
        for side in (padded[:-2, 1:-1], padded[1:-1, :-2], padded[2:, 1:-1], padded[1:-1, 2:]):
            labels = np.where(labels < 0, side, labels)
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


def _pieces(labels: Labels) -> Labels:
    """The first pixel of each pixel's piece: pixels of one label that hang together by sides."""
    first = np.arange(labels.size).reshape(labels.shape)
    sides = [((slice(1, None),), (slice(-1),)), ((..., slice(1, None)), (..., slice(-1)))]
    same = [labels[a] == labels[b] for a, b in sides]
    while True:
        before = first.copy()
        for (a, b), alike in zip(sides, same, strict=True):
            np.minimum(first[a], first[b].copy(), out=first[a], where=alike)
            np.minimum(first[b], first[a].copy(), out=first[b], where=alike)
        first = first.ravel()[first]  # a pixel's first may itself know an earlier one
        if np.array_equal(first, before):
            return first


def centres(labels: Labels) -> Int[np.ndarray, "N 2"]:
    """The mean row and column of each superpixel, rounded down."""
    flat = labels.ravel()
    count = np.bincount(flat)
    sums = [np.bincount(flat, np.indices(labels.shape)[axis].ravel()) for axis in (0, 1)]
    return np.stack([s // count for s in sums], -1).astype(int)


def adjacent(labels: Labels) -> Int[np.ndarray, "M 2"]:
    """Pairs of superpixels that share a side of a pixel, each once."""
    down = np.stack([labels[1:], labels[:-1]], -1).reshape(-1, 2)
    right = np.stack([labels[:, 1:], labels[:, :-1]], -1).reshape(-1, 2)
    pairs = np.sort(np.concatenate([down, right]), 1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
