"""Attention: every kernel against the definition, and the kernel that a platform gets."""

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

# Kernel, size of a head, dtype, and most blocks of keys for which one kernel gives all gradients.
CASES = {
    "dense": (attention.DENSE, 24, "float32", 4),
    "dense in bfloat16": (attention.DENSE, 24, "bfloat16", 4),
    "blockwise": (attention.BLOCKWISE, 24, "float32", 4),
    "blockwise in bfloat16": (attention.BLOCKWISE, 24, "bfloat16", 4),
    "blockwise by head": (attention.BLOCKWISE_BY_HEAD, 24, "float32", 4),
    "splash": (attention.SPLASH, 64, "float32", 0),
    "splash in bfloat16": (attention.SPLASH, 64, "bfloat16", 4),
}
# Error relative to the largest value: of a sum in float32, and of about one number in bfloat16.
ROUNDING = {"float32": 4e-6, "bfloat16": 1e-2}
COLLECTIVES = ("all-to-all", "all-gather", "reduce-scatter", "all-reduce", "collective-permute")


@pytest.fixture
def small_blocks(monkeypatch):
    """A few hundred tokens count as a long sequence, and splash attention runs on a CPU."""
    monkeypatch.setattr(attention, "MAX_DENSE", 100)
    monkeypatch.setattr(attention, "QUERY_CHUNK", 64)
    monkeypatch.setattr(attention, "SPLASH_BLOCKS", (128,))
    monkeypatch.setattr(attention, "INTERPRET_SPLASH", True)


def draw_arrays(queries: int, keys: int, size: int, dtype: str) -> list[jax.Array]:
    """Queries, keys, values and a gradient; every third query attends to almost one key only."""
    rng = np.random.default_rng(0)
    q = rng.standard_normal((2, queries, 2, size))
    k = rng.standard_normal((2, keys, 2, size))
    v = rng.standard_normal((2, keys, 2, size))
    gradient = rng.standard_normal((2, queries, 2, size))
    q[:, ::3] *= 4
    return [jnp.asarray(x, dtype) for x in (q, k, v, gradient)]


def attention_by_definition(q, k, v, gradient) -> list[np.ndarray]:
    """Output and gradients of q, k and v, in float64."""
    q, k, v, gradient = (np.asarray(x, np.float64) for x in (q, k, v, gradient))
    scale = q.shape[-1] ** -0.5
    scores = np.einsum("bnhd,bmhd->bhnm", q, k) * scale
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    weights_gradient = np.einsum("bnhd,bmhd->bhnm", gradient, v)
    mean = (weights_gradient * weights).sum(-1, keepdims=True)
    scores_gradient = weights * (weights_gradient - mean) * scale
    return [
        np.einsum("bhnm,bmhd->bnhd", weights, v),
        np.einsum("bhnm,bmhd->bnhd", scores_gradient, k),
        np.einsum("bhnm,bnhd->bmhd", scores_gradient, q),
        np.einsum("bhnm,bnhd->bmhd", weights, gradient),
    ]


@pytest.mark.parametrize("case", CASES)
def test_every_kernel_equals_the_definition_within_its_rounding(small_blocks, monkeypatch, case):
    kernel, size, dtype, max_fused_blocks = CASES[case]
    monkeypatch.setattr(attention, "MAX_FUSED_BLOCKS", max_fused_blocks)
    # Neither number of tokens is a multiple of a block.
    assert_equals_definition(kernel, draw_arrays(130, 150, size, dtype), dtype)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
@pytest.mark.parametrize("queries,keys", [(130, 150), (129, 151), (581, 581), (2048, 2048)])
def test_cudnn_equals_the_definition_within_its_rounding(queries, keys):
    assert_equals_definition(
        attention.CUDNN, draw_arrays(queries, keys, 64, "bfloat16"), "bfloat16"
    )


