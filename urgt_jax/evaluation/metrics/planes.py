"""iBims-1's errors of annotated planes."""

import numpy as np
from jaxtyping import Bool, Float

from urgt_jax.evaluation.metrics.protocol import GroundTruth, check_size


def plane_scores(depth: Float[np.ndarray, "H W"], truth: GroundTruth) -> dict[str, float]:
    """How flat annotated planes are, in centimetres, and how they are turned, in degrees.

    `plane_flatness` is the standard deviation of the distances from a plane that is fitted to the
    predicted points, which are scaled to the median of the true depth first; `plane_orientation` is
    the angle of that plane to the annotated one. Means over the planes of the image; NaN without.
    """
    check_size(depth, truth)
    names = ("plane_flatness", "plane_orientation")
    annotations = truth.annotations
    if annotations is None or annotations.planes is None or truth.intrinsics is None:
        return {}
    errors = []
    for number, normal in enumerate(annotations.plane_normals, 1):
        pixels = (annotations.planes == number) & truth.known
        if pixels.any():
            errors.append(plane_errors(depth, pixels, normal, truth))
    if not errors:
        return dict.fromkeys(names, float("nan"))
    flatness, orientation = np.mean(errors, 0).tolist()
    return {"plane_flatness": flatness, "plane_orientation": orientation}


def plane_errors(
    depth: Float[np.ndarray, "H W"],
    pixels: Bool[np.ndarray, "H W"],
    normal: Float[np.ndarray, "3"],
    truth: GroundTruth,
) -> tuple[float, float]:
    """Deviation from a fitted plane, centimetres, and its angle to the true normal, degrees."""
    rows, columns = np.nonzero(pixels)
    predicted = depth[pixels].astype(np.float64)
    z = predicted * (np.median(truth.depth[pixels].astype(np.float64)) / np.median(predicted))
    fx, fy, cx, cy = truth.intrinsics.astype(np.float64)
    points = np.stack([(columns + 0.5 - cx) * z / fx, (rows + 0.5 - cy) * z / fy, z], -1)
    centred = points - points.mean(0)
    # The direction in which the points extend least.
    _, directions = np.linalg.eigh(centred.T @ centred)
    fitted = directions[:, 0]
    deviation = 100 * float((centred @ fitted).std())
    sine = np.linalg.norm(np.cross(normal, fitted))
    cosine = abs(float(normal @ fitted))
    return deviation, float(np.degrees(np.arctan2(sine, cosine)))
