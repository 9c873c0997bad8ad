"""Pictures of any size: strips against whole maps, streamed attention against all at once."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from urgt_jax.errors import UserError
from urgt_jax.images import grid
from urgt_jax.images import rows as rows_module
from urgt_jax.images.geometry import unit_normals
from urgt_jax.inference import modes, offload
from urgt_jax.inference import refiner as inference
from urgt_jax.inference.image_files import save
from urgt_jax.inference.refiner import Refiner, Result
from urgt_jax.inference.stages import jit_stages
from urgt_jax.models import attention
from urgt_jax.models.pooling import Cells
from urgt_jax.models.refiner import SPECIAL_TOKENS
from urgt_jax.models.registry import abstract_params


def test_what_fails_half_way_leaves_no_file(tmp_path):
    def strips():
        yield slice(0, 4), Result(np.ones((4, 9)), np.ones((4, 9, 3)), None, None)
        raise UserError("the weights are damaged")

    with pytest.raises(UserError, match="damaged"):
        save(strips(), (8, 9), (8, 9), tmp_path / "photo", metric=False)
    assert not list(tmp_path.iterdir())


def picture(size, seed=0):
    """A picture with coarse maps."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    return image, rng.random(size, np.float32), rng.random((*size, 3), np.float32) - 0.4


@pytest.fixture(scope="module")
def params(micro):
    """Weights drawn quickly."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.uniform(-0.3, 0.3, x.shape).astype(np.float32),
        abstract_params(micro.model),
    )


@pytest.mark.parametrize("way", ["exact", "official"])
def test_a_call_is_its_strips(micro, params, way, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "ROWS_AT_ONCE", 7)
    refiner = Refiner(params, replace(micro, eval=replace(micro.eval, fidelity=way)))
    image, depth, normal = picture((41, 67))
    np.save(tmp_path / "depth.npy", depth)
    mapped = np.load(tmp_path / "depth.npy", mmap_mode="r")
    strips = list(refiner.strips(image, mapped, normal, (2, 3)))
    assert len(strips) > 1 or way == "official"  # which is resized to the picture's size
    apart = zip(*[x for _, x in strips], strict=True)
    for found, parts in zip(refiner(image, depth, normal, (2, 3)), apart, strict=True):
        np.testing.assert_array_equal(found, np.concatenate(parts))


def test_windows_see_maps_as_they_are_made_whole(micro):
    way = modes.ExactMode(micro)
    image, depth, normal = picture((41, 67))
    maps, windows = way.prepare(image, 7 * depth + 3, normal), grid.cover_image(41, 67, 2, 3, 0.3)
    disparity = (7 * depth + 3 - maps.unit.low) / np.float32(maps.unit.scale)
    plain = modes.RefinerInputs(image, disparity, unit_normals(normal))
    for k in range(windows.count):
        for a, b in zip(way.cut(maps, windows, k), way.cut(plain, windows, k), strict=True):
            np.testing.assert_array_equal(a, b)
    assert maps.depth[:, :].min() == 0 and maps.depth[:, :].max() == 1


ROUNDING = {"float32": 1e-5, "bfloat16": 2e-2}  # as a share of the largest value


@pytest.mark.parametrize(
    "resident,pool,changes",
    [
        (2, 2, {}),
        pytest.param(2, 1, {}, marks=pytest.mark.slow),
        pytest.param(4, 1, {"dtype": "bfloat16", "rope": "local"}, marks=pytest.mark.slow),
        (2, 2, {"cross_patch": False}),
    ],
)
def test_streamed_attention_is_attention(micro, params, resident, pool, changes):
    model = replace(micro.model, **changes)
    windows = grid.cover_image(60, 90, 1, 5)  # the last chunk is padded
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((5, 6, model.width)).astype(jnp.dtype(model.dtype))
    spots = np.asarray(grid.token_positions(windows.origins, windows.patch, model.tokens))
    want = jit_stages(model, pool).attend(params, tokens[None], spots[None])
    shares = []
    found = offload.attend(params, model, tokens, spots, resident, pool, shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    assert found.shape == (len(want), *want.shape[2:])
    for a, b in zip(found, want, strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float32), np.asarray(b[0], np.float32)
        np.testing.assert_allclose(a, b, atol=ROUNDING[model.dtype] * np.abs(b).max())


def test_a_refiner_streams_where_patches_do_not_fit(micro, params, monkeypatch):
    maps = picture((41, 67))
    whole = Refiner(params, micro)(*maps, grid=(2, 3))
    by_hand = Refiner(params, micro, resident=2)(*maps, grid=(2, 3))
    np.testing.assert_allclose(by_hand.normal, whole.normal, atol=1e-5)
    np.testing.assert_allclose(by_hand.depth_confidence, whole.depth_confidence, atol=1e-4)
    of_one = offload.HELD * (SPECIAL_TOKENS + 6) * micro.model.width * 4 / offload.SHARE
    for fits, resident in [(6.5, None), (5.5, 1), (0.1, 1)]:
        monkeypatch.setattr(offload, "_free", lambda fits=fits: fits * of_one)
        assert offload.resident(micro.model, 6) == resident


def test_all_is_done_when_the_last_heads_are_and_not_before(micro, params, monkeypatch):
    monkeypatch.setattr(inference, "chunk_of", lambda *_: 1)
    told = []
    refiner = Refiner(params, micro)
    refiner(*picture((41, 67)), grid=(15, 15), progress=lambda done, count: told.append(done))
    assert told == sorted(told) and told.index(100) == len(told) - 1


def test_free_memory_is_some_of_the_machines():
    assert 1e7 < offload._free() < 1e14


@pytest.mark.parametrize("keys", [90, 300])  # dense, and blockwise
def test_parts_of_attention_make_the_whole(keys, monkeypatch):
    monkeypatch.setattr(attention, "MAX_DENSE", 100)
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.standard_normal((1, n, 2, 8)), jnp.float32) for n in (40, keys, keys)
    )
    bias = jnp.asarray(rng.standard_normal(keys), jnp.float32)
    third = keys // 3

    @jax.jit
    def both(q, k, v, bias):
        first = attention.partial_attention(q, k[:, :third], v[:, :third], bias[:third])
        second = attention.partial_attention(q, k[:, third:], v[:, third:], bias[third:])
        return attention.merge_attention(first, second)[0], attention.biased_attention(
            q, k, v, bias
        )

    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k) / 8**0.5 + bias
    want = jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(scores), v)
    for found in both(q, k, v, bias):
        np.testing.assert_allclose(found, want, atol=2e-6)


@pytest.mark.parametrize("side", [3, 9])
def test_pooling_is_exact_where_the_tokens_of_a_cell_are_alike(side):
    cells, rng = Cells(2, (4, 5), side), np.random.default_rng(0)
    assert cells.sizes.sum() == 2 + 20 and len(cells.sizes) == 2 + cells.shape[0] * cells.shape[1]
    rows, cols = np.indices((4, 5)) // side
    which = np.append([0, 1], 2 + rows * cells.shape[1] + cols)
    q = jnp.asarray(rng.standard_normal((1, 3 * 22, 2, 8)), jnp.float32)
    k, v = (
        jnp.asarray(rng.standard_normal((3, len(cells.sizes), 2, 8)), jnp.float32)[:, which]
        for _ in range(2)
    )
    k, v = (x.reshape(1, 3 * 22, 2, 8) for x in (k, v))
    want = attention.attention(q, k[:, :44], v[:, :44])  # of which two patches are seen
    found = jax.jit(partial(cells.attend, patches=2))(q, k, v)
    np.testing.assert_allclose(found, want, atol=3e-6)
