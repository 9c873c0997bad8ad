"""Analytic scenes: textured, lit solids with exact depth and normals at any resolution."""

from urgt_jax.data.scenes.families import DEGRADATION_SEEDS, SPLITS, TRAINED, sample_scene
from urgt_jax.data.scenes.render import render
from urgt_jax.data.scenes.scene import Scene, View

__all__ = ["DEGRADATION_SEEDS", "SPLITS", "TRAINED", "Scene", "View", "render", "sample_scene"]
