"""Maps of any size, some rows at a time."""

from collections.abc import Callable, Iterator

import numpy as np

ROWS_AT_ONCE = 256  # rows of a map that are worked on at a time


def row_slices(height: int) -> Iterator[slice]:
    """Rows of a map from the top, some at a time."""
    return (slice(row, min(row + ROWS_AT_ONCE, height)) for row in range(0, height, ROWS_AT_ONCE))


class LazyMap:
    """A map that is computed from another pixel by pixel, where it is cut, and never whole."""

    def __init__(self, source: np.ndarray, change: Callable[[np.ndarray], np.ndarray]):
        self.source, self.change, self.shape = source, change, source.shape

    def __getitem__(self, where) -> np.ndarray:
        return self.change(np.asarray(self.source[where]))
