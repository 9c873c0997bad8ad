"""What an experiment is made of: frozen dataclasses, whose comments are the command line's help."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from urgt_jax.config import TOKEN_SIZE, Vit, check_positive
from urgt_jax.errors import require
from urgt_jax.images.resize import resize_corners, resize_linear
from urgt_jax.models.convolution import Conv
from urgt_jax.models.dpt import ConvTranspose, Residual
from urgt_jax.models.layers import Norm, linear
from urgt_jax.models.resize import resize
from urgt_jax.models.vit import VisionTransformer


@dataclass(frozen=True)
class Metric3DConfig:
    """Metric3D v2: depth in metres and normals from a picture."""

    vit: Vit = field(default_factory=lambda: Vit(position_resampling="offset"))
    reads: Literal["last", "quarters"] = "last"  # normed last tokens, or raw at every quarter
    channels: tuple[int, int] = (256, 512)  # of the maps at 1/4 and 1/7; at 1/14 the tokens'
    hidden: int = 128  # channels of the recurrent maps
    iters: int = 8  # rounds of refinement
    bins: int = 256  # depths between which the first guess chooses
    nearest: float = 0.1  # least depth, metres
    farthest: float = 200.0  # largest depth, metres
    input_size: tuple[int, int] = (616, 1064)  # height and width a picture is fitted into, pixels

    def __post_init__(self) -> None:
        check_positive("metric3d", self, "hidden", "iters", "bins", "nearest")
        require(
            self.nearest < self.farthest,
            f"metric3d.nearest {self.nearest} must be below metric3d.farthest {self.farthest}",
        )
        # Others come out smaller than they went in, and normals would be laid out askew.
        require(
            all(side > 0 and side % (2 * TOKEN_SIZE) == 0 for side in self.input_size),
            f"metric3d.input_size {self.input_size}: sides must be multiples of {2 * TOKEN_SIZE}",
        )

    @property
    def layers(self) -> tuple[int, int, int, int]:
        """Blocks whose tokens are decoded, for the finest map first."""
        if self.reads == "last":
            return (self.vit.depth - 1,) * 4
        first, second, third, last = (self.vit.depth // 4 * i - 1 for i in range(1, 5))
        return first, second, third, last


EPS = 1e-5  # of the context's layer norms; the transformer's is 1e-6
STEP = 100.0  # metres that a change of 1 in the refined map stands for
FLOW = 6  # channels of the refined map: depth, its confidence, normal (3), normal's concentration
MEAN = np.float32([123.675, 116.28, 103.53])  # ImageNet's, of bytes
STD = np.float32([58.395, 57.12, 57.375])
TIMES = 4  # the output's size over the refined map's
Map = Float[Array, "B H W C"]
Levels = list[Map]  # at 1/4, 1/7 and 1/14 of the picture


class Readout(nnx.Module):
    """Tokens as a map of patches, each told what the class token and the registers hold."""

    def __init__(self, width: int, special: int, dtype, rngs: nnx.Rngs):
        self.patch = linear(width, width, dtype, rngs)
        self.special = nnx.Linear(
            special * width, width, use_bias=False, dtype=dtype, rngs=rngs,
            kernel_init=nnx.initializers.lecun_uniform(),
        )  # fmt: skip

    def __call__(self, tokens: Float[Array, "B N D"], rows: int, cols: int) -> Map:
        b, _, width = tokens.shape
        special, patches = jnp.split(tokens, [tokens.shape[1] - rows * cols], 1)
        y = self.patch(patches) + self.special(special.reshape(b, 1, -1))
        return jax.nn.gelu(y, approximate=False).reshape(b, rows, cols, width)


class Reassembly(nnx.Module):
    """Four maps from tokens, the finest first: at 1/4, 1/7, 1/14 and again 1/14 of the picture."""

    def __init__(self, c: Metric3DConfig, rngs: nnx.Rngs):
        width, special = c.vit.width, 1 + c.vit.registers
        self.reads = nnx.List([Readout(width, special, jnp.float32, rngs) for _ in range(4)])
        self.finest = linear(width, c.channels[0], jnp.float32, rngs)
        self.upsample = ConvTranspose(width, c.channels[1], 2, jnp.float32, rngs)

    def __call__(self, tokens: list[Float[Array, "B N D"]], rows: int, cols: int) -> list[Map]:
        maps = [read(x, rows, cols) for read, x in zip(self.reads, tokens, strict=True)]
        # A map of each pixel on its own commutes with repetition, and is cheaper before.
        return [enlarge_nearest(self.finest(maps[0])), self.upsample(maps[1]), *maps[2:]]


def enlarge_nearest(x: Map) -> Map:
    """Three and a half times the size, rounded down, by repetition."""
    rows, cols = (np.arange(7 * side // 2) * 2 // 7 for side in x.shape[1:3])
    return x[:, rows][:, :, cols]


class Fuse(nnx.Module):
    """Adds a finer map to a coarser one and enlarges the sum."""

    def __init__(self, channels: int, out: int, branch: bool, rngs: nnx.Rngs):
        # ConvBlock's ReLU works in place (:548), so that its skip adds relu(x).
        self.branch = Residual(channels, True, jnp.float32, rngs) if branch else None
        self.trunk = Residual(channels, True, jnp.float32, rngs)
        self.out = linear(channels, out, jnp.float32, rngs)

    def __call__(self, x: Map, finer: Map | None, size: tuple[int, int]) -> Map:
        if self.branch is not None:
            x = x + self.branch(finer)
        # A map of each pixel on its own commutes with bilinear enlargement; it is cheaper before.
        return resize(self.out(self.trunk(x)), *size, align_corners=True)


class Guess(nnx.Module):
    """The map that refinement starts from: depth out of bins, and a normal."""

    def __init__(self, c: Metric3DConfig, rngs: nnx.Rngs):
        f, width, hidden = c.channels, c.vit.width, 128
        self.fuses = nnx.List([
            Fuse(f[1], f[0] + 2, True, rngs),
            Fuse(width, f[1], True, rngs),
            Fuse(width, width, False, rngs),
        ])  # fmt: skip
        self.depth = nnx.List([
            Conv(3, f[0], c.bins, jnp.float32, rngs), linear(c.bins, c.bins, jnp.float32, rngs)
        ])  # fmt: skip
        self.normal = nnx.List([
            Conv(3, f[0], hidden, jnp.float32, rngs),
            *(linear(hidden, out, jnp.float32, rngs) for out in (hidden, hidden, 3)),
        ])  # fmt: skip
        self.config = c

    def __call__(self, maps: list[Map]) -> Map:
        c = self.config
        features, confidence = jnp.split(self.fuse(maps), [c.channels[0]], -1)
        share = jax.nn.softmax(perceptron(self.depth, features))
        depth = jnp.sum(share * anchors(c), -1, keepdims=True).clip(c.nearest, c.farthest)
        normal = jnp.concatenate([perceptron(self.normal, features), confidence[..., 1:]], -1)
        parts = [(depth - c.farthest) / STEP, confidence[..., :1], directed(normal)]
        return jnp.concatenate(parts, -1)

    def fuse(self, maps: list[Map]) -> Map:
        """Features of the finest map's size, and two channels of confidence after them."""
        sizes = [m.shape[1:3] for m in maps]
        x = self.fuses[2](maps[3], None, sizes[2])
        x = self.fuses[1](x, maps[2], sizes[1])
        return self.fuses[0](x, maps[1], sizes[0])


