"""Train with a loss of your own: python examples/own_loss.py WORKDIR [CONFIG [STEPS]]

The loss adds a term to the configured one: the error of depth at depth edges, where coarse maps are
blurred. Its terms are in WORKDIR/metrics.jsonl. Run the same command again to resume.
"""

import sys

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

import urgt_jax
from urgt_jax.config_files import load_config, with_changes

WEIGHT = 5.0  # of the error at edges
EDGE = 0.02  # difference of the true depth to the pixel at the right or below, in its own unit


def depth_edges(
    depth: Float[Array, "B P H W"], valid: Bool[Array, "B P H W"]
) -> Bool[Array, "B P H W"]:
    """Pixels whose true depth differs from that at the right or below; the last ones do not."""
    right = jnp.abs(jnp.diff(depth, axis=3)) > EDGE
    below = jnp.abs(jnp.diff(depth, axis=2)) > EDGE
    right &= valid[..., :-1] & valid[..., 1:]
    below &= valid[..., :-1, :] & valid[..., 1:, :]
    right = jnp.pad(right, [(0, 0), (0, 0), (0, 0), (0, 1)])
    below = jnp.pad(below, [(0, 0), (0, 0), (0, 1), (0, 0)])
    return right | below


def main(workdir: str, config: str = "tiny", steps: str = "600") -> urgt_jax.State:
    """Train, or resume; returns the last state."""
    settings = with_changes(load_config(config), {"optim.steps": int(steps)})

    def loss(
        maps: urgt_jax.Maps, batch: urgt_jax.TrainingBatch
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        configured, terms = urgt_jax.losses(settings, maps, batch)
        edges = depth_edges(batch["target"], batch["valid"])
        error = jnp.where(edges, jnp.abs(maps["depth"] - batch["target"]), 0).sum()
        edge_error = error / jnp.maximum(edges.sum(), 1)
        return configured + WEIGHT * edge_error, {**terms, "edge_error": edge_error}

    return urgt_jax.train(settings, workdir, loss=loss, report=print)


if __name__ == "__main__":
    main(*sys.argv[1:])
