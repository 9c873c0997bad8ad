"""The field's metrics of depth and normal maps, one image at a time; NaN if no pixel is valid."""

from urgt_jax.evaluation.metrics.alignment import Alignment, align
from urgt_jax.evaluation.metrics.boundaries import boundary_recall, boundary_scores
from urgt_jax.evaluation.metrics.depth import depth_scores
from urgt_jax.evaluation.metrics.edges import edge_scores
from urgt_jax.evaluation.metrics.normals import (
    PooledAngles,
    agreement,
    normal_scores,
    true_normals,
)
from urgt_jax.evaluation.metrics.planes import plane_scores
from urgt_jax.evaluation.metrics.protocol import (
    DepthProtocol,
    GroundTruth,
    resize_prediction,
    to_metres,
    without_estimate,
)
from urgt_jax.evaluation.metrics.seams import consistency, consistency_windows, seams

__all__ = [
    "Alignment",
    "DepthProtocol",
    "GroundTruth",
    "PooledAngles",
    "agreement",
    "align",
    "boundary_recall",
    "boundary_scores",
    "consistency",
    "consistency_windows",
    "depth_scores",
    "edge_scores",
    "normal_scores",
    "plane_scores",
    "resize_prediction",
    "seams",
    "to_metres",
    "true_normals",
    "without_estimate",
]