def anchors(c: Metric3DConfig) -> Float[np.ndarray, "N"]:
    """The depths of the bins in metres, evenly spaced in their logarithm."""
    return np.geomspace(c.nearest, c.farthest, c.bins).astype(np.float32)


def perceptron(layers: nnx.List, x: Map) -> Map:
    """The layers one after the other, ReLU between them."""
    for i, layer in enumerate(layers):
        x = layer(jax.nn.relu(x) if i else x)
    return x


def directed(normal: Float[Array, "*B 4"]) -> Float[Array, "*B 4"]:
    """The normal at length one, and its concentration above 0 (:236-243)."""
    direction, concentration = normal[..., :3], normal[..., 3:]
    length = jnp.sqrt(jnp.sum(direction**2, -1, keepdims=True)) + 1e-10
    return jnp.concatenate([direction / length, jax.nn.elu(concentration) + 1.01], -1)


class Context(nnx.Module):
    """A residual block and a convolution, for one of a scale's two contexts."""

    def __init__(self, fan_in: int, hidden: int, rngs: nnx.Rngs):
        self.conv1 = Conv(3, fan_in, hidden, jnp.float32, rngs)
        self.conv2 = Conv(3, hidden, hidden, jnp.float32, rngs)
        self.skip = linear(fan_in, hidden, jnp.float32, rngs)
        self.norm1, self.norm2, self.norm3 = (Norm(hidden, EPS, rngs) for _ in range(3))
        self.out = Conv(3, hidden, hidden, jnp.float32, rngs)

    def __call__(self, x: Map) -> Map:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = jax.nn.relu(self.norm2(self.conv2(y)))
        return self.out(jax.nn.relu(self.norm3(self.skip(x)) + y))


