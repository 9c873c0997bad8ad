"""Scores of normals: degrees between predicted and true ones, or those of the predicted depth."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from urgt_jax.errors import UserError
from urgt_jax.evaluation.metrics import tiled
from urgt_jax.evaluation.metrics.protocol import Truth, same_size
from urgt_jax.images.geometry import normals_from_depth

BINS = 1000  # per degree: what is counted is at most half a thousandth of a degree off
REACH = 2  # of the window that pseudo-normals are fitted in, pixels
BELOW = (5, 7.5, 11.25, 22.5, 30)  # degrees
Counts = Int[np.ndarray, "180001"]  # pixels by angle; the last bin is 180 degrees itself


def normal_scores(
    normal: Float[np.ndarray, "H W 3"],
    truth: Truth,
    devices: tiled.Devices = None,
    tile: tiled.Size = tiled.TILE,
) -> tuple[dict[str, float], Counts]:
    """A picture's scores, as `Pooled` names them, and how many pixels err by which angle.

    Metric3D averages the scores of pictures; DSINE pools the counts of all pictures.
    """
    same_size(normal, truth, (3,))
    counts = _angles(normal, *true_normals(truth, devices, tile), devices, tile)
    return statistics(counts), counts


class Pooled:
    """Scores over the pixels of many pictures: DSINE's way."""

    def __init__(self) -> None:
        self.counts = np.zeros(180 * BINS + 1, np.int64)

    def add(self, counts: Counts) -> None:
        """Adds a picture; integers add up to the same in any order."""
        self.counts += counts

    def scores(self) -> dict[str, float]:
        """Degrees: mean, median, rmse; percent: below_5 to below_30."""
        return statistics(self.counts)


def statistics(counts: Counts) -> dict[str, float]:
    """The scores of counted angles, each angle taken as the middle of its bin."""
    total = int(counts.sum())
    if not total:
        names = ("mean", "median", "rmse", *(f"below_{t:g}" for t in BELOW))
        return dict.fromkeys(names, float("nan"))
    middle, up_to = (np.arange(len(counts)) + 0.5) / BINS, np.cumsum(counts)
    ranks = np.searchsorted(up_to, [(total - 1) // 2, total // 2], side="right")
    return {
        "mean": float(counts @ middle / total),
        "median": float(middle[ranks].mean()),
        "rmse": float(np.sqrt(counts @ middle**2 / total)),
        **{f"below_{t:g}": float(100 * up_to[round(t * BINS) - 1] / total) for t in BELOW},
    }


def true_normals(
    truth: Truth, devices: tiled.Devices = None, tile: tiled.Size = tiled.TILE
) -> tuple[Float[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    """Unit normals of the truth, or pseudo-normals of its depth, and the valid pixels with one."""
    if truth.normal is None:
        return _pseudo_normals(truth.depth, truth, devices, tile)
    same_size(truth.normal, truth, (3,))
    return truth.normal, truth.valid & np.any(truth.normal, -1)


def agreement(
    depth: Float[np.ndarray, "H W"],
    normal: Float[np.ndarray, "H W 3"],
    truth: Truth,
    devices: tiled.Devices = None,
    tile: tiled.Size = tiled.TILE,
) -> float:
    """Mean degrees between predicted normals and the pseudo-normals of predicted depth in metres.

    Over valid pixels of the truth.
    """
    same_size(depth, truth)
    same_size(normal, truth, (3,))
    own = _pseudo_normals(depth, truth, devices, tile)
    return statistics(_angles(normal, *own, devices, tile))["mean"]


def _pseudo_normals(depth, truth: Truth, devices, tile):
    if truth.intrinsics is None:
        raise UserError("normals from depth need intrinsics, which the picture does not have")
    normal = np.zeros((*depth.shape, 3), np.float32)
    known = np.zeros(depth.shape, bool)
    maps, how = (depth, truth.known), dict(halo=REACH, tile=tile, devices=devices)
    for here, found in tiled.scan(_normal_tile, maps, truth.intrinsics, **how):
        h, w = (part.stop - part.start for part in here)
        normal[here], known[here] = found["normal"][:h, :w], found["known"][:h, :w]
    return normal, known


def _normal_tile(depth, valid, origin, intrinsics) -> dict[str, Array]:
    """The pseudo-normals of a tile, whose camera is the picture's moved to the tile."""
    camera = intrinsics - jnp.concatenate([jnp.zeros(2), origin[::-1] - REACH])
    found, known = normals_from_depth(depth, camera, valid, 2 * REACH + 1)
    inner = (slice(REACH, -REACH), slice(REACH, -REACH))
    return {"normal": found[inner], "known": known[inner]}


def _angles(normal, target, known, devices, tile) -> Counts:
    counts = np.zeros(180 * BINS + 2, np.int64)
    for _, found in tiled.scan(_angle_tile, (normal, target, known), tile=tile, devices=devices):
        counts += np.bincount(found["bin"].ravel(), minlength=counts.size)
    return counts[:-1]


def _angle_tile(
    normal: Float[Array, "h w 3"],
    target: Float[Array, "h w 3"],
    known: Bool[Array, "h w"],
    origin: Float[Array, "2"],
    numbers: Float[Array, "0"],
) -> dict[str, Array]:
    """The bin of each pixel's angle; the one beyond the last where nothing is known."""
    (ax, ay, az), (bx, by, bz) = (jnp.moveaxis(x, -1, 0) for x in (normal, target))
    cross = (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
    sine, cosine = jnp.sqrt(sum(x * x for x in cross)), ax * bx + ay * by + az * bz
    # Exact for small angles and for any length, which arccos is not; no direction is 90 degrees.
    angle = jnp.degrees(jnp.arctan2(sine, cosine))
    angle = jnp.where((sine == 0) & (cosine == 0) | jnp.isnan(angle), 90.0, angle)
    place = jnp.clip((angle * BINS).astype(jnp.int32), 0, 180 * BINS)
    return {"bin": jnp.where(known, place, 180 * BINS + 1)}