def assert_equals_definition(kernel: attention.Kernel, arrays: list[jax.Array], dtype: str) -> None:
    q, k, v, gradient = arrays

    @jax.jit
    def run(q, k, v, gradient):
        output, pull_back = jax.vjp(kernel.attend, q, k, v)
        return kernel.attend(q, k, v), output, *pull_back(gradient)

    output, *gradients = attention_by_definition(q, k, v, gradient)
    wanted = [output, output, *gradients]
    for array, want in zip(run(q, k, v, gradient), wanted, strict=True):
        assert array.dtype == dtype
        atol = ROUNDING[dtype] * np.abs(want).max()
        np.testing.assert_allclose(np.asarray(array, np.float64), want, rtol=0, atol=atol)


def lower_step(platform: str, dtype: str, size: int, tokens: int, remat: str = "") -> str:
    """The gradient of a loop over three blocks that are attention only, as a platform's program."""

    def block(x, _):
        return attention.attention(x, x + 1, x + 2), None

    if remat:
        block = jax.checkpoint(block, prevent_cse=False, policy=POLICIES[remat])

    def loss(x):
        x, _ = jax.lax.scan(block, x, length=3)
        return x.sum()

    x = jax.ShapeDtypeStruct((1, tokens, 2, size), dtype)
    return jax.jit(jax.grad(loss)).trace(x).lower(lowering_platforms=(platform,)).as_text()


def count_kernel_calls(program: str) -> dict[str, int]:
    """The number of calls of kernels that are not made of plain operations."""
    calls = {
        "splash": len(re.findall('kernel_name = "splash', program)),
        "cuDNN": len(re.findall("custom_call @__cudnn", program)),
    }
    return {name: count for name, count in calls.items() if count}


