"""Metrics of normals: angles to the ground truth, or to the normals of the predicted depth."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from urgt_jax.errors import UserError
from urgt_jax.evaluation.metrics import tiled
from urgt_jax.evaluation.metrics.protocol import GroundTruth, check_size
from urgt_jax.images.geometry import normals_from_depth

BINS_PER_DEGREE = 1000  # a counted angle is off by at most half a thousandth of a degree
LAST_BIN = 180 * BINS_PER_DEGREE  # holds exactly 180 degrees
UNKNOWN_BIN = LAST_BIN + 1  # holds pixels without a known normal; dropped from the counts
WINDOW_REACH = 2  # pixels on each side in the window that pseudo-normals are fitted in
PSEUDO_NORMALS = "least-squares planes of 1/depth in 5 x 5 pixels, those within 5 %"
THRESHOLDS = (5, 7.5, 11.25, 22.5, 30)  # degrees
AngleCounts = Int[np.ndarray, "180001"]  # pixels by angle


def normal_scores(
    normal: Float[np.ndarray, "H W 3"],
    truth: GroundTruth,
    devices: tiled.Devices = None,
    tile: tiled.Size = tiled.TILE,
) -> tuple[dict[str, float], AngleCounts]:
    """The scores of one image, as `angle_statistics` names them, and its pixels by angle.

    Metric3D averages the scores of images; DSINE pools the pixels of all images.
    """
    check_size(normal, truth, (3,))
    target, known = true_normals(truth, devices, tile)
    counts = count_angles(normal, target, known, devices, tile)
    return angle_statistics(counts), counts


class PooledAngles:
    """Scores over the pixels of many images, as DSINE computes them."""

    def __init__(self) -> None:
        self.counts = np.zeros(LAST_BIN + 1, np.int64)

    def add(self, counts: AngleCounts) -> None:
        """Add an image; integer sums do not depend on the order of images."""
        self.counts += counts

    def scores(self) -> dict[str, float]:
        """The scores over all pixels, as `angle_statistics` names them."""
        return angle_statistics(self.counts)


def angle_statistics(counts: AngleCounts) -> dict[str, float]:
    """Mean, median and rmse in degrees, and below_5 to below_30 in percent.

    Each angle counts as the middle of its bin.
    """
    total = int(counts.sum())
    if total == 0:
        names = ["mean", "median", "rmse", *(f"below_{t:g}" for t in THRESHOLDS)]
        return dict.fromkeys(names, float("nan"))
    angles = (np.arange(len(counts)) + 0.5) / BINS_PER_DEGREE
    cumulative = np.cumsum(counts)
    # The median is the mean of the two middle pixels, which are the same one for an odd total.
    middle_pixels = [(total - 1) // 2, total // 2]
    middle_bins = np.searchsorted(cumulative, middle_pixels, side="right")
    scores = {
        "mean": float(counts @ angles / total),
        "median": float(angles[middle_bins].mean()),
        "rmse": float(np.sqrt(counts @ angles**2 / total)),
    }
    for threshold in THRESHOLDS:
        below = cumulative[round(threshold * BINS_PER_DEGREE) - 1]
        scores[f"below_{threshold:g}"] = float(100 * below / total)
    return scores


def true_normals(
    truth: GroundTruth, devices: tiled.Devices = None, tile: tiled.Size = tiled.TILE
) -> tuple[Float[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    """True unit normals, or else pseudo-normals of true depth, and the valid pixels with one."""
    if truth.normal is None:
        return pseudo_normals(truth.depth, truth, devices, tile)
    check_size(truth.normal, truth, (3,))
    known = np.any(truth.normal, -1)
    if truth.measured.any():  # else the data set has normals only
        known = known & truth.valid
    return truth.normal, known


def agreement(
    depth: Float[np.ndarray, "H W"],
    normal: Float[np.ndarray, "H W 3"],
    truth: GroundTruth,
    devices: tiled.Devices = None,
    tile: tiled.Size = tiled.TILE,
) -> float:
    """Mean angle between predicted normals and the pseudo-normals of predicted depth in metres.

    In degrees, over the valid pixels of the ground truth.
    """
    check_size(depth, truth)
    check_size(normal, truth, (3,))
    target, known = pseudo_normals(depth, truth, devices, tile)
    counts = count_angles(normal, target, known, devices, tile)
    return angle_statistics(counts)["mean"]


def pseudo_normals(
    depth: Float[np.ndarray, "H W"],
    truth: GroundTruth,
    devices: tiled.Devices = None,
    tile: tiled.Size = tiled.TILE,
) -> tuple[Float[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    """Normals fitted to depth in metres, and the valid pixels that have one."""
    if truth.intrinsics is None:
        raise UserError("normals from depth need camera intrinsics, and the image has none")
    normal = np.zeros((*depth.shape, 3), np.float32)
    known = np.zeros(depth.shape, bool)
    for region, outputs in tiled.scan(
        normal_tile,
        (depth, truth.known),
        truth.intrinsics,
        halo=WINDOW_REACH,
        tile=tile,
        devices=devices,
    ):
        rows, columns = region
        height = rows.stop - rows.start
        width = columns.stop - columns.start
        normal[region] = outputs["normal"][:height, :width]
        known[region] = outputs["known"][:height, :width]
    return normal, known


def normal_tile(
    depth: Float[Array, "h w"],
    valid: Bool[Array, "h w"],
    origin: Float[Array, "2"],
    intrinsics: Float[Array, "4"],
) -> dict[str, Array]:
    """The pseudo-normals of a tile, with the camera of the image moved to the tile."""
    shift = jnp.concatenate([jnp.zeros(2), origin[::-1] - WINDOW_REACH])
    normal, known = normals_from_depth(depth, intrinsics - shift, valid, 2 * WINDOW_REACH + 1)
    inner = slice(WINDOW_REACH, -WINDOW_REACH)
    return {"normal": normal[inner, inner], "known": known[inner, inner]}


def count_angles(
    normal: Float[np.ndarray, "H W 3"],
    target: Float[np.ndarray, "H W 3"],
    known: Bool[np.ndarray, "H W"],
    devices: tiled.Devices = None,
    tile: tiled.Size = tiled.TILE,
) -> AngleCounts:
    """The number of known pixels by the angle between the two normals."""
    counts = np.zeros(UNKNOWN_BIN + 1, np.int64)
    maps = (normal, target, known)
    for _, outputs in tiled.scan(angle_bins, maps, tile=tile, devices=devices):
        counts += np.bincount(outputs["bin"].ravel(), minlength=counts.size)
    return counts[:UNKNOWN_BIN]


def angle_bins(
    normal: Float[Array, "h w 3"],
    target: Float[Array, "h w 3"],
    known: Bool[Array, "h w"],
    origin: Float[Array, "2"],
    numbers: Float[Array, "0"],
) -> dict[str, Array]:
    """The bin of each pixel's angle."""
    ax, ay, az = jnp.moveaxis(normal, -1, 0)
    bx, by, bz = jnp.moveaxis(target, -1, 0)
    x = ay * bz - az * by
    y = az * bx - ax * bz
    z = ax * by - ay * bx
    sine = jnp.sqrt(x * x + y * y + z * z)
    cosine = ax * bx + ay * by + az * bz
    # Unlike arccos, arctan2 is accurate for small angles and takes vectors of any length.
    angle = jnp.degrees(jnp.arctan2(sine, cosine))
    no_direction = (sine == 0) & (cosine == 0)
    angle = jnp.where(no_direction | jnp.isnan(angle), 90.0, angle)
    bins = jnp.clip((angle * BINS_PER_DEGREE).astype(jnp.int32), 0, LAST_BIN)
    return {"bin": jnp.where(known, bins, UNKNOWN_BIN)}
