"""The field's metrics of depth and normal maps, picture by picture; NaN where nothing is valid."""

from urgt_jax.evaluation.metrics.depth import depth_scores
from urgt_jax.evaluation.metrics.normals import Pooled, agreement, normal_scores, true_normals
from urgt_jax.evaluation.metrics.protocol import Alignment, Protocol, Truth, align, to_metres
from urgt_jax.evaluation.metrics.seams import consistency, consistency_windows, seams

__all__ = [
    "Alignment",
    "Pooled",
    "Protocol",
    "Truth",
    "agreement",
    "align",
    "consistency",
    "consistency_windows",
    "depth_scores",
    "normal_scores",
    "seams",
    "to_metres",
    "true_normals",
]
