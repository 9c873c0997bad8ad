"""The ground truth of an image, and how a predicted depth map becomes metres."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from urgt_jax.data.samples import MIN_DEPTH, Annotations, valid_depth
from urgt_jax.errors import UserError, require
from urgt_jax.evaluation.metrics.alignment import (
    UNCHANGED,
    Alignment,
    align,
    fit_l1,
    fit_line,
    fit_scale,
    median_ratio,
)

ALIGNMENTS = {
    "none": "no alignment",
    "median": "scale of depth by medians",
    "scale": "least squares of the scale of depth",
    "depth": "least squares of scale and shift of depth",
    "disparity": "least squares of disparity to 1/depth",
    "scale_l1": "L1 of the scale of depth, weighted by 1/depth",
    "depth_l1": "L1 of scale and shift of depth, weighted by 1/depth",
}
ALL_PIXELS = {  # what the fit sees beyond the depth range
    "disparity": "all pixels, sky at disparity 0",
    "depth": "all pixels, those beyond the range at its end",
}


class GroundTruth(NamedTuple):
    """What was measured of one image."""

    # Metres. Sky is inf, an unknown pixel is 0; so is one that must not count in any way.
    depth: Float[np.ndarray, "H W"]
    valid: Bool[np.ndarray, "H W"]  # pixels that are scored
    normal: Float[np.ndarray, "H W 3"] | None = None  # unit length, 0 where unknown
    intrinsics: Float[np.ndarray, "4"] | None = None  # fx, fy, cx, cy, pixels
    stereo: float | None = None  # focal length times baseline, pixels x metres
    pseudo_normals: bool = False  # whether the normals were computed from the depth
    annotations: Annotations | None = None  # what else the data set knows

    @property
    def known(self) -> Bool[np.ndarray, "H W"]:
        """The valid pixels with a finite depth of more than a millimetre."""
        return valid_depth(self.depth, self.valid)

    @property
    def measured(self) -> Bool[np.ndarray, "H W"]:
        """Pixels with a true depth: also the sky, and what is beyond the range that is scored."""
        return self.depth > MIN_DEPTH

    def without(self, pixels: Bool[np.ndarray, "H W"]) -> "GroundTruth":
        """The ground truth with these pixels unknown."""
        depth = np.where(pixels, np.float32(0), self.depth)
        return self._replace(depth=depth, valid=self.valid & ~pixels)


@dataclass(frozen=True)
class DepthProtocol:
    """How predicted depth is compared with the ground truth; printed with every score."""

    kind: str  # unit of predictions: "depth" (metres) or "disparity" (relative 1/depth)
    align: str  # a key of ALIGNMENTS
    max_depth: float = 80.0  # metres
    min_depth: float = MIN_DEPTH  # metres
    pixels: str = "valid"  # pixels that the alignment is fitted to: "valid" or "all"
    truncate: float = 0.0  # largest relative error that counts in an L1 alignment; 0 is none
    holes: str = "errors"  # pixels without an estimate: "errors" or "left_out"
    clamp: str = "range"  # largest aligned depth: of the "range", or the "image"'s largest true one
    corners: bool = False  # whether predictions are resized with aligned corners
    cap_consistency: bool = True  # whether the consistency error is measured up to max_depth

    def __post_init__(self) -> None:
        require(
            self.kind in ("depth", "disparity") and self.align in ALIGNMENTS,
            f"kind {self.kind!r} with align {self.align!r}: kind must be depth or disparity, "
            f"align must be one of {', '.join(ALIGNMENTS)}",
        )
        require(
            self.kind == "depth" or self.align != "none",
            "relative disparity has no unit and cannot be scored without alignment: "
            "set align to disparity",
        )
        require(
            self.kind == "depth" or self.align == "disparity",
            f"align {self.align} fits depth, but the predictions are disparity, which is only "
            "known up to scale and shift: set align to disparity",
        )
        require(
            0 < self.min_depth < self.max_depth < np.inf,
            f"{self.min_depth:g} to {self.max_depth:g} m is not a valid depth range: "
            "the minimum must be above 0 and below the maximum",
        )

    def __str__(self) -> str:
        parts = ["depth in metres" if self.kind == "depth" else "relative disparity"]
        alignment = ALIGNMENTS[self.align]
        if self.align != "none":
            pixels = "valid pixels"
            if self.pixels == "all":
                pixels = ALL_PIXELS["disparity" if self.align == "disparity" else "depth"]
            alignment += f" per image over {pixels}"
        if self.align.endswith("_l1") and self.truncate:
            alignment += f", errors above {self.truncate:g} truncated"
        parts.append(alignment)
        parts.append(f"{self.min_depth:g} to {self.max_depth:g} m")
        if self.clamp == "image":
            parts.append("clamped at the largest true depth of the image")
        if self.corners:
            parts.append("resized with aligned corners")
        if not self.cap_consistency:
            parts.append("CE without a cap")
        parts.append("holes count as errors" if self.holes == "errors" else "holes left out")
        return ", ".join(parts)

    def disparity(self, pred: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
        """The prediction in the form that is aligned to 1/depth."""
        if self.kind == "disparity":
            return pred
        return 1 / np.maximum(pred, np.float32(self.min_depth))

    def limit(self, truth: GroundTruth) -> GroundTruth:
        """The ground truth with only the pixels valid that are strictly inside the depth range."""
        valid = valid_depth(truth.depth, truth.valid, self.max_depth, self.min_depth)
        return truth._replace(valid=valid)

    def largest_depth(self, truth: GroundTruth) -> float:
        """The depth in metres that aligned predictions are clamped to."""
        known = self.limit(truth).valid
        if self.clamp == "image" and known.any():
            return float(truth.depth[known].max())
        return self.max_depth

    def fit(self, pred: Float[np.ndarray, "H W"], truth: GroundTruth) -> Alignment:
        """The alignment of a prediction of the ground truth's size; NaN where it has no estimate.

        PRO ("One Look is Enough") fits disparity to all pixels; most others fit to valid ones.
        """
        if self.align == "none":
            return UNCHANGED
        use = truth.measured if self.pixels == "all" else self.limit(truth).valid
        use = use & np.isfinite(pred)
        if self.align == "disparity":
            return align(self.disparity(pred), truth.depth, use)
        depth = np.minimum(truth.depth, np.float32(self.max_depth))
        scale = 1.0
        shift = 0.0
        if self.align == "median":
            scale = median_ratio(pred, depth, use)
        elif self.align == "scale":
            scale = fit_scale(pred, depth, use)
        elif self.align == "depth":
            scale, shift = fit_line(pred, depth, use, inverse=False)
        else:
            with_shift = self.align == "depth_l1"
            scale, shift = fit_l1(pred, depth, use, with_shift, self.truncate or np.inf)
        return Alignment(scale, shift, of_depth=True)

    def apply(
        self, fit: Alignment, pred: Float[np.ndarray, "*S"], largest: float
    ) -> Float[np.ndarray, "*S"]:
        """The prediction in metres under an alignment, not yet clamped to the depth range."""
        if self.align == "none":
            return pred
        values = self.disparity(pred) if self.align == "disparity" else pred
        return fit.depth(values, largest)


def to_metres(
    pred: np.ndarray, truth: GroundTruth, protocol: DepthProtocol
) -> Float[np.ndarray, "H W"]:
    """The prediction [h, w] as float32 metres at the size of the ground truth.

    As PatchFusion does, resize bilinearly without antialiasing and clamp to the depth range; a
    pixel without an estimate becomes the minimum, or the maximum if it is infinitely far.
    """
    pred = resize_prediction(pred, truth.depth.shape, protocol)
    missing = ~np.isfinite(pred)
    fit = protocol.fit(pred, truth)
    largest = protocol.largest_depth(truth)
    with np.errstate(invalid="ignore"):
        metres = protocol.apply(fit, pred, largest)
    low = np.float32(protocol.min_depth)
    high = np.float32(largest)
    metres = np.nan_to_num(metres, nan=low, posinf=high, neginf=low)
    if missing.any():
        far = (pred == np.inf) & (protocol.kind == "depth")
        metres = np.where(missing, np.where(far, high, low), metres)
    return np.clip(metres, low, high)


def without_estimate(
    pred: np.ndarray, size: tuple[int, int], protocol: DepthProtocol
) -> Bool[np.ndarray, "H W"]:
    """Pixels at the size of the ground truth that have no estimate, or mix in one without.

    Depth of 0 or less, NaN and infinity are no estimates; in disparity, only NaN and infinity are.
    """
    return ~np.isfinite(resize_prediction(pred, size, protocol))


def resize_prediction(
    pred: np.ndarray, size: tuple[int, int], protocol: DepthProtocol
) -> Float[np.ndarray, "H W"]:
    """The prediction as float32 at that size; NaN or infinite where there is no estimate."""
    pred = np.asarray(pred)
    if pred.ndim != 2 or pred.size == 0 or pred.dtype.kind not in "fiu":
        raise UserError(
            f"the predicted {protocol.kind} map has shape {pred.shape} and dtype {pred.dtype}: "
            "it must be an array of numbers, height x width"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        pred = pred.astype(np.float32)
        if protocol.kind == "depth":
            pred = np.where(pred > 0, pred, np.float32(np.nan))
        return resize_bilinear(pred, size, protocol.corners)


def resize_bilinear(
    values: Float[np.ndarray, "h w"], size: tuple[int, int], corners: bool = False
) -> Float[np.ndarray, "H W"]:
    """Resize without antialiasing, as torch's interpolate does.

    Pixel centres are at one half, or the centres of the corner pixels stay in place. Unlike a
    library's, this survives infinite pixels: they spread only to pixels that mix them in.
    """
    for axis in (0, 1):
        old = values.shape[axis]
        new = size[axis]
        if old == new:
            continue
        if corners:
            position = np.arange(new) * ((old - 1) / max(new - 1, 1))
        else:
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
