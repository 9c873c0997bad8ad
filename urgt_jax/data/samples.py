"""What a data set provides: images, or windows of them, with their measured ground truth."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Window = tuple[slice, slice]  # rows and columns
WHOLE: Window = (slice(None), slice(None))
MIN_DEPTH = 1e-3  # metres; nearer values are not depth (as in PatchFusion's valid mask)


class Annotations(NamedTuple):
    """What else some data sets know about the window of an image."""

    edges: Bool[np.ndarray, "h w"] | None = None  # occlusion edges, marked by hand
    planes: Int[np.ndarray, "h w"] | None = None  # number of the plane at a pixel, 0 is none
    # Unit normals of the planes 1, 2, ...: x right, y down, z forward.
    plane_normals: Float[np.ndarray, "N 3"] | None = None
    matte: Bool[np.ndarray, "h w"] | None = None  # the foreground, where no depth is known


class Sample(NamedTuple):
    """A window of an image and its ground truth."""

    image: UInt8[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]  # float32, metres along the optical axis; 0 unknown, inf sky
    valid: Bool[np.ndarray, "h w"]  # pixels with a known depth
    intrinsics: Float[np.ndarray, "4"] | None = None  # float32; fx, fy, cx, cy of this window
    stereo: float | None = None  # focal length times baseline, pixels x metres; disparity x depth
    normal: Float[np.ndarray, "h w 3"] | None = None  # float32, unit length; only where exact
    annotations: Annotations | None = None


@runtime_checkable
class Source(Protocol):
    """The images of a data set by number.

    Reading a window costs no more than its own pixels, if the file format allows it.
    """

    def __len__(self) -> int:
        """The number of images."""

    def name(self, index: int) -> str:
        """The name in the file names of everything about the image: unique, without slashes."""

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the image, pixels."""

    def read(self, index: int, window: Window = WHOLE) -> Sample:
        """A window of the image. A damaged file raises a UserError that names it."""


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
    """The intrinsics of a window of an image of that size, float32."""
    rows, columns = window
    top, _, _ = rows.indices(size[0])
    left, _, _ = columns.indices(size[1])
    return (intrinsics - [0, 0, left, top]).astype(np.float32)
