"""Floating point operations of a refiner, from its configuration; a multiply-add counts as two.

Only matrix products and convolutions are counted. Elementwise work (norms, GELU, softmax, rotary
embedding, resampling, losses, the optimiser) is left out, as is usual for utilisation figures.
"""

import itertools
import math
from dataclasses import dataclass, fields, replace

from urgt_jax.config import TOKEN_SIZE, Config, Model
from urgt_jax.models.dpt import DETAIL
from urgt_jax.models.layers import swiglu_hidden
from urgt_jax.models.refiner import CHANNELS, SPECIAL_TOKENS, head_chunk, tokens_per_patch
from urgt_jax.models.registry import param_paths

PIXEL_CHANNELS = 3 + sum(CHANNELS.values())  # of the image and its coarse maps


@dataclass(frozen=True)
class Flops:
    """Operations for one image. The attention terms grow with the square of the tokens."""

    embedding: float  # from pixels to tokens
    encoder_linear: float
    encoder_attention: float
    within_linear: float
    within_attention: float
    across_linear: float
    across_attention: float
    dpt_heads: float

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def encoder(self) -> float:
        """The operations of DINOv2."""
        return self.embedding + self.encoder_linear + self.encoder_attention

    @property
    def pairs(self) -> float:
        """The operations of the pairs of blocks."""
        return self.total - self.encoder - self.dpt_heads

    def scaled(self, factor: float, **factors: float) -> "Flops":
        """Every part times `factor`, or times a factor of its own."""
        parts = {}
        for field in fields(self):
            parts[field.name] = getattr(self, field.name) * factors.get(field.name, factor)
        return Flops(**parts)


def forward(model: Model, patches: int, pool: int = 1) -> Flops:
    """Operations of a forward pass over one image of that many patches.

    With `pool` above 1, patches see the means of pool x pool tokens of one another.
    """
    width = model.width
    rows, cols = model.tokens
    lattice = rows * cols

    encoder = model.encoder
    encoder_tokens = lattice + 1 + encoder.registers
    encoder_linear = encoder_tokens * _linear(width, encoder.ffn)
    encoder_attention = _attention(width, encoder_tokens, encoder_tokens)

    tokens = tokens_per_patch(model)
    pairs = max(model.dpt_layers) + 1  # later pairs are not run
    keys = tokens
    if model.cross_patch:
        cells = math.ceil(rows / pool) * math.ceil(cols / pool)
        keys = patches * (SPECIAL_TOKENS + cells)
    pair_linear = pairs * patches * tokens * _linear(width)

    dpt_heads = sum(_dpt_head(model, 1 + CHANNELS[name]) for name in model.outputs)
    return Flops(
        embedding=2 * patches * lattice * TOKEN_SIZE * TOKEN_SIZE * PIXEL_CHANNELS * width,
        encoder_linear=encoder.depth * patches * encoder_linear,
        encoder_attention=encoder.depth * patches * encoder_attention,
        within_linear=pair_linear,
        within_attention=pairs * patches * _attention(width, tokens, tokens),
        across_linear=pair_linear,
        across_attention=pairs * patches * _attention(width, tokens, keys),
        dpt_heads=patches * dpt_heads,
    )


def training(config: Config, patches: int) -> Flops:
    """Operations that a training step needs for one image; what remat repeats is not counted.

    The backward pass has two more products for each one. Frozen weights need no gradients, but
    those of their activations, unless nothing before them is trained.
    """
    products = _products(config)
    return forward(config.model, patches).scaled(
        3,
        encoder_linear=products["encoder"],
        encoder_attention=3 if products["encoder"] > 1 else 1,
        within_linear=products["within"],
        across_linear=products["across"],
        dpt_heads=products["heads"],
    )


def _products(config: Config) -> dict[str, int]:
    """Products of a linear layer in a step, by part: forward, and for its two gradients."""
    products = {"encoder": 3, "within": 3, "across": 3, "heads": 3}
    if config.optim.encoder_lr_scale == 0:
        products["encoder"] = 2  # the embeddings of the priors still learn
    if not config.optim.frozen:
        return products
    prefixes = {
        "encoder": ("encoder/blocks/",),
        "within": ("within_patch/",),
        "across": ("across_patches/",),
        "heads": tuple(f"{name}_head/" for name in config.model.outputs),
    }
    trained = [path for path in param_paths(config.model) if not config.optim.freezes(path)]
    for part, prefix in prefixes.items():
        if not any(path.startswith(prefix) and path.endswith("/kernel") for path in trained):
            products[part] = 2
    if not any(path.startswith("encoder/") for path in trained):
        products["encoder"] = 1  # nothing before the pairs of blocks needs a gradient
    return products


