"""The mesh of devices and the rules that say how arrays lie on it; model code knows neither."""

import math
import re
from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from urgt_jax import hardware
from urgt_jax.config import Config
from urgt_jax.errors import require
from urgt_jax.models.placement import SINGLE_DEVICE, Placement
from urgt_jax.models.registry import abstract_params

AXES = ("data", "fsdp", "patch")
IMAGES = ("data", "fsdp")  # along which the images of a batch are cut
WHOLE = PartitionSpec()
BYTES = 16  # of a parameter with its gradient and Adam's two moments
EASE = 0.15  # share of a device's memory that these may take where mesh.fsdp is left open
# First match wins, from the path of a parameter to how it is cut. What is stacked for a loop over
# blocks has the block's number first, which is never cut: each turn of the loop gathers one block.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (
        r"(blocks|within_patch|across_patches)/.*/(qkv|fc1|w12)/kernel$",
        PartitionSpec(None, "fsdp", None),
    ),
    (
        r"(blocks|within_patch|across_patches)/.*/(proj|fc2|w3)/kernel$",
        PartitionSpec(None, None, "fsdp"),
    ),
    (r"encoder/(image|depth|normal)/proj/kernel$", PartitionSpec(None, "fsdp")),
    (r"encoder/positions$", PartitionSpec(None, None, "fsdp")),
    (r"pyramid/projects/.*/kernel$", PartitionSpec("fsdp", None)),
    (r"pyramid/upsample\d/kernel$", PartitionSpec(None, "fsdp")),
    (r"pyramid/(halve|levels/\d|fusions/.*/conv\d)/kernel$", PartitionSpec(None, None, "fsdp")),
    (r".*", WHOLE),  # norms, biases, scales, special tokens and a head's last layers: small
)


def make_mesh(config: Config, devices: list | None = None) -> Mesh:
    """The devices as a mesh of data x fsdp x patch."""
    devices = devices or jax.devices()
    c, count = config.mesh, len(devices)
    fsdp = c.fsdp or _fsdp(config, devices)
    inner = fsdp * c.patch
    data = c.data or max(count // inner, 1)
    require(
        data * inner <= count and (c.data > 0 or count % inner == 0),
        f"a mesh of data {c.data or 'all'} x fsdp {fsdp} x patch {c.patch} does not fit {count} "
        "devices: their product must be the number of devices",
    )
    share = data * fsdp * config.optim.accumulate
    require(
        all(config.data.images(m) % share == 0 for m in block_sides(config)),
        f"data.batch {config.data.batch} does not divide among mesh.data x mesh.fsdp = "
        f"{data * fsdp} devices and {config.optim.accumulate} parts (optim.accumulate): change "
        "one of them",
    )
    require(
        c.patch == 1 or not config.data.packed,
        f"mesh.patch {c.patch} does not go with data.batching packed, whose patches are of several "
        "images: set --mesh.patch 1 and share by --mesh.fsdp, or set --data.batching patches",
    )
    shape = (data, fsdp, c.patch)
    chosen = np.array(devices[: data * inner]).reshape(shape)
    return Mesh(chosen, AXES, axis_types=(AxisType.Auto,) * 3)


def _fsdp(config: Config, devices: list) -> int:
    """The fewest devices among which parameters are cut so that a device holds them with ease."""
    chip = hardware.chip_of(devices[0])
    if chip is None:
        return 1
    leaves = jax.tree.leaves(abstract_params(config.model))
    needed = BYTES * sum(x.size for x in leaves) / (EASE * chip.hbm)
    rest = max(len(devices) // (config.mesh.patch * max(config.mesh.data, 1)), 1)
    return next((n for n in range(1, rest) if rest % n == 0 and n >= needed), rest)


def block_sides(config: Config) -> list[int]:
    """The block sides M that occur in training."""
    return [m for m in (1, 2, 3, 4) if config.data.mix[m - 1]]


def image_sharding(mesh: Mesh) -> NamedSharding:
    """Cut along the first axis, the images of a batch."""
    return NamedSharding(mesh, PartitionSpec(IMAGES))


@cache
def process_share(mesh: Mesh) -> tuple[int, int]:
    """Which part of a batch's images this process prepares, and of how many equal parts.

    Processes that share the patches of the same images prepare the same part.
    """
    rows = mesh.devices.reshape(-1, mesh.shape["patch"])
    mine = [
        i for i, row in enumerate(rows) if any(d.process_index == jax.process_index() for d in row)
    ]
    count = len(rows) // max(len(mine), 1)
    require(
        bool(mine)
        and mine == list(range(mine[0], mine[0] + len(mine)))
        and mine[0] % len(mine) == 0,
        f"process {jax.process_index()} has no equal part of the images on a mesh of "
        f"{dict(mesh.shape)}: choose axes that are multiples of the devices of a process",
    )
    return mine[0] // len(mine), count


def put_on_mesh(batch: dict, mesh: Mesh) -> dict:
    """A global batch from the part that this process prepared."""
    _, count = process_share(mesh)

    def place(x):
        shape = (x.shape[0] * count, *x.shape[1:])
        return jax.make_array_from_process_local_data(image_sharding(mesh), x, shape)

    return jax.tree.map(place, batch)


def split_batch(batch: dict, count: int, mesh: Mesh) -> dict:
    """A batch in parts along a new first axis, for which no image leaves its device."""

    def split(x):
        x = jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)
        spec = NamedSharding(mesh, PartitionSpec(None, IMAGES))
        return jax.lax.with_sharding_constraint(x, spec)

    return jax.tree.map(split, batch)


def rule_table(tree, rules=RULES) -> dict[str, PartitionSpec]:
    """The rule that each leaf's path falls under; a rule without a leaf is an error."""
    found, used = {}, set()
    for path, _ in jax.tree_util.tree_leaves_with_path(tree):
        number, found[_name(path)] = _rule(_name(path), rules)
        used.add(number)
    idle = [rules[i][0] for i in range(len(rules)) if i not in used]
    require(not idle, f"sharding rules without a parameter: {', '.join(idle)}")
    return found


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _rule(name: str, rules) -> tuple[int, PartitionSpec]:
    """Number and spec of the first rule that a parameter's name falls under."""
    return next((i, spec) for i, (form, spec) in enumerate(rules) if re.search(form, name))


def param_shardings(tree, mesh: Mesh):
    """The sharding of every leaf, in the shape of the tree; what does not divide stays whole."""
    specs = rule_table(tree).values()
    leaves = jax.tree.leaves(tree)
    shardings = [
        NamedSharding(mesh, spec if _divides(leaf.shape, spec, mesh) else WHOLE)
        for leaf, spec in zip(leaves, specs, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), shardings)


def _divides(shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> bool:
    return all(
        axis is None or side % mesh.shape[axis] == 0
        for side, axis in zip(shape, spec, strict=False)
    )


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(x: jax.Array, mesh: Mesh, own: PartitionSpec) -> jax.Array:
    """A matrix whole on every device; its gradient goes back to where its parts lie."""
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, WHOLE))


