"""Metric3D v2: depth in metres and normals from an image.

Line numbers such as (:548) refer to the released code's
`mono/model/decode_heads/RAFTDepthNormalDPTDecoder5.py`.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from urgt_jax.config import TOKEN_SIZE, Vit, check_positive
from urgt_jax.errors import require
from urgt_jax.images.resize import resize_linear
from urgt_jax.models import imagenet
from urgt_jax.models.convolution import Conv
from urgt_jax.models.dpt import ConvTranspose, Residual
from urgt_jax.models.layers import Norm, linear
from urgt_jax.models.resize import resize
from urgt_jax.models.vit import VisionTransformer

CONTEXT_EPS = 1e-5  # of the contexts' layer norms; the transformer's is 1e-6
DEPTH_STEP = 100.0  # change of depth that a change of 1 in the refined map stands for, metres
GUESS_HIDDEN = 128  # channels in the branch that guesses the normal
# Channels of the refined map: depth, confidence of depth, normal (3), concentration of the normal.
FLOW_CHANNELS = 6
UPSAMPLING = 4  # size of the output over the size of the refined map
MEAN = (255 * imagenet.MEAN).astype(np.float32)  # of bytes
STD = (255 * imagenet.STD).astype(np.float32)
Map = Float[Array, "B _ _ _"]  # channels last
Levels = list[Map]  # at 1/4, 1/7 and 1/14 of the image


@dataclass(frozen=True)
class Metric3DConfig:
    """The shape of a Metric3D v2."""

    vit: Vit = field(default_factory=lambda: Vit(position_resampling="offset"))
    reads: Literal["last", "quarters"] = "last"  # normed last tokens, or raw at every quarter
    channels: tuple[int, int] = (256, 512)  # of the maps at 1/4 and 1/7; at 1/14 the tokens'
    hidden: int = 128  # channels of the recurrent maps
    iters: int = 8  # rounds of refinement
    bins: int = 256  # depths that the first guess chooses between
    nearest: float = 0.1  # smallest depth, metres
    farthest: float = 200.0  # largest depth, metres
    input_size: tuple[int, int] = (616, 1064)  # height and width that an image is fitted to, pixels

    def __post_init__(self) -> None:
        check_positive("metric3d", self, "hidden", "iters", "bins", "nearest")
        require(
            self.nearest < self.farthest,
            f"metric3d.nearest {self.nearest} must be below metric3d.farthest {self.farthest}",
        )
        # With other sides the output is smaller than the input, and normals would be misplaced.
        require(
            all(side > 0 and side % (2 * TOKEN_SIZE) == 0 for side in self.input_size),
            f"metric3d.input_size {self.input_size}: sides must be multiples of {2 * TOKEN_SIZE}",
        )

    @property
    def layers(self) -> tuple[int, int, int, int]:
        """Blocks whose tokens are decoded, for the finest map first."""
        depth = self.vit.depth
        if self.reads == "last":
            return depth - 1, depth - 1, depth - 1, depth - 1
        quarter = depth // 4
        return quarter - 1, 2 * quarter - 1, 3 * quarter - 1, 4 * quarter - 1


class Readout(nnx.Module):
    """Tokens as a map; the class token and the registers are added to all its pixels."""

    def __init__(self, width: int, special_tokens: int, dtype, rngs: nnx.Rngs):
        self.patch = linear(width, width, dtype, rngs)
        self.special = nnx.Linear(
            special_tokens * width,
            width,
            use_bias=False,
            dtype=dtype,
            rngs=rngs,
            kernel_init=nnx.initializers.lecun_uniform(),
        )

    def __call__(self, tokens: Float[Array, "B N D"], rows: int, cols: int) -> Map:
        batch, count, width = tokens.shape
        special, patches = jnp.split(tokens, [count - rows * cols], 1)
        y = self.patch(patches) + self.special(special.reshape(batch, 1, -1))
        return jax.nn.gelu(y, approximate=False).reshape(batch, rows, cols, width)


class Reassembly(nnx.Module):
    """Four maps from tokens, the finest first: at 1/4, 1/7, 1/14 and 1/14 of the image."""

    def __init__(self, config: Metric3DConfig, rngs: nnx.Rngs):
        width = config.vit.width
        special_tokens = 1 + config.vit.registers
        self.reads = nnx.List([Readout(width, special_tokens, jnp.float32, rngs) for _ in range(4)])
        self.finest = linear(width, config.channels[0], jnp.float32, rngs)
        self.upsample = ConvTranspose(width, config.channels[1], 2, jnp.float32, rngs)

    def __call__(self, tokens: list[Float[Array, "B N D"]], rows: int, cols: int) -> list[Map]:
        maps = [read(x, rows, cols) for read, x in zip(self.reads, tokens, strict=True)]
        # A 1 x 1 convolution commutes with repetition and is cheaper before it.
        finest = enlarge_nearest(self.finest(maps[0]))
        return [finest, self.upsample(maps[1]), maps[2], maps[3]]


def enlarge_nearest(x: Map) -> Map:
    """A map at 3.5 times its size, rounded down, by repetition of pixels."""
    _, height, width, _ = x.shape
    rows = np.arange(7 * height // 2) * 2 // 7
    cols = np.arange(7 * width // 2) * 2 // 7
    return x[:, rows][:, :, cols]


class Fuse(nnx.Module):
    """Adds a finer map to a coarser one and enlarges the sum."""

    def __init__(self, inputs: int, outputs: int, branch: bool, rngs: nnx.Rngs):
        # The released ReLU works in place (:548), so the skips add relu(x).
        self.branch = Residual(inputs, True, jnp.float32, rngs) if branch else None
        self.trunk = Residual(inputs, True, jnp.float32, rngs)
        self.out = linear(inputs, outputs, jnp.float32, rngs)

    def __call__(self, x: Map, finer: Map | None, size: tuple[int, int]) -> Map:
        if self.branch is not None:
            x = x + self.branch(finer)
        # A 1 x 1 convolution commutes with bilinear resampling and is cheaper before it.
        x = self.out(self.trunk(x))
        return resize(x, size[0], size[1], align_corners=True)


class Guess(nnx.Module):
    """The map that refinement starts from: a depth out of bins, and a normal."""

    def __init__(self, config: Metric3DConfig, rngs: nnx.Rngs):
        fine, middle = config.channels
        coarse = config.vit.width
        bins = config.bins
        self.fuses = nnx.List(
            [
                Fuse(middle, fine + 2, True, rngs),
                Fuse(coarse, middle, True, rngs),
                Fuse(coarse, coarse, False, rngs),
            ]
        )
        self.depth = nnx.List(
            [
                Conv(3, fine, bins, jnp.float32, rngs),
                linear(bins, bins, jnp.float32, rngs),
            ]
        )
        self.normal = nnx.List(
            [
                Conv(3, fine, GUESS_HIDDEN, jnp.float32, rngs),
                linear(GUESS_HIDDEN, GUESS_HIDDEN, jnp.float32, rngs),
                linear(GUESS_HIDDEN, GUESS_HIDDEN, jnp.float32, rngs),
                linear(GUESS_HIDDEN, 3, jnp.float32, rngs),
            ]
        )
        self.config = config

    def __call__(self, maps: list[Map]) -> Map:
        c = self.config
        features, confidence = jnp.split(self.fuse(maps), [c.channels[0]], -1)
        depth_confidence = confidence[..., :1]
        normal_concentration = confidence[..., 1:]
        weights = jax.nn.softmax(perceptron(self.depth, features))
        depth = jnp.sum(weights * bin_depths(c), -1, keepdims=True).clip(c.nearest, c.farthest)
        normal = perceptron(self.normal, features)
        normal = normalise(jnp.concatenate([normal, normal_concentration], -1))
        flow_depth = (depth - c.farthest) / DEPTH_STEP
        return jnp.concatenate([flow_depth, depth_confidence, normal], -1)

    def fuse(self, maps: list[Map]) -> Map:
        """Features at the size of the finest map, then two channels of confidence."""
        x = self.fuses[2](maps[3], None, maps[2].shape[1:3])
        x = self.fuses[1](x, maps[2], maps[1].shape[1:3])
        return self.fuses[0](x, maps[1], maps[0].shape[1:3])


def bin_depths(config: Metric3DConfig) -> Float[np.ndarray, "N"]:
    """The depths of the bins in metres, evenly spaced in their logarithm."""
    return np.geomspace(config.nearest, config.farthest, config.bins).astype(np.float32)


def perceptron(layers: nnx.List, x: Map) -> Map:
    """The layers one after the other, with ReLU between them."""
    for i, layer in enumerate(layers):
        if i > 0:
            x = jax.nn.relu(x)
        x = layer(x)
    return x


def normalise(normal: Float[Array, "*B 4"]) -> Float[Array, "*B 4"]:
    """The normal at unit length, and its concentration above 0 (:236-243)."""
    direction = normal[..., :3]
    concentration = normal[..., 3:]
    length = jnp.sqrt(jnp.sum(direction**2, -1, keepdims=True)) + 1e-10
    concentration = jax.nn.elu(concentration) + 1.01
    return jnp.concatenate([direction / length, concentration], -1)


class Context(nnx.Module):
    """A residual block and a convolution, for one of the two contexts of a level."""

    def __init__(self, inputs: int, hidden: int, rngs: nnx.Rngs):
        self.conv1 = Conv(3, inputs, hidden, jnp.float32, rngs)
        self.conv2 = Conv(3, hidden, hidden, jnp.float32, rngs)
        self.skip = linear(inputs, hidden, jnp.float32, rngs)
        self.norm1 = Norm(hidden, CONTEXT_EPS, rngs)
        self.norm2 = Norm(hidden, CONTEXT_EPS, rngs)
        self.norm3 = Norm(hidden, CONTEXT_EPS, rngs)
        self.out = Conv(3, hidden, hidden, jnp.float32, rngs)

    def __call__(self, x: Map) -> Map:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = jax.nn.relu(self.norm2(self.conv2(y)))
        return self.out(jax.nn.relu(self.norm3(self.skip(x)) + y))


class Gru(nnx.Module):
    """A convolutional gated recurrent unit."""

    def __init__(self, hidden: int, inputs: int, rngs: nnx.Rngs):
        self.z = Conv(3, hidden + inputs, hidden, jnp.float32, rngs)
        self.r = Conv(3, hidden + inputs, hidden, jnp.float32, rngs)
        self.q = Conv(3, hidden + inputs, hidden, jnp.float32, rngs)

    def __call__(self, state: Map, context: Map, x: Map) -> Map:
        z_context, r_context, q_context = jnp.split(context, 3, -1)
        state_and_x = jnp.concatenate([state, x], -1)
        z = jax.nn.sigmoid(self.z(state_and_x) + z_context)
        r = jax.nn.sigmoid(self.r(state_and_x) + r_context)
        q = jnp.tanh(self.q(jnp.concatenate([r * state, x], -1)) + q_context)
        return (1 - z) * state + z * q


class Update(nnx.Module):
    """One round of refinement: a recurrent unit for each of three levels."""

    def __init__(self, config: Metric3DConfig, rngs: nnx.Rngs):
        h = config.hidden
        self.grus = nnx.List(
            [
                Gru(h, FLOW_CHANNELS + h, rngs),
                Gru(h, 2 * h, rngs),
                Gru(h, h, rngs),
            ]
        )
        # The last layers are drawn first, which a seed's weights depend on.
        depth_last = Conv(3, h, 2, jnp.float32, rngs)
        normal_last = Conv(3, h, 4, jnp.float32, rngs)
        mask_last = linear(h, 9 * UPSAMPLING**2, jnp.float32, rngs)
        self.depth = nnx.List([Conv(3, h, h, jnp.float32, rngs), depth_last])
        self.normal = nnx.List([Conv(3, h, h, jnp.float32, rngs), normal_last])
        self.mask = nnx.List([Conv(3, h, h, jnp.float32, rngs), mask_last])

    def __call__(self, states: Levels, contexts: Levels, flow: Map) -> tuple[Levels, Map]:
        """The new states, and the change of the refined map."""
        fine, middle, coarse = states
        # Coarse levels are updated more often (:962-966).
        coarse = self._update_coarse(middle, coarse, contexts)
        for _ in range(2):
            coarse = self._update_coarse(middle, coarse, contexts)
            middle = self._update_middle(fine, middle, coarse, contexts)
        x = jnp.concatenate([flow, _resize_like(middle, fine)], -1)
        fine = self.grus[0](fine, contexts[0], x)
        change = [perceptron(self.depth, fine), perceptron(self.normal, fine)]
        return [fine, middle, coarse], jnp.concatenate(change, -1)

    def _update_coarse(self, middle: Map, coarse: Map, contexts: Levels) -> Map:
        x = _resize_like(pool(middle), coarse)
        return self.grus[2](coarse, contexts[2], x)

    def _update_middle(self, fine: Map, middle: Map, coarse: Map, contexts: Levels) -> Map:
        finer = _resize_like(pool(fine), middle)
        coarser = _resize_like(coarse, middle)
        return self.grus[1](middle, contexts[1], jnp.concatenate([finer, coarser], -1))


def _resize_like(x: Map, other: Map) -> Map:
    _, height, width, _ = other.shape
    return resize(x, height, width, align_corners=True)


def pool(x: Map) -> Map:
    """Means of 3 x 3 pixels at stride 2; zeros around the map count."""
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    sums = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 2, 2, 1), border)
    return sums / 9


def upsample(
    flow: Float[Array, "B H W C"], mask: Float[Array, "B H W M"]
) -> Float[Array, "B 4*H 4*W C"]:
    """A map at 4 times its size; each new pixel is a convex combination of 3 x 3 old ones.

    `mask` holds the logits of their weights. Outside the map the old pixels are zeros.
    """
    b, h, w, c = flow.shape
    logits = mask.reshape(b, h, w, 9, UPSAMPLING, UPSAMPLING) / 4
    weights = jax.nn.softmax(logits, 3)
    padded = jnp.pad(flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    fine = jnp.einsum("bhwkij,kbhwc->bhiwjc", weights, jnp.stack(shifted))
    return fine.reshape(b, UPSAMPLING * h, UPSAMPLING * w, c)


class Metric3D(nnx.Module):
    """Depth, its confidence and normals of images normalised by `prepare`."""

    def __init__(self, config: Metric3DConfig, rngs: nnx.Rngs):
        self.config = config
        hidden = config.hidden
        self.vit = VisionTransformer(config.vit, jnp.float32, rngs)
        self.reassembly = Reassembly(config, rngs)
        self.guess = Guess(config, rngs)
        channels = (*config.channels, config.vit.width)
        self.states = nnx.List([Context(n, hidden, rngs) for n in channels])
        self.contexts = nnx.List([Context(n, hidden, rngs) for n in channels])
        self.gates = nnx.List([Conv(3, hidden, 3 * hidden, jnp.float32, rngs) for _ in range(3)])
        self.update = Update(config, rngs)

    def __call__(
        self, image: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B h w"], Float[Array, "B h w"], Float[Array, "B h w 4"]]:
        """Depth in metres, its confidence (any number), and normals with their concentration."""
        tokens, rows, cols = self.encode(image)
        maps = self.reassembly(tokens, rows, cols)
        states, contexts = self.start(maps)
        flow, mask = self.refine(states, contexts, self.guess(maps))
        return self.outputs(upsample(flow, mask))

    def encode(
        self, image: Float[Array, "B H W 3"]
    ) -> tuple[list[Float[Array, "B N D"]], int, int]:
        """The tokens for the four maps, the finest first, and their rows and columns."""
        _, height, width, _ = image.shape
        rows = math.ceil(height / TOKEN_SIZE)
        cols = math.ceil(width / TOKEN_SIZE)
        image = resize(image, rows * TOKEN_SIZE, cols * TOKEN_SIZE)
        tokens = self.vit.intermediate_layers(self.vit.embed(image), self.config.layers)
        if self.config.reads == "last":
            tokens = [self.vit.norm(tokens[-1])] * 4
        return tokens, rows, cols

    def start(self, maps: list[Map]) -> tuple[Levels, Levels]:
        """The first states of the recurrent units, and the contexts that they read every round."""
        # The fusion's in-place ReLU has changed these two maps, but not the finest (:916, :933).
        maps = [maps[0], jax.nn.relu(maps[1]), jax.nn.relu(maps[2])]
        states = [jnp.tanh(self.states[i](maps[i])) for i in range(3)]
        contexts = [self.gates[i](jax.nn.relu(self.contexts[i](maps[i]))) for i in range(3)]
        return states, contexts

    def refine(self, states: Levels, contexts: Levels, flow: Map) -> tuple[Map, Map]:
        """The map after all rounds, and the logits of the weights for `upsample`."""

        def run_round(carry, _):
            states, flow = carry
            states, change = self.update(states, contexts, flow)
            return (states, flow + change), None

        (states, flow), _ = jax.lax.scan(run_round, (states, flow), length=self.config.iters)
        return flow, perceptron(self.update.mask, states[0])

    def outputs(
        self, flow: Float[Array, "B H W 6"]
    ) -> tuple[Float[Array, "B H W"], Float[Array, "B H W"], Float[Array, "B H W 4"]]:
        """Depth, its confidence, and normals with their concentration, from the refined map."""
        c = self.config
        depth = jnp.clip(flow[..., 0] * DEPTH_STEP + c.farthest, c.nearest, c.farthest)
        confidence = flow[..., 1]
        # The guess was normalised already, so concentrations go through this twice.
        return depth, confidence, normalise(flow[..., 2:])


def prepare(
    image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]
) -> tuple[Float[np.ndarray, "1 h w 3"], tuple[slice, slice]]:
    """The image resized to fit into `size` (height, width), with a border, and normalised.

    With it come the rows and columns that the image fills.
    """
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    # Truncated as in the released code: at some heights (289, 559) the product rounds down, and
    # 615 of 616 rows are used.
    height = int(image.shape[0] * scale)
    width = int(image.shape[1] * scale)
    top = (size[0] - height) // 2
    left = (size[1] - width) // 2
    window = slice(top, top + height), slice(left, left + width)
    canvas = np.empty((*size, 3), np.uint8)
    canvas[:] = np.rint(MEAN)  # the border has bytes too, so it is not quite 0 when normalised
    canvas[window] = resize_linear(image, height, width)
    normalised = (canvas.astype(np.float32) - MEAN) / STD
    return normalised[None], window


def build(config: Metric3DConfig, seed: int) -> Metric3D:
    """A network with weights drawn from the seed."""
    return Metric3D(config, nnx.Rngs(seed))
