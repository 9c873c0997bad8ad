"""Softmax attention with a kernel for each backend.

In every kernel scores, exponentials and sums are float32, and matrix products take the dtype of the
arrays. For its gradients a kernel keeps its inputs, its output and the logsumexp of the scores, and
nothing else. A compiled program therefore holds nothing that only another kernel would need.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

MAX_DENSE = 1024  # most queries or keys for which attention is computed at once
MAX_DENSE_CUDNN = 64  # the same where cuDNN could take over, which writes no matrix of scores
QUERY_CHUNK = 512  # most queries in a chunk, where there are more
LANES = 128  # width of a TPU's vector unit
SPLASH_BLOCKS = range(512, 1025, LANES)  # sides of splash attention's blocks
# Most blocks of keys for which a single splash kernel computes all gradients: it holds a gradient
# of the queries for every block of keys.
MAX_FUSED_BLOCKS = 4
INTERPRET_SPLASH = False  # run splash attention on any platform, slowly; for tests
MASKED = -1e4  # a bias that hides a key
ATTENTION = "attention"  # name under which a checkpoint policy may keep the output of attention
# The primitive of JAX's cuDNN attention. What it returns cannot be named: a checkpoint policy that
# keeps attention must keep the outputs of this primitive.
CUDNN_PRIMITIVE = "dot_product_attention_fwd_wrapper"

Queries = Float[Array, "*B N D"]
Keys = Float[Array, "*B M D"]
LogSumExp = Float[Array, "*B N 1"]
# The image that a token belongs to, where a row holds tokens of several images. In kernels it has
# the shape [B, 1, N, 1], or [N, 1] for a single head.
Owner = Int[Array, "... 1"]


class Kernel(NamedTuple):
    """An implementation of attention."""

    name: str  # in the log
    # (q, k, v, query_owner=None, key_owner=None) -> output, with q [B, N, H, D], owners [B, N].
    attend: Callable
    # The same with q [B, H, N, D] and owners [B, 1, N, 1] -> output, logsumexp.
    forward: Callable


class PartialAttention(NamedTuple):
    """Attention to some of the keys."""

    output: Float[Array, "B N H D"]
    logsumexp: Float[Array, "B N H 1"]  # of the scores of these keys


def attention(
    q: Float[Array, "B N H D"], k: Float[Array, "B M H D"], v: Float[Array, "B M H D"]
) -> Float[Array, "B N H D"]:
    """Softmax attention by the best kernel of the backend that the program is compiled for.

    No kernel holds the N x M matrix of scores of a long sequence.
    """

    def attend_on(platform: str) -> Callable:
        return _kernel_for(platform, q, k).attend

    return _by_platform(attend_on, q, k, v)


def packed_attention(
    q: Float[Array, "B N H D"],
    k: Float[Array, "B N H D"],
    v: Float[Array, "B N H D"],
    owner: Int[Array, "B N"],
) -> Float[Array, "B N H D"]:
    """Attention in rows that hold several images: a token sees the tokens of the same owner.

    The owners in a row count from 0.
    """

    def attend_on(platform: str) -> Callable:
        tokens = q.shape[1]
        return _choose_kernel(platform, q.dtype, q.shape[-1], tokens, tokens, packed=True).attend

    return _by_platform(attend_on, q, k, v, owner, owner)


def biased_attention(
    q: Float[Array, "B N H D"],
    k: Float[Array, "B M H D"],
    v: Float[Array, "B M H D"],
    bias: Float[Array, "M"],
) -> Float[Array, "B N H D"]:
    """Attention with a bias added to all scores of a key."""

    def attend_on(platform: str) -> Callable:
        def attend(q, k, v, bias):
            wide_q, wide_k, wide_v = _append_bias(q, k, v, bias, _head_multiple(platform))
            output = _kernel_for(platform, wide_q, wide_k).attend(wide_q, wide_k, wide_v)
            return output[..., : v.shape[-1]]

        return attend

    return _by_platform(attend_on, q, k, v, bias)


def partial_attention(
    q: Float[Array, "B N H D"],
    k: Float[Array, "B M H D"],
    v: Float[Array, "B M H D"],
    bias: Float[Array, "M"],
) -> PartialAttention:
    """Biased attention to some of the keys, to be merged with attention to the others."""

    def attend_on(platform: str) -> Callable:
        def attend(q, k, v, bias):
            wide_q, wide_k, wide_v = _append_bias(q, k, v, bias, _head_multiple(platform))
            kernel = _kernel_for(platform, wide_q, wide_k)
            output, logsumexp = kernel.forward(*_swap_heads_and_tokens(wide_q, wide_k, wide_v))
            output = output.swapaxes(1, 2).astype(jnp.float32)
            logsumexp = logsumexp.swapaxes(1, 2).astype(jnp.float32)
            return PartialAttention(output[..., : v.shape[-1]], logsumexp)

        return attend

    return _by_platform(attend_on, q, k, v, bias)


def merge_attention(first: PartialAttention, second: PartialAttention) -> PartialAttention:
    """Attention to the keys of both."""
    logsumexp = jnp.logaddexp(first.logsumexp, second.logsumexp)
    first_share = jnp.exp(first.logsumexp - logsumexp)
    second_share = jnp.exp(second.logsumexp - logsumexp)
    output = first.output * first_share + second.output * second_share
    return PartialAttention(output, logsumexp)


def kernel_name(
    platform: str, dtype: Any, head_size: int, tokens: int, packed: bool = False
) -> str:
    """The name of the kernel for attention over `tokens` tokens on a platform."""
    return _choose_kernel(platform, dtype, head_size, tokens, tokens, packed).name


def _append_bias(q, k, v, bias, multiple: int) -> tuple[Array, Array, Array]:
    """Heads with one more number: the bias in keys, and a constant in queries.

    Their size grows to a multiple of `multiple`.
    """
    size = q.shape[-1]
    wide_size = math.ceil((size + 1) / multiple) * multiple
    scale = (wide_size / size) ** 0.5  # kernels divide scores by the root of the wider size
    padding = [(0, 0), (0, 0), (0, 0), (0, wide_size - size)]
    q = jnp.pad((q * scale).astype(q.dtype), padding)
    q = q.at[..., size].set(wide_size**0.5)
    k = jnp.pad(k, padding)
    k = k.at[..., size].set(bias[:, None].astype(k.dtype))
    v = jnp.pad(v, padding)
    return q, k, v


def _head_multiple(platform: str) -> int:
    """The multiple that a head's size must be so that no kernel of the platform is ruled out."""
    return 64 if platform == "tpu" else 8