def _cut_again(mesh: Mesh, own: PartitionSpec, _, gradient):
    return (jax.lax.with_sharding_constraint(gradient, NamedSharding(mesh, own)),)


_gathered.defvjp(lambda x, mesh, own: (_gathered(x, mesh, own), None), _cut_again)


def placement_for(mesh: Mesh) -> Placement:
    """How activations lie on a mesh; on one device there is nothing to say."""
    return OnMesh(mesh) if mesh.devices.size > 1 else SINGLE_DEVICE


class OnMesh(Placement):
    """Images over data and fsdp, patches over patch; attention across patches moves tokens."""

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self.shards = mesh.shape["patch"]
        self.gathers = mesh.shape["fsdp"] > 1

    def padded_count(self, patches: int) -> int:
        """The number of patches that the patch axis divides."""
        return -(-patches // self.shards) * self.shards

    def map_patches(self, network: Callable, weights, patches):
        """Every device runs the network on its own patches."""
        spec = PartitionSpec(IMAGES, "patch")
        return self._map(network, (WHOLE, spec), spec)(weights, patches)

    def gather_block(self, block, dtype):
        """The matrices of a block, whole and in the dtype they are used in.

        Left to itself the compiler multiplies with parts of them and passes partial sums around,
        which moves several times as much.
        """
        if not self.gathers:
            return block

        def whole(path, x):
            spec = _rule(f"blocks/{_name(path)}".removesuffix("/value"), RULES)[1]
            own = PartitionSpec(*spec[1:])  # without the axis of the loop
            if spec == WHOLE or not _divides(x.shape, own, self.mesh):
                return x
            return _gathered(x.astype(dtype), self.mesh, own)

        return jax.tree_util.tree_map_with_path(whole, block)

    def shard_tokens(self, x):
        """Tokens of its own patches are on each device."""
        spec = PartitionSpec(IMAGES, "patch")
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    def attend(self, kernel, q, k, v, *owners, across: bool):
        """Across patches each device gets all tokens of some heads.

        Where heads are fewer, several devices have the same ones, and a part of the queries each.
        """
        if not across or self.shards == 1:
            arrays, spec = (q, k, v, *owners), PartitionSpec((*IMAGES, "patch"))
            return self._map(kernel, (spec,) * len(arrays), spec)(*arrays)
        mesh = self._split(math.gcd(q.shape[2], self.shards))

        # Written out, since the partitioner gathers whole tensors where it could exchange them.
        def exchange(q, k, v):
            q, k, v = (jax.lax.all_to_all(x, "heads", 2, 1, tiled=True) for x in (q, k, v))
            if mesh.shape["queries"] > 1:
                k, v = (jax.lax.all_gather(x, "queries", axis=1, tiled=True) for x in (k, v))
            return jax.lax.all_to_all(kernel(q, k, v), "heads", 1, 2, tiled=True)

        own = PartitionSpec(IMAGES, ("queries", "heads"))
        return self._map(exchange, (own,) * 3, own, mesh)(q, k, v)

    def _split(self, heads: int) -> Mesh:
        """The same devices, with the patch axis as two: who shares queries, and who heads."""
        *images, _ = self.mesh.devices.shape
        axes = (*IMAGES, "queries", "heads")
        devices = self.mesh.devices.reshape(*images, -1, heads)
        return Mesh(devices, axes, axis_types=(AxisType.Auto,) * len(axes))

    def _map(self, f: Callable, inside, out, mesh: Mesh | None = None):
        # Whether a result is the same on all devices is plain here, and custom gradients tell not.
        mesh = mesh or self.mesh
        return jax.shard_map(f, mesh=mesh, in_specs=inside, out_specs=out, check_vma=False)
