"""The ground truth of an image, and how a predicted depth map becomes metres."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from urgt_jax.data.samples import MIN_DEPTH, valid_depth
from urgt_jax.errors import UserError

STRIP_PIXELS = 1 << 20  # pixels that are summed in float64 at a time


class GroundTruth(NamedTuple):
    """What was measured of one image."""

    depth: Float[np.ndarray, "H W"]  # metres; invalid pixels hold 0 (unknown) or inf (sky)
    valid: Bool[np.ndarray, "H W"]  # pixels that are scored
    normal: Float[np.ndarray, "H W 3"] | None = None  # unit length, 0 where unknown
    intrinsics: Float[np.ndarray, "4"] | None = None  # fx, fy, cx, cy, pixels
    stereo: float | None = None  # focal length times baseline, pixels x metres

    @property
    def known(self) -> Bool[np.ndarray, "H W"]:
        """The valid pixels with a finite depth of more than a millimetre."""
        return valid_depth(self.depth, self.valid)


@dataclass(frozen=True)
class DepthProtocol:
    """How predicted depth is compared with the ground truth; printed with every score."""

    kind: str  # unit of predictions: "depth" (metres) or "disparity" (relative 1/depth)
    align: str  # "none", or "disparity" for least squares of disparity to 1/depth
    max_depth: float = 80.0  # metres
    min_depth: float = MIN_DEPTH  # metres

    def __post_init__(self) -> None:
        if self.kind not in ("depth", "disparity") or self.align not in ("none", "disparity"):
            raise UserError(
                f"kind {self.kind!r} with align {self.align!r}: kind must be depth or disparity, "
                "align must be none or disparity"
            )
        if self.kind == "disparity" and self.align == "none":
            raise UserError(
                "relative disparity has no unit and cannot be scored without alignment: "
                "set align to disparity"
            )
        if not 0 < self.min_depth < self.max_depth < np.inf:
            raise UserError(
                f"{self.min_depth:g} to {self.max_depth:g} m is not a valid depth range: "
                "the minimum must be above 0 and below the maximum"
            )

    def __str__(self) -> str:
        kind = "depth in metres" if self.kind == "depth" else "relative disparity"
        alignment = "no alignment"
        if self.align == "disparity":
            alignment = "least squares of disparity to 1/depth per image over valid pixels"
        return f"{kind}, {alignment}, {self.min_depth:g} to {self.max_depth:g} m"

    def disparity(self, pred: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
        """The prediction in the form that is aligned to 1/depth."""
        if self.kind == "disparity":
            return pred
        return 1 / np.maximum(pred, np.float32(self.min_depth))

    def limit(self, truth: GroundTruth) -> GroundTruth:
        """The ground truth with only the pixels valid that are strictly inside the depth range."""
        valid = valid_depth(truth.depth, truth.valid, self.max_depth, self.min_depth)
        return truth._replace(valid=valid)


class Alignment(NamedTuple):
    """1/depth = scale x disparity + shift."""

    scale: float
    shift: float

    def depth(
        self, disparity: Float[np.ndarray, "*S"], max_depth: float
    ) -> Float[np.ndarray, "*S"]:
        """Depth in metres, float32, at most `max_depth`."""
        fitted = self.scale * disparity.astype(np.float64) + self.shift
        return (1 / np.maximum(fitted, 1 / max_depth)).astype(np.float32)


def align(
    disparity: Float[np.ndarray, "H W"],
    depth: Float[np.ndarray, "H W"],
    valid: Bool[np.ndarray, "H W"],
) -> Alignment:
    """Fit disparity to 1/depth by least squares over valid pixels; NaN if there are none.

    PRO ("One Look is Enough") makes the same fit, but over all pixels.
    """
    count = 0
    sum_x = 0.0
    sum_y = 0.0
    for x, y in valid_strips(disparity, depth, valid):
        count += x.size
        sum_x += x.sum()
        sum_y += y.sum()
    if count == 0:
        return Alignment(float("nan"), float("nan"))
    mean_x = sum_x / count
    mean_y = sum_y / count
    # A second pass about the means, because float64 sums of squares would lose digits.
    spread = 0.0
    product = 0.0
    for x, y in valid_strips(disparity, depth, valid):
        spread += np.square(x - mean_x).sum()
        product += ((x - mean_x) * (y - mean_y)).sum()
    # A constant map does not determine the scale.
    is_constant = spread <= 1e-12 * count * mean_x * mean_x
    scale = 0.0 if is_constant else product / spread
    return Alignment(float(scale), float(mean_y - scale * mean_x))


def valid_strips(
    disparity: Float[np.ndarray, "H W"],
    depth: Float[np.ndarray, "H W"],
    valid: Bool[np.ndarray, "H W"],
) -> Iterator[tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]]:
    """Disparity and 1/depth of the valid pixels in float64, a strip of rows at a time."""
    height, width = depth.shape
    strip_height = max(STRIP_PIXELS // max(width, 1), 1)
    for top in range(0, height, strip_height):
        rows = slice(top, top + strip_height)
        known = GroundTruth(depth[rows], valid[rows]).known & np.isfinite(disparity[rows])
        x = disparity[rows][known].astype(np.float64)
        y = 1 / depth[rows][known].astype(np.float64)
        yield x, y


def to_metres(
    pred: np.ndarray, truth: GroundTruth, protocol: DepthProtocol
) -> Float[np.ndarray, "H W"]:
    """The prediction [h, w] as float32 metres at the size of the ground truth.

    As PatchFusion does, resize bilinearly without antialiasing and clamp to the depth range; NaN
    becomes the minimum and inf the maximum.
    """
    pred = np.asarray(pred)
    if pred.ndim != 2 or pred.size == 0 or pred.dtype.kind not in "fiu":
        raise UserError(
            f"the predicted {protocol.kind} map has shape {pred.shape} and dtype {pred.dtype}: "
            "it must be an array of numbers, height x width"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        pred = resize_bilinear(pred.astype(np.float32), truth.depth.shape)
    if protocol.align == "disparity":
        pred = protocol.disparity(pred)
        fit = align(pred, truth.depth, protocol.limit(truth).valid)
        pred = fit.depth(pred, protocol.max_depth)
    low = np.float32(protocol.min_depth)
    high = np.float32(protocol.max_depth)
    pred = np.nan_to_num(pred, nan=low, posinf=high, neginf=low)
    return np.clip(pred, low, high)


def resize_bilinear(
    values: Float[np.ndarray, "h w"], size: tuple[int, int]
) -> Float[np.ndarray, "H W"]:
    """Resize without antialiasing, pixel centres at one half, as torch's interpolate does.

    Unlike a library's, this survives infinite pixels: they spread only to pixels that mix them in.
    """
    for axis in (0, 1):
        old = values.shape[axis]
        new = size[axis]
        if old == new:
            continue
        position = (np.arange(new) + 0.5) * (old / new) - 0.5
        position = np.clip(position, 0, old - 1)
        low = position.astype(int)
        high = np.minimum(low + 1, old - 1)
        share = (position - low).astype(np.float32)
        if axis == 0:
            share = share[:, None]
        first = values.take(low, axis)
        second = values.take(high, axis)
        mixed = first * (1 - share) + second * share
        values = np.where(share > 0, mixed, first)  # 0 x inf would be NaN
    return values


def check_size(values: np.ndarray, truth: GroundTruth, channels: tuple[int, ...] = ()) -> None:
    """Fail unless a map [H, W, *channels] has the height and width of the ground truth."""
    expected = (*truth.depth.shape, *channels)
    if values.shape != expected:
        raise UserError(
            f"a map of shape {values.shape} cannot be compared with ground truth that needs "
            f"{expected}: resize the map first"
        )
