"""What is compared with what: the truth of a picture, and how predictions become metres."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from urgt_jax.data.samples import MIN_DEPTH, valid_depth
from urgt_jax.errors import UserError

STRIP = 1 << 20  # pixels that float64 sums take at a time


class Truth(NamedTuple):
    """What was measured of one picture."""

    depth: Float[np.ndarray, "H W"]  # metres; beyond the valid pixels 0 is unknown, inf is sky
    valid: Bool[np.ndarray, "H W"]  # pixels that count
    normal: Float[np.ndarray, "H W 3"] | None = None  # unit, 0 where unknown; None: from depth
    intrinsics: Float[np.ndarray, "4"] | None = None  # fx, fy, cx, cy, pixels
    stereo: float | None = None  # focal length times baseline, pixels x metres

    @property
    def known(self) -> Bool[np.ndarray, "H W"]:
        """The valid pixels whose depth is one: finite, more than a millimetre."""
        return valid_depth(self.depth, self.valid)


@dataclass(frozen=True)
class Protocol:
    """How maps are compared; printed with every number."""

    kind: Literal["depth", "disparity"]  # predictions: metres, or relative: affine to 1/metres
    align: Literal["none", "disparity"]  # nothing, or least squares of disparity to 1/depth
    max_depth: float = 80.0  # metres
    min_depth: float = MIN_DEPTH  # metres

    def __post_init__(self) -> None:
        if self.kind not in ("depth", "disparity") or self.align not in ("none", "disparity"):
            raise UserError(
                f"kind {self.kind!r} with align {self.align!r}: kind is depth or disparity, "
                "align is none or disparity"
            )
        if (self.kind, self.align) == ("disparity", "none"):
            raise UserError(
                "relative disparity has no metres to compare unless it is aligned: "
                "set align to disparity"
            )
        if not 0 < self.min_depth < self.max_depth < np.inf:
            raise UserError(
                f"depth from {self.min_depth:g} to {self.max_depth:g} m is no range: "
                "the least must be above 0 and below the largest"
            )

    def __str__(self) -> str:
        kind = "depth in metres" if self.kind == "depth" else "relative disparity"
        how = (
            "no alignment"
            if self.align == "none"
            else "least squares of disparity to 1/depth per picture over valid pixels"
        )
        return f"{kind}, {how}, {self.min_depth:g} to {self.max_depth:g} m"

    def disparity(self, pred: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
        """A prediction as what is aligned to 1/depth."""
        if self.kind == "disparity":
            return pred
        return 1 / np.maximum(pred, np.float32(self.min_depth))

    def limit(self, truth: Truth) -> Truth:
        """The truth whose valid pixels lie strictly inside the range of depths."""
        valid = valid_depth(truth.depth, truth.valid, self.max_depth, self.min_depth)
        return truth._replace(valid=valid)


class Alignment(NamedTuple):
    """1/depth = scale x disparity + shift."""

    scale: float
    shift: float

    def depth(self, disparity: Float[np.ndarray, "*S"], max_depth: float):
        """Depth in metres, float32 [*S], at most max_depth."""
        fitted = self.scale * disparity.astype(np.float64) + self.shift
        return (1 / np.maximum(fitted, 1 / max_depth)).astype(np.float32)


def align(
    disparity: Float[np.ndarray, "H W"],
    depth: Float[np.ndarray, "H W"],
    valid: Bool[np.ndarray, "H W"],
) -> Alignment:
    """Least squares over valid pixels, in float64 about the means; NaN where none are valid.

    The same fit as PRO's ("One Look is Enough"), which takes it over all pixels.
    """
    count, x, y = 0, 0.0, 0.0
    for a, b in _pairs(disparity, depth, valid):
        count, x, y = count + a.size, x + a.sum(), y + b.sum()
    if not count:
        return Alignment(float("nan"), float("nan"))
    x, y = x / count, y / count
    xx, xy = 0.0, 0.0
    for a, b in _pairs(disparity, depth, valid):
        xx, xy = xx + np.square(a - x).sum(), xy + ((a - x) * (b - y)).sum()
    scale = xy / xx if xx > 1e-12 * count * x * x else 0.0  # a constant map tells no scale
    return Alignment(float(scale), float(y - scale * x))


def _pairs(disparity, depth, valid) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Disparity and 1/depth of the pixels that count, strip by strip."""
    step = max(STRIP // max(depth.shape[1], 1), 1)
    for top in range(0, depth.shape[0], step):
        rows = slice(top, top + step)
        x, g = disparity[rows], depth[rows]
        known = Truth(g, valid[rows]).known & np.isfinite(x)
        yield x[known].astype(np.float64), 1 / g[known].astype(np.float64)


def to_metres(
    pred: Float[np.ndarray, "h w"], truth: Truth, protocol: Protocol
) -> Float[np.ndarray, "H W"]:
    """The prediction as depth in metres at the truth's size, float32, within the protocol's range.

    As PatchFusion: bilinear without antialias, NaN becomes the least and inf the largest depth.
    """
    pred = np.asarray(pred)
    if pred.ndim != 2 or pred.size == 0 or pred.dtype.kind not in "fiu":
        raise UserError(
            f"a predicted {protocol.kind} map has shape {pred.shape} and dtype {pred.dtype}: "
            "it must be numbers, height x width"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        pred = _resized(pred.astype(np.float32), truth.depth.shape)
    if protocol.align == "disparity":
        pred = protocol.disparity(pred)
        fit = align(pred, truth.depth, protocol.limit(truth).valid)
        pred = fit.depth(pred, protocol.max_depth)
    low, high = np.float32(protocol.min_depth), np.float32(protocol.max_depth)
    return np.clip(np.nan_to_num(pred, nan=low, posinf=high, neginf=low), low, high)


def _resized(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, pixel centres at one half, no antialias: torch's interpolate, OpenCV's resize."""
    for axis, (have, want) in enumerate(zip(x.shape, size, strict=True)):
        if have == want:
            continue
        place = np.clip((np.arange(want) + 0.5) * (have / want) - 0.5, 0, have - 1)
        low = place.astype(int)
        share = (place - low).astype(np.float32)
        share = share if axis else share[:, None]
        first, second = x.take(low, axis), x.take(np.minimum(low + 1, have - 1), axis)
        # Not first + share x difference: an infinite neighbour with no share must not spoil it.
        x = np.where(share > 0, first * (1 - share) + second * share, first)
    return x


def same_size(values: np.ndarray, truth: Truth, channels: tuple[int, ...] = ()) -> None:
    """Fails unless a map has the truth's height and width."""
    if values.shape != (want := (*truth.depth.shape, *channels)):
        raise UserError(
            f"a map of shape {values.shape} cannot be compared with a truth that asks for {want}: "
            "resize it before"
        )