@pytest.fixture
def with_cudnn(monkeypatch):
    """Tracing finds the cuDNN of a machine with an H100."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    monkeypatch.setattr(attention, "_has_cudnn_attention", lambda: True)
    version = SimpleNamespace(cudnn_get_version=lambda: 91000)
    monkeypatch.setattr(fused, "cuda_versions", version)


@pytest.mark.parametrize(
    "platform,dtype,size,tokens,name",
    [
        ("tpu", "bfloat16", 64, 1374, "splash"),
        ("tpu", "bfloat16", 24, 1374, "blockwise"),
        ("tpu", "bfloat16", 64, 1024, "dense"),
        ("cuda", "bfloat16", 64, 1374, "cuDNN"),
        ("cuda", "bfloat16", 64, 1029, "cuDNN"),
        ("cuda", "bfloat16", 64, 581, "cuDNN"),
        ("cuda", "bfloat16", 64, 33, "dense"),
        ("cuda", "float32", 64, 581, "dense"),
        ("cuda", "float32", 64, 1374, "blockwise"),
        ("cpu", "bfloat16", 64, 1374, "blockwise"),
    ],
)
def test_kernel_name_is_that_of_the_kernel_in_the_program(
    with_cudnn, platform, dtype, size, tokens, name
):
    assert attention.kernel_name(platform, dtype, size, tokens) == name
    program = lower_step(platform, dtype, size, tokens)
    special = [name] if name in ("splash", "cuDNN") else []
    assert list(count_kernel_calls(program)) == special
    matrix_of_scores = f"tensor<1x2x{tokens}x{tokens}xf32>"
    assert (matrix_of_scores in program) == (name == "dense")


def test_kernel_name_takes_gpu_for_cuda_as_devices_call_it(with_cudnn):
    assert attention.kernel_name("gpu", "bfloat16", 64, 1374) == "cuDNN"


def test_kernel_name_on_cuda_without_cudnn_is_blockwise(monkeypatch):
    monkeypatch.setattr(jax, "devices", Mock(side_effect=RuntimeError("no such backend")))
    attention._has_cudnn_attention.cache_clear()
    assert attention.kernel_name("cuda", "bfloat16", 64, 1374) == "blockwise"


def test_attention_of_many_queries_to_few_keys_holds_no_matrix_of_scores():
    q = jax.ShapeDtypeStruct((1, 20_000, 2, 24), jnp.float32)
    k = jax.ShapeDtypeStruct((1, 1000, 2, 24), jnp.float32)
    program = jax.jit(attention.attention).lower(q, k, k).as_text()
    assert "x20000x1000xf32" not in program


# A gradient takes two calls: the forward pass and the backward pass.
@pytest.mark.parametrize("platform,kernel", [("tpu", "splash"), ("cuda", "cuDNN")])
@pytest.mark.parametrize("remat,calls", [("blocks", 3), ("attention", 2), ("offload", 2)])
def test_remat_repeats_attention_only_where_it_is_not_kept(
    with_cudnn, platform, kernel, remat, calls
):
    program = lower_step(platform, "bfloat16", 64, 1374, remat)
    assert count_kernel_calls(program) == {kernel: calls}


def test_loop_keeps_nothing_of_kernels_that_are_not_compiled():
    program = lower_step("tpu", "float32", 64, 1374)
    kept = re.findall(r"tensor<3x([\dx]+)xf32>", program)  # for each of the loop's three blocks
    assert set(kept) == {"1x1374x2x64", "1x2x1374"}


@pytest.mark.parametrize(
    "heads,shards,wanted",
    [
        (4, 4, {"all-to-all": 8}),  # queries, keys, values and output, and the gradient of each
        (2, 4, {"all-to-all": 8, "all-gather": 2, "reduce-scatter": 2}),
        (3, 4, {"all-gather": 2, "reduce-scatter": 2}),
    ],
)
def test_attention_across_devices_exchanges_heads_first_and_keys_second(heads, shards, wanted):
    mesh = sharding.make_mesh(Config(mesh=Mesh(data=8 // shards, patch=shards)))
    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(sharding.IMAGE_AXES, "patch"))
    rng = np.random.default_rng(0)
    shape = (8 // shards, 16, heads, 8)
    arrays = [rng.standard_normal(shape, np.float32) for _ in range(4)]

    def attend(q, k, v):
        return attention.attention(q, k[:, :13], v[:, :13])

    def run(placement, q, k, v, gradient):
        attend_across = partial(placement.attend, attend, across=True)
        output, pull_back = jax.vjp(attend_across, q, k, v)
        return output, *pull_back(gradient)

    on_mesh = partial(run, sharding.MeshPlacement(mesh))
    program = jax.jit(on_mesh, in_shardings=cut, out_shardings=cut).lower(*arrays).compile()
    collectives = re.findall(rf" ({'|'.join(COLLECTIVES)})\(", program.as_text())
    assert Counter(collectives) == wanted
    outputs = program(*(jax.device_put(x, cut) for x in arrays))
    on_one_device = jax.jit(partial(run, SINGLE_DEVICE))(*arrays)
    for output, want in zip(outputs, on_one_device, strict=True):
        np.testing.assert_allclose(output, want, atol=2e-6)


@pytest.mark.parametrize("keys", [90, 300])  # dense, and blockwise
def test_merged_partial_attention_is_attention_to_all_keys(keys, monkeypatch):
    monkeypatch.setattr(attention, "MAX_DENSE", 100)
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.standard_normal((1, 40, 2, 8)), jnp.float32)
    k = jnp.asarray(rng.standard_normal((1, keys, 2, 8)), jnp.float32)
    v = jnp.asarray(rng.standard_normal((1, keys, 2, 8)), jnp.float32)
    bias = jnp.asarray(rng.standard_normal(keys), jnp.float32)
    third = keys // 3

    @jax.jit
    def merge(q, k, v, bias):
        first = attention.partial_attention(q, k[:, :third], v[:, :third], bias[:third])
        second = attention.partial_attention(q, k[:, third:], v[:, third:], bias[third:])
        return attention.merge_attention(first, second).output

    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k) / 8**0.5 + bias
    want = jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(scores), v)
    np.testing.assert_allclose(merge(q, k, v, bias), want, atol=2e-6)
    np.testing.assert_allclose(attention.biased_attention(q, k, v, bias), want, atol=2e-6)
