"""Softmax attention: a kernel for each backend, and one rule of what is kept for gradients.

Scores, exponentials and sums are float32 in every kernel; products take the dtype of the arrays.
For gradients each keeps its arrays, its output and the logarithms of the sums of exponentials, and
nothing else: so a compiled program holds nothing of the kernels that it does not run.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

QUERY_CHUNK = 512  # most queries at a time where the sequence is long
MAX_DENSE = 1024  # queries and keys, up to which attention is done at once
LANES = 128  # of a TPU's vector unit, of which blocks are multiples
BLOCKS = range(512, 1025, LANES)  # sides of splash attention's blocks
MASKED = -1e4  # added to the score of a key, it hides it
FUSED = 4  # blocks of keys, up to which one kernel gives all gradients: it holds q's for each
INTERPRET = False  # whether splash attention runs on any platform, slowly, for tests
ATTENTION = "attention"  # the name under which a policy may keep what attention gives
Heads = Float[Array, "*B N D"]
Rows = Float[Array, "*B N 1"]
Owners = Int[Array, "*B N 1"]
# What is found, and the logarithms of the sums of exponentials.
Found = tuple[Float[Array, "B N H D"], Float[Array, "B N H 1"]]


class Kernel(NamedTuple):
    """A way to compute attention, and what the log calls it."""

    name: str
    attend: Callable  # of arrays [B, N, H, D], and owners [B, N] of queries and of keys, if any
    forward: Callable  # of arrays [B, H, N, D], with the logarithms of the sums of exponentials


def attention(
    q: Float[Array, "B N H D"], k: Float[Array, "B M H D"], v: Float[Array, "B M H D"]
) -> Float[Array, "B N H D"]:
    """Softmax attention by the kernel of the backend that this is compiled for.

    It never holds an N x M matrix of a long sequence.
    """
    return _by_platform(lambda platform: _kernel_for(platform, q, k).attend, q, k, v)


def packed_attention(
    q: Float[Array, "B N H D"],
    k: Float[Array, "B N H D"],
    v: Float[Array, "B N H D"],
    owner: Int[Array, "B N"],
) -> Float[Array, "B N H D"]:
    """Attention among the tokens of one owner, of several in one sequence that counts from 0."""

    def on(platform):
        size, count = q.shape[-1], q.shape[1]
        return _kernel(platform, q.dtype, size, count, count, packed=True).attend

    return _by_platform(on, q, k, v, owner, owner)


def biased_attention(
    q: Float[Array, "B N H D"],
    k: Float[Array, "B M H D"],
    v: Float[Array, "B M H D"],
    bias: Float[Array, "M"],
) -> Float[Array, "B N H D"]:
    """Attention with something added to the scores of each key, by the same kernels."""
    (out,) = _biased(lambda kernel, *arrays: (kernel.attend(*arrays),), q, k, v, bias)
    return out


def partial_attention(
    q: Float[Array, "B N H D"],
    k: Float[Array, "B M H D"],
    v: Float[Array, "B M H D"],
    bias: Float[Array, "M"],
) -> Found:
    """Attention to some of the keys, to be merged with what is found among others."""

    def forward(kernel, *arrays):
        found = kernel.forward(*(x.swapaxes(1, 2) for x in arrays))
        return tuple(x.swapaxes(1, 2).astype(jnp.float32) for x in found)

    return _biased(forward, q, k, v, bias)


def merge_attention(one: Found, other: Found) -> Found:
    """Attention to the keys of both."""
    sums = jnp.logaddexp(one[1], other[1])
    return sum(out * jnp.exp(own - sums) for out, own in (one, other)), sums


def _biased(use: Callable, q, k, v, bias):
    """use(kernel, queries, keys, values) with the bias in them; what is found first is cut back."""

    def on(platform):
        def run(*arrays):
            q, k, wide = _with_bias(*arrays, _multiple(platform))
            out, *more = use(_kernel_for(platform, q, k), q, k, wide)
            return out[..., : v.shape[-1]], *more  # here, since platforms widen it differently

        return run

    return _by_platform(on, q, k, v, bias)


def _with_bias(q, k, v, bias, multiple: int):
    """The bias as one more number of every key, which queries multiply by one."""
    size = q.shape[-1]
    wide = -(-(size + 1) // multiple) * multiple
    scale = (wide / size) ** 0.5  # kernels divide scores by the root of the wider size
    more = [(0, 0)] * 3 + [(0, wide - size)]
    q = jnp.pad((q * scale).astype(q.dtype), more).at[..., size].set(wide**0.5)
    k = jnp.pad(k, more).at[..., size].set(bias[:, None].astype(k.dtype))
    return q, k, jnp.pad(v, more)


def _multiple(platform: str) -> int:
    """Of what the size of a head must be a multiple, so that no kernel is ruled out."""
    return 64 if platform == "tpu" else 8


def _kernel_for(platform: str, q, k) -> "Kernel":
    return _kernel(platform, q.dtype, q.shape[-1], q.shape[1], k.shape[1])


def _by_platform(on: Callable, *arrays):
    """on(platform)(*arrays) for the platform that this is compiled for."""
    default, special = on("default"), {name: on(name) for name in ("cpu", "tpu", "cuda")}
    if all(way is default for way in special.values()):
        return default(*arrays)
    return jax.lax.platform_dependent(*arrays, default=default, **special)


def kernel_name(platform: str, dtype, head_size: int, tokens: int, packed: bool = False) -> str:
    """What computes attention over that many tokens on a device's platform, in a word."""
    return _kernel(platform, dtype, head_size, tokens, tokens, packed).name


