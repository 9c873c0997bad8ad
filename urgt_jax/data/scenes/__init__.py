"""Analytic scenes: textured, lit solids with exact depth and normals at any resolution."""

from urgt_jax.data.scenes.families import SPLITS, TRAINED, sample_scene
from urgt_jax.data.scenes.render import render
from urgt_jax.data.scenes.scene import Scene, View

__all__ = ["SPLITS", "TRAINED", "Scene", "View", "render", "sample_scene"]