def executed(config: Config, patches: int) -> Flops:
    """A lower bound on the operations that an accelerator executes in a step for one image.

    To those of `training` it adds what remat repeats, the scores that every attention kernel
    computes again for its gradients, and resampling, which accelerators do by matrix products.
    """
    model = config.model
    remat = model.remat != "none"
    repeats = 1 if remat else 0
    # With remat, DPT heads that take some patches at a time are repeated for their gradients.
    head_repeats = 1 if remat and patches > head_chunk(*model.tokens, remat) else 0
    attention = 4.5 if model.remat == "blocks" else 3.5
    products = _products(config)
    encoder_has_gradients = products["encoder"] > 1
    flops = forward(model, patches).scaled(
        3,
        encoder_linear=products["encoder"] + (repeats if encoder_has_gradients else 0),
        encoder_attention=attention if encoder_has_gradients else 1,
        within_linear=products["within"] + repeats,
        within_attention=attention,
        across_linear=products["across"] + repeats,
        across_attention=attention,
        dpt_heads=products["heads"] + head_repeats,
    )
    resampling = (2 + head_repeats) * patches * len(model.outputs) * _resampling(model)
    return replace(flops, dpt_heads=flops.dpt_heads + resampling)


def _linear(width: int, ffn: str = "mlp") -> float:
    """The linear layers of a block, for one token."""
    attention = 4 * width * width
    if ffn == "mlp":
        return 2 * (attention + 8 * width * width)
    return 2 * (attention + 3 * swiglu_hidden(width) * width)


def _attention(width: int, queries: int, keys: int) -> float:
    """Scores and the weighted sum of values, over all heads."""
    return 2 * 2 * queries * keys * width


def _dpt_head(model: Model, outputs: int) -> float:
    """A DPT head on one patch."""
    h, w = model.tokens
    features = model.dpt_features
    channels = model.dpt_channels
    macs = h * w * 2 * model.width * sum(channels)  # projections of the tokens
    macs += h * w * 16 * channels[0] ** 2  # enlarged 4 times
    macs += h * w * 4 * channels[1] ** 2  # enlarged twice
    macs += _halving_taps(h) * _halving_taps(w) * channels[3] ** 2
    for i, (rows, cols) in enumerate(_level_sizes(model)):
        macs += _conv(rows, cols, channels[i], features)
        convolutions = 2 if i == 3 else 4  # of one or two residual blocks
        macs += convolutions * _conv(rows, cols, features, features)
        macs += rows * cols * features**2
    macs += _conv(8 * h, 8 * w, features, features // 2)
    macs += _conv(TOKEN_SIZE * h, TOKEN_SIZE * w, features // 2, DETAIL)
    macs += TOKEN_SIZE * h * TOKEN_SIZE * w * DETAIL * outputs
    return 2 * macs


def _level_sizes(model: Model) -> list[tuple[int, int]]:
    """Rows and columns of the levels of a DPT head, from fine to coarse."""
    h, w = model.tokens
    return [(4 * h, 4 * w), (2 * h, 2 * w), (h, w), (math.ceil(h / 2), math.ceil(w / 2))]


def _conv(rows: int, cols: int, inputs: int, outputs: int) -> float:
    """Multiply-adds of a 3 x 3 convolution, without those with the zeros around the map."""
    return (3 * rows - 2) * (3 * cols - 2) * inputs * outputs


def _halving_taps(side: int) -> int:
    """Pixels that a kernel of 3 at stride 2 reads along a side, without the zeros around it."""
    taps = 3 * math.ceil(side / 2) - 1
    if side % 2 == 1:
        taps -= 1
    return taps


def _resampling(model: Model) -> float:
    """Products with the matrices that enlarge the maps of a DPT head, for one patch."""
    h, w = model.tokens
    sizes = _level_sizes(model)[::-1]
    sizes.append((8 * h, 8 * w))
    macs = 0
    for small, large in itertools.pairwise(sizes):
        macs += model.dpt_features * _enlarge(small, large)
    macs += model.dpt_features // 2 * _enlarge(sizes[-1], (TOKEN_SIZE * h, TOKEN_SIZE * w))
    return 2 * macs


def _enlarge(old: tuple[int, int], new: tuple[int, int]) -> int:
    """Multiply-adds for one channel: rows first, then columns."""
    return new[0] * old[0] * old[1] + new[0] * new[1] * old[1]
