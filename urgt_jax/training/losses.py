"""What training minimises: the paper's loss of refined maps, and terms that go beyond it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from urgt_jax.config import Config
from urgt_jax.images.geometry import normals_from_depth
from urgt_jax.training import loss_terms

Batch = dict[str, jax.Array]
Maps = dict[str, jax.Array]  # refined ones of every patch, and their confidences
Terms = dict[str, jax.Array]
ERRORS = {"squared": loss_terms.mean_squared_error, "relative": loss_terms.mean_relative_error}
ANGLES = {"cosine": loss_terms.angular_loss, "distance": loss_terms.mean_normal_distance}
TERMS = (
    "depth", "gradient", "angular", "alignment",  # the paper's
    "seam", "depth_confidence_loss", "normal_confidence_loss",
)  # fmt: skip
NEAREST = 1e-3  # metres; depth's normals are not looked for nearer


class SharedPixels(NamedTuple):
    """What two neighbouring patches say of the pixels that both see."""

    one: Float[Array, "*B"]
    other: Float[Array, "*B"]
    valid: Bool[Array, "*B"]


def compute_terms(config: Config, maps: Maps, batch: Batch, counts: dict) -> Terms:
    """All terms that the configuration weights, unweighted.

    They are means over the `counts` of a whole batch: those of its parts add up.
    """
    found: Terms = {}
    if "depth" in config.model.outputs:
        found |= _of_depth(config, maps, batch, counts)
    if "normal" in config.model.outputs:
        found |= _of_normals(config, maps, batch, counts)
    if config.loss.seam:
        seen = _shared(maps["depth"], batch["valid"], config.data.overlap)
        found["seam"] = sum(
            loss_terms.masked_mean(jnp.abs(one - other), valid, counts["seam"])
            for one, other, valid in seen
        )
    return found


def weighted_sum(config: Config, terms: Terms) -> jax.Array:
    """L = depth (error + gradient) + normal (angular + alignment), and what goes beyond it."""
    c = config.loss
    weights = {
        "depth": c.depth,
        "gradient": c.depth * c.gradient,
        "angular": c.normal,
        "alignment": c.normal * c.alignment,
        "seam": c.seam,
        "depth_confidence_loss": c.confidence,
        "normal_confidence_loss": c.confidence,
    }
    return sum(weights[name] * term for name, term in terms.items())


def image_errors(config: Config, maps: Maps, batch: Batch) -> Float[Array, "E"]:
    """Mean squared error of the maps of each image, or packed of each patch."""
    each = jax.vmap if "owner" not in batch else lambda error: jax.vmap(jax.vmap(error))
    found = 0.0
    if "depth" in config.model.outputs:
        found += each(loss_terms.mean_squared_error)(maps["depth"], batch["target"], batch["valid"])
    if "normal" in config.model.outputs:
        found += each(loss_terms.alignment_loss)(maps["normal"], *true_normals(config, batch))
    return found.ravel()


def valid_counts(config: Config, batch: Batch) -> dict[str, jax.Array]:
    """How many pixels, pairs of pixels and normals the terms are means over."""
    found = {"depth": batch["valid"].sum(), "gradient": loss_terms.count_pairs(batch["valid"])}
    if "normal" in config.model.outputs:
        found["normal"] = true_normals(config, batch)[1].sum()
    if config.loss.seam:
        seen = _shared(batch["target"], batch["valid"], config.data.overlap)
        found["seam"] = sum(both.valid.sum() for both in seen)
    return found


def true_normals(config: Config, batch: Batch):
    """The normals' target and where it is defined."""
    if config.loss.normal_target == "pseudo":
        return normals_from_depth(batch["depth"], batch["intrinsics"], batch["valid"])
    return batch["normal"], batch["valid"]


def _of_depth(config: Config, maps: Maps, batch: Batch, counts: dict) -> Terms:
    sides = maps["depth"], batch["target"]
    found = {
        "depth": ERRORS[config.loss.depth_error](*sides, batch["valid"], counts["depth"]),
        "gradient": loss_terms.gradient_matching(*sides, batch["valid"], counts["gradient"]),
    }
    if config.loss.confidence:
        sure, error = maps["depth_confidence"], loss_terms.relative_error(*sides)
        found["depth_confidence_loss"] = loss_terms.confidence_loss(
            sure, error, batch["valid"], counts["depth"]
        )
    return found


def _of_normals(config: Config, maps: Maps, batch: Batch, counts: dict) -> Terms:
    target, known = true_normals(config, batch)
    sides = maps["normal"], target, known, counts["normal"]
    angle = ANGLES[config.loss.normal_error]
    found = {"angular": angle(*sides), "alignment": loss_terms.alignment_loss(*sides)}
    if config.loss.confidence:
        sure, error = maps["normal_confidence"], loss_terms.normal_distance(*sides[:2])
        found["normal_confidence_loss"] = loss_terms.confidence_loss(
            sure, error, known, counts["normal"]
        )
    return found


def _shared(
    x: Float[Array, "B P H W"], valid: Bool[Array, "B P H W"], overlap: float
) -> list[SharedPixels]:
    """What neighbouring windows of a block both see, side by side and one below the other."""
    m = round(x.shape[1] ** 0.5)
    grid = lambda y: y.reshape(y.shape[0], m, m, *y.shape[2:])  # noqa: E731
    (h, w), x, valid = x.shape[2:], grid(x), grid(valid)
    high, wide = (round(side * (1 - overlap)) for side in (h, w))
    ways = (
        (np.s_[:, :, :-1, :, wide:], np.s_[:, :, 1:, :, : w - wide]),
        (np.s_[:, :-1, :, high:], np.s_[:, 1:, :, : h - high]),
    )
    return [SharedPixels(x[a], x[b], valid[a] & valid[b]) for a, b in ways]
