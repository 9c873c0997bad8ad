"""Attention: kernels against plain sums, whose they are, and what devices exchange for them."""

import re
from collections import Counter
from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from urgt_jax.config import Config, Mesh
from urgt_jax.models import attention
from urgt_jax.models.layers import POLICIES
from urgt_jax.models.placement import SINGLE_DEVICE
from urgt_jax.training import sharding

CASES = {  # kernel, size of a head, dtype, and blocks of keys up to which gradients are one kernel
    "dense": (attention.DENSE, 24, "float32", 4),
    "dense in halves": (attention.DENSE, 24, "bfloat16", 4),
    "by chunk": (attention.BY_CHUNK, 24, "float32", 4),
    "by chunk in halves": (attention.BY_CHUNK, 24, "bfloat16", 4),
    "by head": (attention.BY_HEAD, 24, "float32", 4),
    "splash": (attention.SPLASH, 64, "float32", 0),
    "splash in halves": (attention.SPLASH, 64, "bfloat16", 4),
}
# As a share of the largest value: a sum's in float32, and about one number's in bfloat16.
ROUNDING = {"float32": 4e-6, "bfloat16": 1e-2}
EXCHANGES = "all-to-all", "all-gather", "reduce-scatter", "all-reduce", "collective-permute"
P = jax.sharding.PartitionSpec


@pytest.fixture
def small(monkeypatch):
    """Lengths of a few hundred tokens are long, and a TPU's kernel runs here."""
    monkeypatch.setattr(attention, "MAX_DENSE", 100)
    monkeypatch.setattr(attention, "QUERY_CHUNK", 64)
    monkeypatch.setattr(attention, "BLOCKS", (128,))
    monkeypatch.setattr(attention, "INTERPRET", True)


def _draw(queries: int, keys: int, size: int, dtype: str) -> list[jax.Array]:
    """Queries, keys, values and a gradient, of which some rows attend to almost one key."""
    rng = np.random.default_rng(0)
    drawn = [rng.standard_normal((2, n, 2, size)) for n in (queries, keys, keys, queries)]
    drawn[0][:, ::3] *= 4
    return [jnp.asarray(x, dtype) for x in drawn]


