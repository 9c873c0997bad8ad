"""Studies of cost and quality, as tests run them."""

from urgt_jax.commands import scale
from urgt_jax.scaling.study import Point


def make_point(
    what="flops", patches=4, mesh="patch=1", resolution="", size="tiny", remat=""
) -> Point:
    """A point of a study in float32."""
    return Point(what, size, resolution, patches, mesh, "float32", remat, 1)


def run_study(*options) -> None:
    """Runs `urgt scale`."""
    scale.main([str(option) for option in options])