def _by_platform(function_for: Callable[[str], Callable], *arrays: Array) -> Any:
    """Call function_for(platform) for the platform that the program is compiled for."""
    default = function_for("default")
    special = {platform: function_for(platform) for platform in ("cpu", "tpu", "cuda")}
    if all(function is default for function in special.values()):
        return default(*arrays)
    return jax.lax.platform_dependent(*arrays, default=default, **special)


def _kernel_for(platform: str, q: Float[Array, "B N H D"], k: Float[Array, "B M H D"]) -> Kernel:
    return _choose_kernel(platform, q.dtype, q.shape[-1], q.shape[1], k.shape[1])


def _choose_kernel(
    platform: str, dtype: Any, head_size: int, queries: int, keys: int, packed: bool = False
) -> Kernel:
    longest = max(queries, keys)
    on_gpu = platform in ("cuda", "gpu")
    if on_gpu and longest > MAX_DENSE_CUDNN and not packed and _fits_cudnn(dtype, head_size):
        return CUDNN
    if longest <= MAX_DENSE:
        return DENSE
    if platform == "cpu":
        return BLOCKWISE_BY_HEAD
    if platform == "tpu" and head_size % 64 == 0:  # smaller heads would leave lanes empty
        return SPLASH
    return BLOCKWISE


