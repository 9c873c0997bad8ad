"""The refiner as a pure function of its parameters and a batch."""

import jax
import jax.numpy as jnp

from urgt_jax.images import grid
from urgt_jax.models import refiner
from urgt_jax.models.placement import current_placement

Batch = dict[str, jax.Array]


def refine_batch(model: refiner.URGT, batch: Batch) -> dict:
    """Refined maps of every patch and their confidences; a missing head leaves the coarse map."""
    depth, normal = batch["coarse_depth"], batch["coarse_normal"]
    count, tokens = depth.shape[1], model.config.tokens
    parts = _filled((batch["image"], depth, normal, batch["origins"]), count)
    spots = grid.token_positions(parts[3], tokens, tokens)
    out = model(_in_unit(parts[0]), *parts[1:3], spots, count, batch.get("owner"))
    out = jax.tree.map(lambda x: x[:, :count], out)
    result = {"depth": depth, "normal": normal}
    if "depth" in out:
        result["depth"] = depth + out["depth"].value[..., 0]
        result["depth_confidence"] = out["depth"].confidence
    if "normal" in out:
        result["normal"] = normal + out["normal"].value
        result["normal_confidence"] = out["normal"].confidence
    return result


def _filled(arrays, count: int):
    """Arrays [B, P, ...] with the last patch repeated until the mesh divides their number."""
    more = current_placement().padded_count(count) - count
    pad = lambda x: jnp.pad(x, [(0, 0), (0, more)] + [(0, 0)] * (x.ndim - 2), "edge")  # noqa: E731
    return tuple(current_placement().shard_tokens(pad(x) if more else x) for x in arrays)


def _in_unit(image: jax.Array) -> jax.Array:
    """A picture of 8 bits as numbers in [0, 1]."""
    scale = 255.0 if image.dtype == jnp.uint8 else 1.0
    return image.astype(jnp.float32) / scale
