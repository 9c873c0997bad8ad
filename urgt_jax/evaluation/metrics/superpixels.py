"""Superpixels of a map, and which of them are neighbours."""

import numpy as np
from jaxtyping import Float, Int

from urgt_jax.errors import import_extra

COMPACTNESS = 0.01  # smallest value range of a superpixel; SLICO's code: 1 of Lab's 100 units
ROUNDS = 10  # of k-means, as in SLICO's code and MATLAB's superpixels


def superpixels(values: Float[np.ndarray, "h w"], count: int) -> Int[np.ndarray, "h w"]:
    """Divide a map of values in [0, 1] into about `count` connected superpixels, labelled from 0.

    The method is SLICO (Achanta et al., SLIC, PAMI 2012), whose compactness adapts to each
    superpixel.
    """
    segmentation = import_extra("skimage.segmentation", "eval")  # slow to import
    return segmentation.slic(
        values,
        n_segments=count,
        compactness=COMPACTNESS,
        max_num_iter=ROUNDS,
        slic_zero=True,
        start_label=0,
        channel_axis=None,
    )


def centres(labels: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "N 2"]:
    """The mean row and column of each superpixel, rounded down."""
    rows, columns = np.indices(labels.shape)
    flat = labels.ravel()
    size = np.bincount(flat)
    row = np.bincount(flat, rows.ravel()) // size
    column = np.bincount(flat, columns.ravel()) // size
    return np.stack([row, column], -1).astype(int)


def adjacent(labels: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "M 2"]:
    """Pairs of superpixels that share a pixel side, each pair once."""
    down = np.stack([labels[1:], labels[:-1]], -1).reshape(-1, 2)
    right = np.stack([labels[:, 1:], labels[:, :-1]], -1).reshape(-1, 2)
    pairs = np.sort(np.concatenate([down, right]), 1)
    different = pairs[:, 0] != pairs[:, 1]
    return np.unique(pairs[different], axis=0)
