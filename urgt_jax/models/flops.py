"""Floating point operations of a refiner, from its configuration; a multiply-add counts as two.

Matrix products and convolutions are counted. What works on each number by itself (norms, GELU,
softmax, rotations, bilinear resampling, losses, the optimiser) is left out, as is usual where a
share of a machine's peak is told.
"""

import itertools
import math
from dataclasses import dataclass, fields, replace

from urgt_jax.config import TOKEN_SIZE, Config, Model
from urgt_jax.models.dpt import DETAIL
from urgt_jax.models.refiner import CHANNELS, SPECIAL_TOKENS, tokens_per_patch


@dataclass(frozen=True)
class Flops:
    """Operations of a pass over one picture; attention is what grows with the square of tokens."""

    embedding: float  # squares of pixels to tokens
    encoder_linear: float
    encoder_attention: float
    within_linear: float
    within_attention: float
    across_linear: float
    across_attention: float
    dpt_heads: float

    @property
    def total(self) -> float:
        """All of them."""
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def encoder(self) -> float:
        """Those of DINOv2."""
        return self.embedding + self.encoder_linear + self.encoder_attention

    @property
    def pairs(self) -> float:
        """Those of the pairs of blocks."""
        return self.total - self.encoder - self.dpt_heads

    def scaled(self, factor: float, **factors: float) -> "Flops":
        """Every part times `factor`, or a factor of its own."""
        return Flops(
            **{f.name: getattr(self, f.name) * factors.get(f.name, factor) for f in fields(self)}
        )


def forward(model: Model, patches: int, pool: int = 1) -> Flops:
    """Operations of a forward pass over one picture of that many patches.

    With `pool` above 1 patches see cells of so many tokens a side of one another.
    """
    lattice = model.tokens[0] * model.tokens[1]
    encoder, width = model.encoder, model.width
    seen, tokens = lattice + 1 + encoder.registers, tokens_per_patch(model)
    pairs = max(model.dpt_layers) + 1  # later ones are not run
    seen_of_each = SPECIAL_TOKENS + math.prod(-(-n // pool) for n in model.tokens)
    keys = seen_of_each * patches if model.cross_patch else tokens
    pixels = (
        TOKEN_SIZE * TOKEN_SIZE * (3 + sum(CHANNELS.values()))
    )  # of the picture and its coarse maps
    return Flops(
        embedding=2 * patches * lattice * pixels * width,
        encoder_linear=encoder.depth * patches * seen * _linear(width, encoder.ffn),
        encoder_attention=encoder.depth * patches * _attention(width, seen, seen),
        within_linear=pairs * patches * tokens * _linear(width),
        within_attention=pairs * patches * _attention(width, tokens, tokens),
        across_linear=pairs * patches * tokens * _linear(width),
        across_attention=pairs * patches * _attention(width, tokens, keys),
        dpt_heads=patches * sum(_head(model, 1 + CHANNELS[name]) for name in model.outputs),
    )


def training(config: Config, patches: int) -> Flops:
    """Operations that a step needs for one picture; what remat computes again is not counted.

    Each product has two more of its size in the backward pass. A frozen encoder lacks those for
    its weights, but not those on the way to the embeddings of the priors, which learn.
    """
    once = forward(config.model, patches)
    return once.scaled(3) if config.optim.encoder_lr_scale else once.scaled(3, encoder_linear=2)


def executed(config: Config, patches: int) -> Flops:
    """Operations that an accelerator does at least for a step on one picture.

    Beside those of `training`: what remat computes again, the scores that every kernel of
    attention computes again for its gradients, and resampling, which is done by matrices there.
    """
    model, again = config.model, config.model.remat != "none"
    attention = 3.5 + (model.remat == "blocks")
    heads_again = again and patches > 2  # with remat they are done two at a time
    found = forward(model, patches).scaled(
        3,
        encoder_linear=(3 if config.optim.encoder_lr_scale else 2) + again,
        encoder_attention=attention,
        within_linear=3 + again,
        within_attention=attention,
        across_linear=3 + again,
        across_attention=attention,
        dpt_heads=3 + heads_again,
    )
    resampling = (2 + heads_again) * patches * len(model.outputs) * _resampling(model)
    return replace(found, dpt_heads=found.dpt_heads + resampling)


def _linear(width: int, ffn: str = "mlp") -> float:
    """A block's layers, for each token."""
    attention = 4 * width * width
    hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
    inner = 8 * width * width if ffn == "mlp" else 3 * hidden * width
    return 2 * (attention + inner)


def _attention(width: int, queries: int, keys: int) -> float:
    """Scores and their weighted sum, over all heads."""
    return 2 * 2 * queries * keys * width


def _head(model: Model, outputs: int) -> float:
    """A DPT head on one patch."""
    (h, w), features, channels = model.tokens, model.dpt_features, model.dpt_channels
    lattice, halved = h * w, ((h + 1) // 2, (w + 1) // 2)
    sizes = [(4 * h, 4 * w), (2 * h, 2 * w), (h, w), halved]
    macs = lattice * 2 * model.width * sum(channels)  # projections of the tokens
    macs += lattice * (16 * channels[0] ** 2 + 4 * channels[1] ** 2)  # enlarged by 4 and 2
    macs += _halving_taps(h) * _halving_taps(w) * channels[3] ** 2
    for i, (rows, cols) in enumerate(sizes):
        macs += _conv(rows, cols, channels[i], features)
        residuals = 1 if i == 3 else 2
        macs += 2 * residuals * _conv(rows, cols, features, features) + rows * cols * features**2
    macs += _conv(8 * h, 8 * w, features, features // 2)
    macs += _conv(TOKEN_SIZE * h, TOKEN_SIZE * w, features // 2, DETAIL)
    macs += TOKEN_SIZE**2 * lattice * DETAIL * outputs
    return 2 * macs


def _conv(rows: int, cols: int, fan_in: int, out: int) -> float:
    """Multiply-adds of a 3 x 3 convolution, without those with the zeros around the map."""
    return (3 * rows - 2) * (3 * cols - 2) * fan_in * out


def _halving_taps(side: int) -> int:
    """Pixels that a kernel of 3 at stride 2 sees along a side, without the zeros around it."""
    return 3 * ((side + 1) // 2) - 1 - side % 2


def _resampling(model: Model) -> float:
    """Products with the matrices that enlarge a head's maps of one patch."""
    (h, w), features = model.tokens, model.dpt_features
    sizes = [(-(-h // 2), -(-w // 2)), (h, w), (2 * h, 2 * w), (4 * h, 4 * w), (8 * h, 8 * w)]
    macs = sum(features * _stretch(*pair) for pair in itertools.pairwise(sizes))
    macs += features // 2 * _stretch(sizes[-1], (TOKEN_SIZE * h, TOKEN_SIZE * w))
    return 2 * macs


def _stretch(old: tuple[int, int], new: tuple[int, int]) -> int:
    """Multiply-adds of a channel: rows first, then columns."""
    return new[0] * old[0] * old[1] + new[0] * new[1] * old[1]