def _kernel(
    platform: str, dtype, head_size: int, queries: int, keys: int, packed: bool = False
) -> Kernel:
    if max(queries, keys) <= MAX_DENSE:
        return DENSE
    if platform == "cpu":
        return BY_HEAD
    if platform == "tpu" and head_size % 64 == 0:  # smaller ones would fill lanes with nothing
        return SPLASH
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    even = queries % 2 == keys % 2 == 0  # which cuDNN wants where there are gradients
    # Packed, cuDNN would need the whole matrix of what sees what.
    fits = half and even and head_size % 8 == 0 and head_size <= 128 and not packed
    if platform in ("cuda", "gpu") and fits and _cudnn_is_here():
        return CUDNN
    return BY_CHUNK


@cache
def _cudnn_is_here() -> bool:
    """Whether JAX can ask cuDNN, which it does while tracing, and the GPUs have its attention."""
    try:
        devices = jax.devices("cuda")
    except RuntimeError:
        return False
    return all(float(d.compute_capability) >= 8 for d in devices)


def _differentiable(
    name: str, forward: Callable, backward: Callable, plain: Callable | None = None
) -> Kernel:
    """A kernel from functions of arrays whose heads come before the tokens.

    forward(q, k, v) -> out, sums; backward(q, k, v, out, sums, gradient) -> three gradients;
    plain(q, k, v) -> out, where there will be no gradients. All take owners [B, 1, N, 1] of
    queries and of keys last, or none.
    """
    turned = lambda *arrays: [x.swapaxes(1, 2) for x in arrays]  # noqa: E731
    spread = lambda owners: [x[:, None, :, None] for x in owners]  # noqa: E731
    plain = plain or (lambda *arrays: forward(*arrays)[0])

    @jax.custom_vjp
    def attend(q, k, v, *owners):
        return plain(*turned(q, k, v), *spread(owners)).swapaxes(1, 2)

    def keep(q, k, v, *owners):
        out, sums = forward(*turned(q, k, v), *spread(owners))
        out = checkpoint_name(out.swapaxes(1, 2), ATTENTION)
        return out, (q, k, v, out, checkpoint_name(sums[..., 0], ATTENTION), owners)

    def pull(kept, gradient):
        q, k, v, out, sums, owners = kept
        q, k, v, out, gradient = turned(q, k, v, out, gradient)
        found = backward(q, k, v, out, sums[..., None], gradient, *spread(owners))
        return *turned(*(x.astype(v.dtype) for x in found)), *(None for _ in owners)

    attend.defvjp(keep, pull)
    return Kernel(name, attend, forward)


def _scores(q: Heads, k: Heads, *owners: Owners) -> Float[Array, "*B N M"]:
    q = q * q.shape[-1] ** -0.5
    scores = jnp.einsum("...nd,...md->...nm", q, k, preferred_element_type=jnp.float32)
    if not owners:
        return scores
    of_q, of_k = owners
    return jnp.where(of_q == of_k.swapaxes(-1, -2), scores, jnp.finfo(scores.dtype).min)


