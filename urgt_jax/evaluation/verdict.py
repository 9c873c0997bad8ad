"""How much closer to the truth refined maps are than coarse ones, in one line."""

from typing import NamedTuple

import numpy as np
from etils.epath import Path
from jaxtyping import Bool, Float

from urgt_jax.data.samples import MIN_DEPTH, valid_depth
from urgt_jax.evaluation.metrics import align
from urgt_jax.images.files import read_map
from urgt_jax.images.geometry import angles_between

MAX_DEPTH = 80.0  # metres; as in scores
SAME = 0.01  # relative difference that is no difference


class Maps(NamedTuple):
    """Depth, in metres or as disparity, and unit normals."""

    depth: Float[np.ndarray, "h w"]
    normal: Float[np.ndarray, "k l 3"]
    is_metric: bool  # whether depth is in metres


def verdict(image: Path, coarse: Maps, refined: Maps) -> str:
    """The errors of coarse and refined maps, if NAME_true_depth.npy or _true_normal.npy exist.

    Depth has a mean relative error (AbsRel), after a fit of scale and shift if it is disparity.
    Empty if there is no truth beside the image, or if it has another size.
    """
    parts = []
    depth_path = image.with_name(f"{image.stem}_true_depth.npy")
    if depth_path.is_file():
        truth = read_map(depth_path, "true depth")
        valid = valid_depth(truth, np.isfinite(truth), MAX_DEPTH)
        if truth.shape == refined.depth.shape == coarse.depth.shape and valid.any():
            errors = [relative_error(x.depth, truth, valid, x.is_metric) for x in (coarse, refined)]
            parts.append(_compare("AbsRel", *errors, "{:.4f}"))
    normal_path = image.with_name(f"{image.stem}_true_normal.npy")
    if normal_path.is_file():
        truth = read_map(normal_path, "true normal")
        if truth.shape == refined.normal.shape == coarse.normal.shape:
            errors = [mean_angle(x.normal, truth) for x in (coarse, refined)]
            parts.append(_compare("normals", *errors, "{:.2f} degrees"))
    return "; ".join(parts)


def relative_error(
    depth: Float[np.ndarray, "H W"],
    truth: Float[np.ndarray, "H W"],
    valid: Bool[np.ndarray, "H W"],
    is_metric: bool,
) -> float:
    """The mean relative error of depth."""
    if not is_metric:
        depth = align(depth, truth, valid).depth(depth, MAX_DEPTH)
    return float(np.abs(depth[valid] / np.maximum(truth[valid], MIN_DEPTH) - 1).mean())


def mean_angle(normal: Float[np.ndarray, "H W 3"], truth: Float[np.ndarray, "H W 3"]) -> float:
    """The mean angle of unit normals to the true ones where these are not 0, degrees."""
    known = np.linalg.norm(truth, axis=-1) > 0.5
    return float(angles_between(normal[known], truth[known]).mean())


def _compare(name: str, coarse: float, refined: float, form: str) -> str:
    change = refined / max(coarse, 1e-12) - 1
    words = f"{abs(change):.0%} {'lower' if change < 0 else 'higher'}"
    if abs(change) < SAME:
        words = "the same"
    return f"{name} {form.format(coarse)} before, {form.format(refined)} now: {words}"
