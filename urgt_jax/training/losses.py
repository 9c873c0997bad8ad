"""The training loss: the paper's terms and the terms that go beyond it, as a weighted sum."""

from collections.abc import Callable
from typing import NamedTuple, NotRequired

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from urgt_jax.config import Config
from urgt_jax.images.geometry import normals_from_depth
from urgt_jax.models.apply import Batch, Maps
from urgt_jax.training import loss_terms

Counts = dict[str, jax.Array]
Terms = dict[str, Float[Array, ""]]

DEPTH_ERRORS = {
    "squared": loss_terms.mean_squared_error,
    "relative": loss_terms.mean_relative_error,
}
NORMAL_ERRORS = {
    "cosine": loss_terms.angular_loss,
    "distance": loss_terms.mean_normal_distance,
}
PAPER_TERMS = ("depth", "gradient", "angular", "alignment")
TERMS = (*PAPER_TERMS, "seam", "depth_confidence_loss", "normal_confidence_loss")


class TrainingBatch(Batch):
    """A batch of training: patches of B images, P of each, with their ground truth."""

    target: Float[Array, "B P H W"]  # true depth in the unit of the coarse depth, 0 where unknown
    valid: Bool[Array, "B P H W"]  # pixels with a known depth
    normal: NotRequired[Float[Array, "B P H W 3"]]  # with loss.normal_target exact
    depth: NotRequired[Float[Array, "B P H W"]]  # metres, with loss.normal_target pseudo
    intrinsics: NotRequired[Float[Array, "B P 4"]]  # pixels, with loss.normal_target pseudo


class SharedPixels(NamedTuple):
    """The values that two overlapping patches have for the pixels that both cover."""

    first: Float[Array, "*B"]
    second: Float[Array, "*B"]
    valid: Bool[Array, "*B"]  # in both patches


LossFunction = Callable[[Maps, TrainingBatch], tuple[Float[Array, ""], Terms]]


def losses(config: Config, maps: Maps, batch: TrainingBatch) -> tuple[Float[Array, ""], Terms]:
    """The loss of a training batch that the configuration describes, and its unweighted terms."""
    terms = compute_terms(config, maps, batch, valid_counts(config, batch))
    return weighted_sum(config, terms), terms


def compute_terms(config: Config, maps: Maps, batch: TrainingBatch, counts: Counts) -> Terms:
    """All terms that the configuration has weights for, unweighted.

    `counts` are those of the whole batch, also for a part of it: the terms of the parts add up.
    """
    terms: Terms = {}
    if "depth" in config.model.outputs:
        terms |= _depth_terms(config, maps, batch, counts)
    if "normal" in config.model.outputs:
        terms |= _normal_terms(config, maps, batch, counts)
    if config.loss.seam:
        terms["seam"] = _seam_term(config, maps, batch, counts)
    return terms


def weighted_sum(config: Config, terms: Terms) -> Float[Array, ""]:
    """depth (error + gradient) + normal (angular + alignment) + the terms beyond the paper."""
    loss = config.loss
    weights = {
        "depth": loss.depth,
        "gradient": loss.depth * loss.gradient,
        "angular": loss.normal,
        "alignment": loss.normal * loss.alignment,
        "seam": loss.seam,
        "depth_confidence_loss": loss.confidence,
        "normal_confidence_loss": loss.confidence,
    }
    return sum(weights[name] * term for name, term in terms.items())


def image_errors(config: Config, maps: Maps, batch: TrainingBatch) -> Float[Array, "E"]:
    """Mean squared error of the maps of each image, or of each patch if images are packed."""

    def each(error: Callable) -> Callable:
        per_row = jax.vmap(error)
        return jax.vmap(per_row) if "owner" in batch else per_row

    errors = 0.0
    if "depth" in config.model.outputs:
        squared_error = each(loss_terms.mean_squared_error)
        errors += squared_error(maps["depth"], batch["target"], batch["valid"])
    if "normal" in config.model.outputs:
        normal, valid = true_normals(config, batch)
        errors += each(loss_terms.alignment_loss)(maps["normal"], normal, valid)
    return errors.ravel()