def _fits_cudnn(dtype: Any, head_size: int) -> bool:
    """Whether cuDNN takes these arrays; for packed rows it would need a whole mask matrix."""
    half_precision = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    size_fits = head_size % 8 == 0 and head_size <= 128
    return half_precision and size_fits and _has_cudnn_attention()


@cache
def _has_cudnn_attention() -> bool:
    """Whether there is a CUDA backend, which JAX asks while tracing, with GPUs recent enough."""
    try:
        devices = jax.devices("cuda")
    except RuntimeError:
        return False
    return all(float(device.compute_capability) >= 8 for device in devices)


def _swap_heads_and_tokens(*arrays: Array) -> list[Array]:
    return [x.swapaxes(1, 2) for x in arrays]


def _owner_column(owner: Array | None) -> Array | None:
    """[B, N] as [B, 1, N, 1], the same for all heads."""
    return None if owner is None else owner[:, None, :, None]


def _differentiable(
    name: str, forward: Callable, backward: Callable, output_only: Callable | None = None
) -> Kernel:
    """A kernel from functions of arrays whose heads come before the tokens, [B, H, N, D].

    forward(q, k, v, *owners) -> output, logsumexp
    backward(q, k, v, output, logsumexp, gradient, *owners) -> gradients of q, k and v
    output_only(q, k, v, *owners) -> output, for passes without gradients (default: forward)
    """

    @jax.custom_vjp
    def attend(q, k, v, query_owner=None, key_owner=None):
        owners = _owner_column(query_owner), _owner_column(key_owner)
        q, k, v = _swap_heads_and_tokens(q, k, v)
        if output_only is None:
            output, _ = forward(q, k, v, *owners)
        else:
            output = output_only(q, k, v, *owners)
        return output.swapaxes(1, 2)

    def attend_and_save(q, k, v, query_owner=None, key_owner=None):
        owners = _owner_column(query_owner), _owner_column(key_owner)
        output, logsumexp = forward(*_swap_heads_and_tokens(q, k, v), *owners)
        output = checkpoint_name(output.swapaxes(1, 2), ATTENTION)
        logsumexp = checkpoint_name(logsumexp[..., 0], ATTENTION)
        return output, (q, k, v, output, logsumexp, query_owner, key_owner)

    def pull_back(saved, gradient):
        q, k, v, output, logsumexp, query_owner, key_owner = saved
        owners = _owner_column(query_owner), _owner_column(key_owner)
        q, k, v, output, gradient = _swap_heads_and_tokens(q, k, v, output, gradient)
        gradients = backward(q, k, v, output, logsumexp[..., None], gradient, *owners)
        q_gradient, k_gradient, v_gradient = (x.astype(v.dtype).swapaxes(1, 2) for x in gradients)
        return q_gradient, k_gradient, v_gradient, None, None

    attend.defvjp(attend_and_save, pull_back)
    return Kernel(name, attend, forward)


def _einsum(subscripts: str, *arrays: Array) -> Array:
    """A product with float32 sums."""
    return jnp.einsum(subscripts, *arrays, preferred_element_type=jnp.float32)


def _scores(
    q: Queries, k: Keys, query_owner: Owner | None, key_owner: Owner | None
) -> Float[Array, "*B N M"]:
    scores = _einsum("...nd,...md->...nm", q * q.shape[-1] ** -0.5, k)
    if query_owner is None:
        return scores
    same = query_owner == key_owner.swapaxes(-1, -2)
    return jnp.where(same, scores, jnp.finfo(scores.dtype).min)


def _dense(
    q: Queries,
    k: Keys,
    v: Keys,
    query_owner: Owner | None = None,
    key_owner: Owner | None = None,
) -> tuple[Queries, LogSumExp]:
    """Attention at once. It divides by the sum of weights last, where arrays are smallest."""
    scores = _scores(q, k, query_owner, key_owner)
    highest = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - highest)
    total = weights.sum(-1, keepdims=True)
    output = _einsum("...nm,...md->...nd", weights.astype(v.dtype), v)
    return (output / total).astype(v.dtype), highest + jnp.log(total)