def _rows(q: Heads, k: Heads, v: Heads, *owners: Owners) -> tuple[Heads, Rows]:
    """All at once, divided by the sum of the shares last, where there is least to do."""
    scores = _scores(q, k, *owners)
    most = scores.max(-1, keepdims=True)
    share = jnp.exp(scores - most)
    total = share.sum(-1, keepdims=True)
    out = jnp.einsum(
        "...nm,...md->...nd", share.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return (out / total).astype(v.dtype), most + jnp.log(total)


def _rows_back(q, k, v, out, sums, gradient, *owners) -> tuple[Heads, Heads, Heads]:
    """Gradients of queries, keys and values, in float32."""
    product = lambda how, *x: jnp.einsum(how, *x, preferred_element_type=jnp.float32)  # noqa: E731
    share = jnp.exp(_scores(q, k, *owners) - sums)
    of_share = product("...nd,...md->...nm", gradient, v)
    mean = (gradient.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    of_scores = (share * (of_share - mean) * q.shape[-1] ** -0.5).astype(q.dtype)
    return (
        product("...nm,...md->...nd", of_scores, k),
        product("...nm,...nd->...md", of_scores, q),
        product("...nm,...nd->...md", share.astype(v.dtype), gradient),
    )


def _chunks(x: Float[Array, "*B N D"]) -> Float[Array, "C *B n D"]:
    """Some rows at a time, in equal parts so that little is padded."""
    count = -(-x.shape[-2] // QUERY_CHUNK)
    size = -(-x.shape[-2] // count)
    parts = _padded(x, count * size).reshape(*x.shape[:-2], count, size, x.shape[-1])
    return jnp.moveaxis(parts, -3, 0)


def _padded(x: Float[Array, "*B N D"], count: int) -> Float[Array, "*B M D"]:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, count - x.shape[-2]), (0, 0)])


def _joined(parts: Float[Array, "C *B n D"], count: int) -> Float[Array, "*B N D"]:
    whole = jnp.moveaxis(parts, 0, -3)
    return whole.reshape(*whole.shape[:-3], -1, whole.shape[-1])[..., :count, :]


def _by_chunk(q: Heads, k: Heads, v: Heads, *owners: Owners) -> tuple[Heads, Rows]:
    """Some queries of all heads at a time: few large products, for accelerators."""
    of_q, of_k = owners[:1], owners[1:]
    rows = lambda part: _rows(part[0], k, v, *part[1:], *of_k)  # noqa: E731
    # What pads the last chunk has owner 0, whom there always is.
    out, sums = jax.lax.map(rows, [_chunks(x) for x in (q, *of_q)])
    return _joined(out, q.shape[-2]), _joined(sums, q.shape[-2])


def _by_chunk_back(q, k, v, out, sums, gradient, *owners) -> tuple[Heads, Heads, Heads]:
    by_row, of_k = (q, out, sums, gradient, *owners[:1]), owners[1:]

    def add(sums, part):
        q, *rest = part
        of_q, *others = _rows_back(q, k, v, *rest, *of_k)
        return jax.tree.map(jnp.add, sums, others), of_q.astype(q.dtype)

    # Rows that pad the last chunk have no gradient, and so add nothing.
    zeros = [jnp.zeros(x.shape, jnp.float32) for x in (k, v)]
    (of_k, of_v), of_q = jax.lax.scan(add, zeros, [_chunks(x) for x in by_row])
    return _joined(of_q, q.shape[-2]), of_k, of_v


def _each_head(function: Callable) -> Callable:
    """One head after the other, which stays in a CPU's cache: 2.6 times as fast there."""

    def run(*arrays):
        heads = arrays[0].shape[:2]
        spread = [jnp.broadcast_to(x, (*heads, *x.shape[2:])) for x in arrays]  # owners have one
        flat = [x.reshape(-1, *x.shape[2:]) for x in spread]
        found = jax.lax.map(lambda one: function(*one), flat)
        return tuple(x.reshape(*heads, *x.shape[1:]) for x in found)

    return run


def _block(count: int) -> int:
    """The largest of the blocks that pad a sequence least."""
    return min(BLOCKS, key=lambda block: (-(-count // block) * block, -block))


def _splash_kernel(heads: int, queries: int, keys: int, sums: bool):
    """Splash attention for lengths of whole blocks; only what pads the keys is masked."""
    # Imported here since it takes half a second, which short sequences need not spend.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    rows, cols = _block(queries), _block(keys)
    fused = keys <= FUSED * cols
    lanes = splash.QKVLayout.SEQ_MINOR  # tokens fill them, which a head's 64 numbers do not
    sizes = splash.BlockSizes(
        block_q=rows, block_kv=cols, block_q_dkv=rows, block_kv_dkv=cols,
        block_q_dq=None if fused else rows, block_kv_dq=None if fused else cols,
        use_fused_bwd_kernel=fused, q_layout=lanes, k_layout=lanes, v_layout=lanes,
    )  # fmt: skip
    mask = masks.MultiHeadMask([masks.FullMask((_whole(queries), _whole(keys)))] * heads)
    kernel = splash.make_splash_mha(
        mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, save_residuals=sums,
        interpret=INTERPRET,
    )  # fmt: skip
    seen = (jnp.arange(_whole(keys)) < keys).astype(jnp.int32)
    return kernel, splash.SegmentIds(jnp.ones(_whole(queries), jnp.int32), seen)


def _owned(segments, *owners: Owners):
    """The segments of one picture's owners: 1 is the first, and 0 what pads the keys."""
    if not owners:
        return segments
    of_q, of_k = (
        jnp.pad(owner.ravel(), (0, segment.size - owner.size)) + segment
        for owner, segment in zip(owners, segments, strict=True)
    )
    return segments._replace(q=of_q, kv=of_k)


def _each_picture(function: Callable, *arrays):
    """One picture beside the other, where each has owners of its own."""
    found = jax.vmap(lambda *one: function(*(x[None] for x in one)))(*arrays)
    return jax.tree.map(lambda x: x[:, 0], found)


def _splash(q: Heads, k: Heads, v: Heads, *owners: Owners, sums: bool = True):
    """JAX's kernel for TPUs, of all heads of all pictures as if they were of one."""
    b, h, n, d = q.shape
    if owners and b > 1:
        return _each_picture(partial(_splash, sums=sums), q, k, v, *owners)
    kernel, segments = _splash_kernel(b * h, n, k.shape[2], sums)
    found = kernel(*map(_flat, (q * d**-0.5, k, v)), _owned(segments, *owners))
    if not sums:
        return _unflat(found, q)
    out, (rows,) = found
    return _unflat(out, q), _unflat(rows[..., None], q)


def _splash_back(q, k, v, out, sums, gradient, *owners) -> tuple[Heads, Heads, Heads]:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    b, h, n, d = q.shape
    if owners and b > 1:
        return _each_picture(_splash_back, q, k, v, out, sums, gradient, *owners)
    kernel, segments = _splash_kernel(b * h, n, k.shape[2], True)
    segments = _owned(segments, *owners)
    q_k_v = map(_flat, (q * d**-0.5, k, v))
    infos = kernel.dq_mask_info, kernel.dkv_mask_info
    kept = *q_k_v, segments, None, _flat(out), _flat(sums)[..., 0], *infos
    # Private, since in public there are only kernels that keep arrays of their own shapes.
    found = splash._splash_attention_bwd(**kernel.kwargs, res=kept, do=_flat(gradient))[3:6]
    of_q, of_k, of_v = map(_unflat, found, (q, k, v))
    return of_q * d**-0.5, of_k, of_v


def _whole(count: int) -> int:
    """The count with what fills its last block."""
    return -(-count // _block(count)) * _block(count)


def _flat(x: Float[Array, "B H N D"]) -> Float[Array, "K M D"]:
    count = _whole(x.shape[2])
    return _padded(x, count).reshape(-1, count, x.shape[-1])


def _unflat(x: Float[Array, "K M D"], like: Float[Array, "B H N E"]) -> Float[Array, "B H N D"]:
    return x.reshape(*like.shape[:2], *x.shape[1:])[:, :, : like.shape[2]]


def _cudnn(q, k, v):
    """cuDNN's kernel; what it keeps for gradients has no name, so that remat runs it again."""
    out = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    return checkpoint_name(out, ATTENTION)


DENSE = _differentiable("dense", _rows, _rows_back)
BY_CHUNK = _differentiable("blockwise", _by_chunk, _by_chunk_back)
BY_HEAD = _differentiable("blockwise", _each_head(_by_chunk), _each_head(_by_chunk_back))
SPLASH = _differentiable("splash", _splash, _splash_back, partial(_splash, sums=False))
CUDNN = Kernel("cuDNN", _cudnn, _by_chunk)