def _plain(q, k, v, gradient) -> list[np.ndarray]:
    """Output and gradients by the definition, in float64."""
    q, k, v, gradient = (np.asarray(x, np.float64) for x in (q, k, v, gradient))
    scale = q.shape[-1] ** -0.5
    scores = np.einsum("bnhd,bmhd->bhnm", q, k) * scale
    share = np.exp(scores - scores.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    of_share = np.einsum("bnhd,bmhd->bhnm", gradient, v)
    of_scores = share * (of_share - (of_share * share).sum(-1, keepdims=True)) * scale
    return [
        np.einsum("bhnm,bmhd->bnhd", share, v),
        np.einsum("bhnm,bmhd->bnhd", of_scores, k),
        np.einsum("bhnm,bnhd->bmhd", of_scores, q),
        np.einsum("bhnm,bnhd->bmhd", share, gradient),
    ]


@pytest.mark.parametrize("case", CASES)
def test_every_kernel_is_plain_attention_within_its_rounding(small, monkeypatch, case):
    kernel, size, dtype, fused = CASES[case]
    monkeypatch.setattr(attention, "FUSED", fused)
    q, k, v, gradient = _draw(130, 150, size, dtype)  # neither is a multiple of a block

    def all_five(q, k, v, gradient):
        out, pull = jax.vjp(kernel.attend, q, k, v)
        return kernel.attend(q, k, v), out, *pull(gradient)

    wanted = _plain(q, k, v, gradient)
    found = jax.jit(all_five)(q, k, v, gradient)
    for a, b in zip(found, (wanted[0], *wanted), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(a, np.float64), b, rtol=0, atol=ROUNDING[dtype] * np.abs(b).max()
        )


def _lowered(platform: str, dtype: str, size: int, tokens: int, policy: str = "") -> str:
    """A training step's loop over blocks that are attention only, as text for a platform."""

    def block(x, _):
        return attention.attention(x, x + 1, x + 2), None

    if policy:
        block = jax.checkpoint(block, prevent_cse=False, policy=POLICIES[policy])
    loss = lambda x: jax.lax.scan(block, x, length=3)[0].sum()  # noqa: E731
    shape = jax.ShapeDtypeStruct((1, tokens, 2, size), dtype)
    return jax.jit(jax.grad(loss)).trace(shape).lower(lowering_platforms=(platform,)).as_text()


def _kernels(text: str) -> dict[str, int]:
    """How often the special kernels are called."""
    calls = {"splash": 'kernel_name = "splash', "cuDNN": "custom_call @__cudnn"}
    return {name: len(re.findall(call, text)) for name, call in calls.items() if call in text}


@pytest.fixture
def with_cudnn(monkeypatch):
    """As on a machine with an H100, whose cuDNN JAX asks while it traces."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    monkeypatch.setattr(attention, "_cudnn_is_here", lambda: True)
    version = SimpleNamespace(cudnn_get_version=lambda: 91000)
    monkeypatch.setattr(fused, "cuda_versions", version)


@pytest.mark.parametrize(
    "platform,dtype,size,tokens,name",
    [
        ("tpu", "bfloat16", 64, 1374, "splash"),
        ("tpu", "bfloat16", 24, 1374, "blockwise"),
        ("tpu", "bfloat16", 64, 1024, "dense"),
        ("cuda", "bfloat16", 64, 1374, "cuDNN"),
        ("cuda", "bfloat16", 64, 1029, "blockwise"),
        ("cuda", "float32", 64, 1374, "blockwise"),
        ("cpu", "bfloat16", 64, 1374, "blockwise"),
    ],
)
def test_the_code_for_a_platform_calls_the_kernel_that_is_told(
    with_cudnn, platform, dtype, size, tokens, name
):
    text = _lowered(platform, dtype, size, tokens)
    told = attention.kernel_name(platform, dtype, size, tokens)
    assert told == name
    assert list(_kernels(text)) == [name] * (name in ("splash", "cuDNN"))
    whole = f"tensor<1x2x{tokens}x{tokens}xf32>"
    assert (whole in text) == (name == "dense")


def test_devices_call_cuda_gpu(with_cudnn):
    assert attention.kernel_name("gpu", "bfloat16", 64, 1374) == "cuDNN"


def test_where_no_cudnn_can_be_asked_attention_on_cuda_is_blockwise(monkeypatch):
    monkeypatch.setattr(jax, "devices", Mock(side_effect=RuntimeError("no such backend")))
    attention._cudnn_is_here.cache_clear()
    assert attention.kernel_name("cuda", "bfloat16", 64, 1374) == "blockwise"


@pytest.mark.parametrize("policy,calls", [("blocks", 3), ("attention", 2)])
def test_where_attention_is_kept_it_is_not_computed_again(policy, calls):
    text = _lowered("tpu", "bfloat16", 64, 1374, policy)
    assert _kernels(text) == {"splash": calls}


def test_a_loop_keeps_nothing_of_kernels_that_are_not_compiled():
    text = _lowered("tpu", "float32", 64, 1374)
    kept = re.findall(r"tensor<3x([\dx]+)xf32>", text)  # of each of the loop's three blocks
    assert set(kept) == {"1x1374x2x64", "1x2x1374"}


def test_blocks_are_the_largest_that_pad_least():
    assert [attention._block(n) for n in (1374, 4 * 1374, 16 * 1374)] == [768, 512, 512]
    assert attention._block(2048) == 1024


@pytest.mark.parametrize(
    "heads,shards,moves",
    [
        (4, 4, {"all-to-all": 8}),  # queries, keys, values and output, and the gradient of each
        (2, 4, {"all-to-all": 8, "all-gather": 2, "reduce-scatter": 2}),
        (3, 4, {"all-gather": 2, "reduce-scatter": 2}),
    ],
)
def test_devices_that_share_patches_exchange_heads_first_and_keys_second(heads, shards, moves):
    mesh = sharding.make_mesh(Config(mesh=Mesh(data=8 // shards, patch=shards)))
    own = jax.sharding.NamedSharding(mesh, P(sharding.IMAGE_AXES, "patch"))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((8 // shards, 16, heads, 8), np.float32) for _ in range(4)]
    seen = lambda q, k, v: attention.attention(q, k[:, :13], v[:, :13])  # noqa: E731

    def all_four(place, q, k, v, gradient):
        out, pull = jax.vjp(lambda *x: place.attend(seen, *x, across=True), q, k, v)
        return out, *pull(gradient)

    spread = jax.jit(partial(all_four, sharding.MeshPlacement(mesh)), in_shardings=own, out_shardings=own)
    program = spread.lower(*arrays).compile()
    assert Counter(re.findall(rf" ({'|'.join(EXCHANGES)})\(", program.as_text())) == moves
    found = program(*(jax.device_put(x, own) for x in arrays))
    for a, b in zip(found, jax.jit(partial(all_four, SINGLE_DEVICE))(*arrays), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_few_keys_of_many_queries_make_no_matrix():
    assert attention._kernel("cpu", jnp.float32, 24, 1000, 1000) is attention.DENSE
    assert attention._kernel("cpu", jnp.float32, 24, 20_000, 1000) is attention.BY_HEAD


@pytest.mark.parametrize("keys", [90, 300])  # dense, and blockwise
def test_merged_partial_attention_is_attention_to_all_keys(keys, monkeypatch):
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
    for out in both(q, k, v, bias):
        np.testing.assert_allclose(out, want, atol=2e-6)