def _dense_backward(
    q: Queries,
    k: Keys,
    v: Keys,
    output: Queries,
    logsumexp: LogSumExp,
    gradient: Queries,
    query_owner: Owner | None = None,
    key_owner: Owner | None = None,
) -> tuple[Queries, Keys, Keys]:
    """Gradients of queries, keys and values, in float32."""
    weights = jnp.exp(_scores(q, k, query_owner, key_owner) - logsumexp)
    weights_gradient = _einsum("...nd,...md->...nm", gradient, v)
    mean = gradient.astype(jnp.float32) * output.astype(jnp.float32)
    mean = mean.sum(-1, keepdims=True)
    scores_gradient = weights * (weights_gradient - mean) * q.shape[-1] ** -0.5
    scores_gradient = scores_gradient.astype(q.dtype)
    q_gradient = _einsum("...nm,...md->...nd", scores_gradient, k)
    k_gradient = _einsum("...nm,...nd->...md", scores_gradient, q)
    v_gradient = _einsum("...nm,...nd->...md", weights.astype(v.dtype), gradient)
    return q_gradient, k_gradient, v_gradient


def _split_tokens(x: Array) -> Array:
    """[..., N, D] as chunks [C, ..., n, D] of equal size, so that little is padded."""
    *batch, tokens, width = x.shape
    count = math.ceil(tokens / QUERY_CHUNK)
    size = math.ceil(tokens / count)
    chunks = _pad_tokens(x, count * size).reshape(*batch, count, size, width)
    return jnp.moveaxis(chunks, -3, 0)


def _pad_tokens(x: Array, count: int) -> Array:
    """[..., N, D] with zeros up to `count` tokens."""
    padding = [(0, 0)] * x.ndim
    padding[-2] = (0, count - x.shape[-2])
    return jnp.pad(x, padding)


def _join_tokens(chunks: Array, count: int) -> Array:
    """[..., N, D] from chunks [C, ..., n, D], of which the first `count` tokens are real."""
    chunks = jnp.moveaxis(chunks, 0, -3)
    *batch, _, _, width = chunks.shape
    return chunks.reshape(*batch, -1, width)[..., :count, :]


def _blockwise(
    q: Queries,
    k: Keys,
    v: Keys,
    query_owner: Owner | None = None,
    key_owner: Owner | None = None,
) -> tuple[Queries, LogSumExp]:
    """A chunk of queries of all heads at a time: few large products, for accelerators."""

    def attend_chunk(chunk):
        q_chunk, owner_chunk = chunk
        return _dense(q_chunk, k, v, owner_chunk, key_owner)

    # The padding of the last chunk gets owner 0, which every row has.
    chunks = jax.tree.map(_split_tokens, (q, query_owner))
    output, logsumexp = jax.lax.map(attend_chunk, chunks)
    queries = q.shape[-2]
    return _join_tokens(output, queries), _join_tokens(logsumexp, queries)


def _blockwise_backward(
    q: Queries,
    k: Keys,
    v: Keys,
    output: Queries,
    logsumexp: LogSumExp,
    gradient: Queries,
    query_owner: Owner | None = None,
    key_owner: Owner | None = None,
) -> tuple[Queries, Keys, Keys]:
    """Gradients of queries, keys and values; the latter two are summed over chunks of queries."""

    def add_chunk(sums, chunk):
        q_chunk, output_chunk, logsumexp_chunk, gradient_chunk, owner_chunk = chunk
        q_gradient, k_gradient, v_gradient = _dense_backward(
            q_chunk, k, v, output_chunk, logsumexp_chunk, gradient_chunk, owner_chunk, key_owner
        )
        k_sum, v_sum = sums
        return (k_sum + k_gradient, v_sum + v_gradient), q_gradient.astype(q.dtype)

    # The padding of the last chunk has no gradient and adds nothing.
    chunks = jax.tree.map(_split_tokens, (q, output, logsumexp, gradient, query_owner))
    zeros = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    (k_gradient, v_gradient), q_gradient = jax.lax.scan(add_chunk, zeros, chunks)
    return _join_tokens(q_gradient, q.shape[-2]), k_gradient, v_gradient


