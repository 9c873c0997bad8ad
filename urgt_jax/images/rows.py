"""Maps that are processed some rows at a time, so that they may be larger than memory."""

from collections.abc import Callable, Iterator

import numpy as np

ROWS_AT_ONCE = 256  # rows of a map that are processed at a time


def row_slices(height: int) -> Iterator[slice]:
    """Slices of at most ROWS_AT_ONCE rows, from the top."""
    for start in range(0, height, ROWS_AT_ONCE):
        yield slice(start, min(start + ROWS_AT_ONCE, height))


class LazyMap:
    """A map that is computed pixel by pixel from another map, and only where it is indexed."""

    def __init__(self, source: np.ndarray, function: Callable[[np.ndarray], np.ndarray]):
        self.source = source
        self.function = function
        self.shape = source.shape

    def __getitem__(self, index) -> np.ndarray:
        return self.function(np.asarray(self.source[index]))
