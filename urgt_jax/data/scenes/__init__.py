"""Analytic scenes: textured, lit solids with exact depth and normals at any resolution."""

from urgt_jax.data.scenes.families import SPLITS, sample_scene
from urgt_jax.data.scenes.render import Scene, View, render

__all__ = ["SPLITS", "Scene", "View", "render", "sample_scene"]