def _one_head_at_a_time(function: Callable) -> Callable:
    """The function run on each head in turn, which stays in a CPU's cache: 2.6 times as fast."""

    def run(*arrays):
        batch, heads = arrays[0].shape[:2]

        def flatten(x):
            x = jnp.broadcast_to(x, (batch, heads, *x.shape[2:]))  # owners have a single head
            return x.reshape(batch * heads, *x.shape[2:])

        flat = jax.tree.map(flatten, arrays)
        outputs = jax.lax.map(lambda head: function(*head), flat)
        return tuple(x.reshape(batch, heads, *x.shape[1:]) for x in outputs)

    return run


def _splash_block(tokens: int) -> int:
    """The block that pads a sequence least; the largest of several."""
    return min(SPLASH_BLOCKS, key=lambda block: (math.ceil(tokens / block) * block, -block))


def _splash_length(tokens: int) -> int:
    """The number of tokens, padded to whole blocks."""
    block = _splash_block(tokens)
    return math.ceil(tokens / block) * block


def _splash_kernel(heads: int, queries: int, keys: int, save_logsumexp: bool) -> tuple[Any, Any]:
    """Splash attention for lengths of whole blocks, and segments that hide the padding of keys."""
    # Imported here because it takes half a second, which short sequences need not spend.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    query_block = _splash_block(queries)
    key_block = _splash_block(keys)
    fused = keys <= MAX_FUSED_BLOCKS * key_block
    # Tokens last: they fill the lanes, which the 64 numbers of a head do not.
    layout = splash.QKVLayout.SEQ_MINOR
    sizes = splash.BlockSizes(
        block_q=query_block,
        block_kv=key_block,
        block_q_dkv=query_block,
        block_kv_dkv=key_block,
        block_q_dq=None if fused else query_block,
        block_kv_dq=None if fused else key_block,
        use_fused_bwd_kernel=fused,
        q_layout=layout,
        k_layout=layout,
        v_layout=layout,
    )
    full = masks.FullMask((_splash_length(queries), _splash_length(keys)))
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([full] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        save_residuals=save_logsumexp,
        interpret=INTERPRET_SPLASH,
    )
    real_keys = (jnp.arange(_splash_length(keys)) < keys).astype(jnp.int32)
    real_queries = jnp.ones(_splash_length(queries), jnp.int32)
    return kernel, splash.SegmentIds(real_queries, real_keys)


def _owner_segments(segments: Any, query_owner: Array | None, key_owner: Array | None) -> Any:
    """The segments of one image's owners: 1 is the first owner, and 0 is the padding of keys."""
    if query_owner is None:
        return segments
    query_padding = segments.q.size - query_owner.size
    key_padding = segments.kv.size - key_owner.size
    query_segments = jnp.pad(query_owner.ravel(), (0, query_padding)) + segments.q
    key_segments = jnp.pad(key_owner.ravel(), (0, key_padding)) + segments.kv
    return segments._replace(q=query_segments, kv=key_segments)


def _map_rows(function: Callable, *arrays: Array) -> Any:
    """The function on each row of the batch, for rows that have owners of their own."""

    def run(*row):
        return function(*[x[None] for x in row])

    outputs = jax.vmap(run)(*arrays)
    return jax.tree.map(lambda x: x[:, 0], outputs)


