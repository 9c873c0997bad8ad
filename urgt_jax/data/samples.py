"""What every data set gives: one picture, or a window of it, with what was measured there."""

from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, UInt8

Window = tuple[slice, slice]  # rows and columns
WHOLE: Window = (slice(None), slice(None))
MIN_DEPTH = 1e-3  # metres; nearer values are not depth (as PatchFusion's valid mask)


def valid_depth(
    depth: Float[np.ndarray, "*S"],
    valid: Bool[np.ndarray, "*S"],
    max_depth: float = float("inf"),
    min_depth: float = MIN_DEPTH,
) -> Bool[np.ndarray, "*S"]:
    """Pixels that are valid and whose depth is strictly inside the range, metres."""
    return valid & (depth > min_depth) & (depth < max_depth)


def crop_intrinsics(
    intrinsics: Float[np.ndarray, "4"], window: Window, size: tuple[int, int]
) -> Float[np.ndarray, "4"]:
    """The camera of a picture of that size as the camera of a window of it, float32."""
    top, left = (s.indices(n)[0] for s, n in zip(window, size, strict=True))
    return (intrinsics - [0, 0, left, top]).astype(np.float32)


class Sample(NamedTuple):
    """A window of a picture and its truth."""

    image: UInt8[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]  # float32, metres along the optical axis; 0 is unknown, inf sky
    valid: Bool[np.ndarray, "h w"]  # where depth is known
    intrinsics: Float[np.ndarray, "4"] | None = None  # float32, fx, fy, cx, cy of this window
    stereo: float | None = None  # focal length times baseline, pixels x metres; disparity x depth
    normal: Float[np.ndarray, "h w 3"] | None = None  # float32, unit, only where known exactly


class Source(Protocol):
    """Pictures by number; reading a window costs no more than its own pixels where it can."""

    def __len__(self) -> int:
        """The number of pictures."""

    def name(self, index: int) -> str:
        """What files that belong to the picture are called by: unique, without slashes."""

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, pixels."""

    def read(self, index: int, window: Window = WHOLE) -> Sample:
        """The window of a picture; a damaged file is a UserError in one line that names it."""
