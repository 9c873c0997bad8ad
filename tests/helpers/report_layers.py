"""Layers of small images for tests of the report."""

import numpy as np

from urgt_jax.evaluation.report import Layers

SHAPE = (40, 60)
CANDIDATES = ("coarse", "refined")


def layers_with_known_errors(shape=SHAPE, normals=True, seed=0) -> Layers:
    """An image whose refined maps are true, and whose coarse ones err by 10 % and 22.5°."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.1, 1, shape).astype(np.float32)
    facing = np.broadcast_to(np.float32([0, 0, -1]), (*shape, 3))
    tilted = np.float32([np.sin(np.pi / 8), 0, -np.cos(np.pi / 8)])
    normal = {"coarse": np.broadcast_to(tilted, facing.shape), "refined": facing, "truth": facing}
    return Layers(
        image=rng.integers(0, 256, (*shape, 3), np.uint8),
        depth={"coarse": truth * np.float32(1.1), "refined": truth, "truth": truth},
        normal=normal if normals else {},
        valid=np.ones(shape, bool),
        normal_valid=np.ones(shape, bool),
    )


def scores_of(abs_rel: float, angle=np.nan, **depth_scores) -> dict:
    """Scores of one candidate."""
    return {"depth": {"abs_rel": abs_rel, **depth_scores}, "normal": {"mean": angle}}


def scores_of_both(coarse: float, refined: float, **depth_scores) -> dict:
    """Scores of both candidates, from their AbsRel."""
    return {
        "coarse": scores_of(coarse, **depth_scores),
        "refined": scores_of(refined, **depth_scores),
    }
