"""How certain a mean over images is, and whether one evaluation is better than another."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

RESAMPLES = 2000
SEED = 0
PERCENTILES = (2.5, 97.5)  # of the means of resamples: an interval of 95 %
DRAWN_AT_ONCE = 1 << 22  # random numbers in memory


def bootstrap_intervals(values: Float[np.ndarray, "N M"]) -> Float[np.ndarray, "M 2"]:
    """A 95 % interval of the mean of each of M metrics over N images, by a seeded bootstrap.

    Images are drawn with replacement, the same ones for all metrics. A mean is over the drawn
    images that have the metric; the interval is NaN for fewer than two such images.
    """
    count = len(values)
    defined = np.isfinite(values)
    means = []
    for images in drawn_images(count):
        weights = np.stack([np.bincount(row, minlength=count) for row in images]).astype(float)
        sums = weights @ np.where(defined, values, 0)
        numbers = weights @ defined.astype(float)
        with np.errstate(invalid="ignore"):
            means.append(np.where(numbers > 0, sums / numbers, np.nan))
    return intervals_of(np.concatenate(means), defined)


def intervals_of(
    means: Float[np.ndarray, "R M"], defined: Bool[np.ndarray, "N M"]
) -> Float[np.ndarray, "M 2"]:
    """The percentiles of the means of resamples, NaN for metrics that too few images have."""
    intervals = np.full((means.shape[1], 2), np.nan)
    enough = defined.sum(0) > 1
    if enough.any():
        intervals[enough] = np.nanpercentile(means[:, enough], PERCENTILES, axis=0).T
    return intervals


def drawn_images(count: int) -> Iterator[Int[np.ndarray, "R N"]]:
    """Numbers of images drawn with replacement, some resamples at a time."""
    rng = np.random.default_rng(SEED)
    at_once = max(DRAWN_AT_ONCE // max(count, 1), 1)
    for start in range(0, RESAMPLES, at_once):
        resamples = min(at_once, RESAMPLES - start)
        yield rng.integers(0, count, (resamples, count))