def _splash(q, k, v, query_owner=None, key_owner=None, *, save_logsumexp: bool = True) -> Any:
    """JAX's kernel for TPUs, on the heads of all images as if they were of one."""
    batch, heads, queries, head_size = q.shape
    if query_owner is not None and batch > 1:
        splash = partial(_splash, save_logsumexp=save_logsumexp)
        return _map_rows(splash, q, k, v, query_owner, key_owner)
    kernel, segments = _splash_kernel(batch * heads, queries, k.shape[2], save_logsumexp)
    arrays = _to_splash(q * head_size**-0.5), _to_splash(k), _to_splash(v)
    segments = _owner_segments(segments, query_owner, key_owner)
    if not save_logsumexp:
        return _from_splash(kernel(*arrays, segments), q)
    output, (logsumexp,) = kernel(*arrays, segments)
    return _from_splash(output, q), _from_splash(logsumexp[..., None], q)


def _splash_backward(
    q, k, v, output, logsumexp, gradient, query_owner=None, key_owner=None
) -> tuple[Array, Array, Array]:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    batch, heads, queries, head_size = q.shape
    if query_owner is not None and batch > 1:
        arrays = q, k, v, output, logsumexp, gradient, query_owner, key_owner
        return _map_rows(_splash_backward, *arrays)
    kernel, segments = _splash_kernel(batch * heads, queries, k.shape[2], True)
    segments = _owner_segments(segments, query_owner, key_owner)
    saved = (
        _to_splash(q * head_size**-0.5),
        _to_splash(k),
        _to_splash(v),
        segments,
        None,
        _to_splash(output),
        _to_splash(logsumexp)[..., 0],
        kernel.dq_mask_info,
        kernel.dkv_mask_info,
    )
    # A private function: the public ones keep arrays of their own, padded shapes for gradients.
    gradients = splash._splash_attention_bwd(**kernel.kwargs, res=saved, do=_to_splash(gradient))
    q_gradient, k_gradient, v_gradient = gradients[3:6]
    return (
        _from_splash(q_gradient, q) * head_size**-0.5,
        _from_splash(k_gradient, k),
        _from_splash(v_gradient, v),
    )


def _to_splash(x: Float[Array, "B H N D"]) -> Float[Array, "K M D"]:
    """All heads along one axis, and tokens padded to whole blocks."""
    length = _splash_length(x.shape[2])
    return _pad_tokens(x, length).reshape(-1, length, x.shape[-1])


def _from_splash(x: Float[Array, "K M D"], like: Float[Array, "B H N E"]) -> Array:
    """[B, H, N, D], the inverse of `_to_splash`, with B, H and N as in `like`."""
    batch, heads, tokens, _ = like.shape
    return x.reshape(batch, heads, *x.shape[1:])[:, :, :tokens]


def _cudnn(q, k, v) -> Float[Array, "B N H D"]:
    """cuDNN's kernel, whose outputs a checkpoint policy knows by their primitive."""
    attend = partial(jax.nn.dot_product_attention, implementation="cudnn")
    batch, queries, _, _ = q.shape
    keys = k.shape[1]
    if queries % 2 == 0 and keys % 2 == 0:
        return attend(q, k, v)
    # JAX refuses gradients for odd numbers of tokens, so one more is added and masked. If attention
    # is kept for gradients, the arrays of the other kernels, one token shorter, are kept as zeros.
    q, k, v = (jnp.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)]) for x in (q, k, v))
    output = attend(
        q,
        k,
        v,
        query_seq_lengths=jnp.full(batch, queries, jnp.int32),
        key_value_seq_lengths=jnp.full(batch, keys, jnp.int32),
    )
    return output[:, :queries]


DENSE = _differentiable("dense", _dense, _dense_backward)
BLOCKWISE = _differentiable("blockwise", _blockwise, _blockwise_backward)
BLOCKWISE_BY_HEAD = _differentiable(
    "blockwise", _one_head_at_a_time(_blockwise), _one_head_at_a_time(_blockwise_backward)
)
SPLASH = _differentiable(
    "splash", _splash, _splash_backward, partial(_splash, save_logsumexp=False)
)
CUDNN = Kernel("cuDNN", _cudnn, _blockwise)