class Gru(nnx.Module):
    """A convolutional gated recurrent unit."""

    def __init__(self, hidden: int, inputs: int, rngs: nnx.Rngs):
        self.z, self.r, self.q = (
            Conv(3, hidden + inputs, hidden, jnp.float32, rngs) for _ in range(3)
        )

    def __call__(self, h: Map, context: Map, *inputs: Map) -> Map:
        z, r, q = jnp.split(context, 3, -1)
        x = jnp.concatenate(inputs, -1)
        both = jnp.concatenate([h, x], -1)
        z, r = jax.nn.sigmoid(self.z(both) + z), jax.nn.sigmoid(self.r(both) + r)
        q = jnp.tanh(self.q(jnp.concatenate([r * h, x], -1)) + q)
        return (1 - z) * h + z * q


class Update(nnx.Module):
    """One round of refinement: three units, coarse ones more often, and what the finest changes."""

    def __init__(self, c: Metric3DConfig, rngs: nnx.Rngs):
        h = c.hidden
        self.grus = nnx.List([Gru(h, n, rngs) for n in (FLOW + h, 2 * h, h)])
        self.depth, self.normal, self.mask = (
            nnx.List([Conv(3, h, h, jnp.float32, rngs), last])
            for last in (
                Conv(3, h, 2, jnp.float32, rngs),
                Conv(3, h, 4, jnp.float32, rngs),
                linear(h, 9 * TIMES**2, jnp.float32, rngs),
            )
        )

    def __call__(self, states: Levels, contexts: Levels, flow: Map) -> tuple[Levels, Map]:
        fine, middle, coarse = states
        coarse = self._coarse(middle, coarse, contexts)
        for _ in range(2):  # (:962-966)
            coarse = self._coarse(middle, coarse, contexts)
            middle = self._middle(fine, middle, coarse, contexts)
        fine = self.grus[0](fine, contexts[0], flow, _like(middle, fine))
        change = [perceptron(head, fine) for head in (self.depth, self.normal)]
        return [fine, middle, coarse], jnp.concatenate(change, -1)

    def _coarse(self, middle, coarse, contexts):
        return self.grus[2](coarse, contexts[2], _like(pool(middle), coarse))

    def _middle(self, fine, middle, coarse, contexts):
        around = _like(pool(fine), middle), _like(coarse, middle)
        return self.grus[1](middle, contexts[1], *around)


def _like(x: Map, other: Map) -> Map:
    return resize(x, *other.shape[1:3], align_corners=True)


def pool(x: Map) -> Map:
    """Means of 3 x 3 pixels at stride 2, in which zeros around the map count."""
    window, border = (1, 3, 3, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, (1, 2, 2, 1), border) / 9


