"""What a refiner of any size costs, and how cost and quality grow with the number of patches."""

from urgt_jax.scaling.command import main

__all__ = ["main"]
