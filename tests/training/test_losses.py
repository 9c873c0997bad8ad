"""Terms beyond the paper's loss: they are least for the truth, and see what they are meant to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from urgt_jax.config import Config
from urgt_jax.config_files import with_changes
from urgt_jax.data import gridmix
from urgt_jax.data.sources import SceneSource
from urgt_jax.errors import UserError
from urgt_jax.images import grid
from urgt_jax.training import losses


@pytest.fixture(scope="module")
def joint(micro) -> Config:
    """Pictures whose patches need no resizing; neighbours share halves, and both terms count."""
    fields = {"data.size": (112, 168), "data.overlap": 0.5, "loss.normal_target": "exact"}
    return with_changes(micro, fields | {"loss.seam": 1.0})


@pytest.fixture(scope="module")
def seen(joint) -> dict:
    """A block of a scene, and the truth as its refined maps."""
    windows = grid.gridmix_block(*joint.data.size, 3, 1, 2, joint.data.overlap)
    batch = gridmix.read_block(SceneSource(joint, "train"), 3, joint, windows)
    return {name: jnp.asarray(x)[None] for name, x in batch.items()}


def _terms(config: Config, batch: dict, depth, normal) -> dict:
    maps = {"depth": depth, "normal": normal}
    return losses.compute_terms(config, maps, batch, losses.valid_counts(config, batch))


def test_all_terms_are_least_where_maps_are_the_truth(joint, seen):
    best = _terms(joint, seen, seen["target"], seen["normal"])
    assert best["depth"] == best["gradient"] == best["seam"] == 0
    noisy = seen["target"] + 0.05 * np.random.default_rng(0).random(
        seen["target"].shape, np.float32
    )
    worse = _terms(joint, seen, noisy, seen["normal"])
    assert worse["depth"] > 0 and worse["gradient"] > 0 and worse["seam"] > 0


def test_a_patch_that_is_off_differs_from_its_neighbours_by_as_much(joint, seen):
    everywhere = {**seen, "valid": jnp.ones_like(seen["valid"])}
    middle = seen["target"].at[:, 4].add(0.25)  # the middle of 3 x 3 has four of twelve borders
    found = _terms(joint, everywhere, middle, seen["normal"])["seam"]
    assert float(found) == pytest.approx(0.25 * 4 / 12, rel=1e-5)
    alone = {name: x[:, :1] for name, x in everywhere.items()}
    assert _terms(joint, alone, middle[:, :1], seen["normal"][:, :1])["seam"] == 0


@pytest.mark.parametrize("angle,wanted", [("cosine", 1.0), ("distance", 2.0**0.5)])
def test_normals_that_are_square_to_the_truth_are_off_by_either_angular_term(
    joint, seen, angle, wanted
):
    square = jnp.cross(seen["normal"], jnp.array([0.3, 0.5, 0.2]))
    chosen = with_changes(joint, {"loss.normal_error": angle})
    found = _terms(chosen, seen, seen["target"], square)["angular"]
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_gradients_are_finite_also_where_nothing_is_valid(joint, seen):
    def loss(depth, normal, batch):
        return losses.weighted_sum(joint, _terms(joint, batch, depth, normal))

    for valid in (seen["valid"], seen["valid"] & False):
        for flat in (seen["target"], 0 * seen["target"]):
            given = flat, seen["normal"], {**seen, "valid": valid}
            assert all(np.isfinite(g).all() for g in jax.grad(loss, (0, 1))(*given))


def test_blocks_of_patches_that_share_halves_lie_anywhere_in_the_picture(joint):
    rng, size = np.random.default_rng(0), joint.data.size
    blocks = [gridmix.draw_windows(size, joint, 2, rng) for _ in range(200)]
    assert {b.tops for b in blocks} == {(14 * k, 14 * k + 14) for k in range(6)}
    assert {b.patch for b in blocks} == {(28, 42)}


@pytest.mark.parametrize(
    "fields,named",
    [
        ({"data.overlap": 0.3}, "data.overlap 0.3"),
        ({"loss.seam": 1.0}, "data.overlap 0.5"),
        ({"loss.seam": 1.0, "data.overlap": 0.5, "data.batching": "packed"}, "loss.seam"),
        ({"loss.confidence": -1.0}, "loss.confidence -1.0 must not be negative"),
    ],
)
def test_terms_that_cannot_be_had_are_refused(micro, fields, named):
    with pytest.raises(UserError, match=named):
        with_changes(micro, fields)
