"""Ground truth and predictions that the tests of metrics share."""

import numpy as np

from urgt_jax.evaluation.metrics import GroundTruth

SIZE = (37, 53)
TILE = (16, 24)  # does not divide SIZE
CAMERA = np.array([40, 42, 25, 19], np.float32)


def truth_of(values, **fields) -> GroundTruth:
    """Ground truth with these depths, valid where they are above 0."""
    values = np.array(values, np.float32)
    return GroundTruth(values, values > 0, **fields)


def tilted_normals(degrees) -> np.ndarray:
    """Normals tilted away from the direction to the camera."""
    angle = np.radians(np.array(degrees, float))
    return np.stack([np.sin(angle), 0 * angle, -np.cos(angle)], -1).astype(np.float32)


def boxes_and_plane() -> tuple[GroundTruth, np.ndarray, np.ndarray]:
    """Boxes in front of a slanted plane with holes and sky; predicted metres and normals."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    depth = 6 + 0.1 * x + 0.05 * y
    depth[5:17, 8:30] = 4 + 0.02 * x[5:17, 8:30]
    depth[20:33, 25:50] = 5
    depth[:4, 40:] = np.inf
    depth[rng.random(SIZE) < 0.05] = 0
    valid = (depth > 0) & (depth < 80)
    pred = np.roll(np.clip(depth, 1, 80), 1, 1) * np.exp(rng.normal(0.02, 0.02, SIZE))
    normal = rng.normal((0, 0, -1), 0.4, (*SIZE, 3)).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    truth = GroundTruth(depth.astype(np.float32), valid, None, CAMERA, 30.0)
    return truth, pred.astype(np.float32), normal