def valid_counts(config: Config, batch: TrainingBatch) -> Counts:
    """The numbers of pixels, of pairs of pixels and of normals that the terms average over."""
    counts = {
        "depth": batch["valid"].sum(),
        "gradient": loss_terms.count_pairs(batch["valid"]),
    }
    if "normal" in config.model.outputs:
        _, valid = true_normals(config, batch)
        counts["normal"] = valid.sum()
    if config.loss.seam:
        overlaps = overlapping_pixels(batch["target"], batch["valid"], config.data.overlap)
        counts["seam"] = sum(shared.valid.sum() for shared in overlaps)
    return counts


def true_normals(
    config: Config, batch: TrainingBatch
) -> tuple[Float[Array, "B P H W 3"], Bool[Array, "B P H W"]]:
    """The target normals, and where they are defined."""
    if config.loss.normal_target == "pseudo":
        return normals_from_depth(batch["depth"], batch["intrinsics"], batch["valid"])
    return batch["normal"], batch["valid"]


def _depth_terms(config: Config, maps: Maps, batch: TrainingBatch, counts: Counts) -> Terms:
    depth = maps["depth"]
    target = batch["target"]
    valid = batch["valid"]
    depth_error = DEPTH_ERRORS[config.loss.depth_error]
    terms = {
        "depth": depth_error(depth, target, valid, counts["depth"]),
        "gradient": loss_terms.gradient_matching(depth, target, valid, counts["gradient"]),
    }
    if config.loss.confidence:
        error = loss_terms.relative_error(depth, target)
        terms["depth_confidence_loss"] = loss_terms.confidence_loss(
            maps["depth_confidence"], error, valid, counts["depth"]
        )
    return terms


def _normal_terms(config: Config, maps: Maps, batch: TrainingBatch, counts: Counts) -> Terms:
    normal = maps["normal"]
    target, valid = true_normals(config, batch)
    count = counts["normal"]
    normal_error = NORMAL_ERRORS[config.loss.normal_error]
    terms = {
        "angular": normal_error(normal, target, valid, count),
        "alignment": loss_terms.alignment_loss(normal, target, valid, count),
    }
    if config.loss.confidence:
        error = loss_terms.normal_distance(normal, target)
        terms["normal_confidence_loss"] = loss_terms.confidence_loss(
            maps["normal_confidence"], error, valid, count
        )
    return terms


def _seam_term(
    config: Config, maps: Maps, batch: TrainingBatch, counts: Counts
) -> Float[Array, ""]:
    """Mean absolute difference of the depths that overlapping patches predict for a pixel."""
    total = jnp.zeros((), jnp.float32)
    for shared in overlapping_pixels(maps["depth"], batch["valid"], config.data.overlap):
        difference = jnp.abs(shared.first - shared.second)
        total = total + loss_terms.masked_mean(difference, shared.valid, counts["seam"])
    return total


def overlapping_pixels(
    x: Float[Array, "B P H W"], valid: Bool[Array, "B P H W"], overlap: float
) -> tuple[SharedPixels, SharedPixels]:
    """The shared pixels of patches side by side, and of patches one below the other.

    The patches of an image are an M x M block whose neighbours share the fraction `overlap`.
    """
    images, patches, height, width = x.shape
    m = round(patches**0.5)
    x = x.reshape(images, m, m, height, width)
    valid = valid.reshape(images, m, m, height, width)

    left = round(width * (1 - overlap))  # the first column that the patch to the right covers too
    beside = SharedPixels(
        first=x[:, :, :-1, :, left:],
        second=x[:, :, 1:, :, : width - left],
        valid=valid[:, :, :-1, :, left:] & valid[:, :, 1:, :, : width - left],
    )
    top = round(height * (1 - overlap))  # the first row that the patch below covers too
    below = SharedPixels(
        first=x[:, :-1, :, top:],
        second=x[:, 1:, :, : height - top],
        valid=valid[:, :-1, :, top:] & valid[:, 1:, :, : height - top],
    )
    return beside, below