def upsample(flow: Map, mask: Float[Array, "B H W M"]) -> Float[Array, "B 4*H 4*W C"]:
    """Convex combinations of 3 x 3 pixels, zeros around the map, with shares for each new pixel."""
    b, h, w, c = flow.shape
    shares = jax.nn.softmax(mask.reshape(b, h, w, 9, TIMES, TIMES) / 4, 3)
    padded = jnp.pad(flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    fine = jnp.einsum("bhwkij,kbhwc->bhiwjc", shares, jnp.stack(shifted))
    return fine.reshape(b, TIMES * h, TIMES * w, c)


class Metric3D(nnx.Module):
    """Depth in metres, its confidence (any number) and normals from normalised pictures."""

    def __init__(self, c: Metric3DConfig, rngs: nnx.Rngs):
        self.config = c
        self.vit = VisionTransformer(c.vit, jnp.float32, rngs)
        self.reassembly = Reassembly(c, rngs)
        self.guess = Guess(c, rngs)
        sizes = (*c.channels, c.vit.width)
        self.states = nnx.List([Context(n, c.hidden, rngs) for n in sizes])
        self.contexts = nnx.List([Context(n, c.hidden, rngs) for n in sizes])
        self.gates = nnx.List([Conv(3, c.hidden, 3 * c.hidden, jnp.float32, rngs) for _ in sizes])
        self.update = Update(c, rngs)

    def __call__(
        self, image: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B h w"], Float[Array, "B h w"], Float[Array, "B h w 4"]]:
        maps = self.reassembly(*self.encode(image))
        states, contexts = self.start(maps)
        flow, mask = self.refine(states, contexts, self.guess(maps))
        return self.outputs(upsample(flow, mask))

    def encode(self, image: Float[Array, "B H W 3"]) -> tuple[list, int, int]:
        """Tokens for the four maps, the finest first, and the rows and columns of patches."""
        rows, cols = (-(-side // TOKEN_SIZE) for side in image.shape[1:3])
        image = resize(image, rows * TOKEN_SIZE, cols * TOKEN_SIZE)
        tokens = self.vit.layers(self.vit.embed(image), self.config.layers)
        if self.config.reads == "last":
            tokens = [self.vit.norm(tokens[-1])] * 4
        return tokens, rows, cols

    def start(self, maps: list[Map]) -> tuple[Levels, Levels]:
        """What the recurrent units start from, and what their gates see in every round."""
        # The fusion's in-place ReLU has reached these two maps, but not the finest (:916, :933).
        maps = [maps[0], jax.nn.relu(maps[1]), jax.nn.relu(maps[2])]
        states = [jnp.tanh(make(x)) for make, x in zip(self.states, maps, strict=True)]
        contexts = [
            gate(jax.nn.relu(make(x)))
            for gate, make, x in zip(self.gates, self.contexts, maps, strict=True)
        ]
        return states, contexts

    def refine(self, states: Levels, contexts: Levels, flow: Map) -> tuple[Map, Map]:
        """The map after all rounds, and the shares by which it is enlarged."""

        def round_(carry, _):
            states, flow = carry
            states, change = self.update(states, contexts, flow)
            return (states, flow + change), None

        (states, flow), _ = jax.lax.scan(round_, (states, flow), length=self.config.iters)
        return flow, perceptron(self.update.mask, states[0])

    def outputs(self, fine: Float[Array, "B H W 6"]):
        """Depth, confidence and normal of an enlarged map."""
        c = self.config
        depth = jnp.clip(fine[..., 0] * STEP + c.farthest, c.nearest, c.farthest)
        # The guess was directed already: concentrations go through twice.
        return depth, fine[..., 1], directed(fine[..., 2:])


class InputWindow(NamedTuple):
    """Where a picture lies in the network's input, pixels."""

    top: int
    left: int
    height: int
    width: int


def prepare(
    image: UInt8[np.ndarray, "H W 3"], process: tuple[int, int]
) -> tuple[Float[np.ndarray, "1 h w 3"], InputWindow]:
    """The picture resized to fit into `process` pixels, with a border, and normalised."""
    h, w, _ = image.shape
    scale = min(process[0] / h, process[1] / w)
    # Truncated, so that rounding of the product leaves 615 rows of 616 at some heights (289, 559).
    height, width = int(h * scale), int(w * scale)
    top, left = (process[0] - height) // 2, (process[1] - width) // 2
    canvas = np.empty((*process, 3), np.uint8)
    canvas[:] = np.rint(MEAN)  # the border is a byte too, and so not quite 0 when normalised
    canvas[top : top + height, left : left + width] = resize_linear(image, height, width)
    return ((canvas.astype(np.float32) - MEAN) / STD)[None], InputWindow(top, left, height, width)


def finish(
    normal: Float[np.ndarray, "1 h w 4"], place: InputWindow, size: tuple[int, int]
) -> Float[np.ndarray, "H W 3"]:
    """The normals at the picture's own size; resampled, they are no longer of length one."""
    top, left, height, width = place
    return resize_corners(normal[0, top : top + height, left : left + width, :3], *size)


def build(c: Metric3DConfig, seed: int) -> Metric3D:
    """A model with weights drawn from the seed."""
    return Metric3D(c, nnx.Rngs(seed))
