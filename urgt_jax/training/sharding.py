"""The device mesh, and the rules that say how arrays are sharded over it.

Model code knows no mesh: it calls the placement that `placement_for` returns.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Shaped

from urgt_jax import hardware
from urgt_jax.config import Config
from urgt_jax.errors import require
from urgt_jax.hardware import Device
from urgt_jax.models.placement import SINGLE_DEVICE, Placement
from urgt_jax.models.registry import abstract_params, path_name

AXES = ("data", "fsdp", "patch")
IMAGE_AXES = ("data", "fsdp")  # the axes over which the images of a batch are sharded
REPLICATED = PartitionSpec()
TRAINING_BYTES = 16  # memory of a parameter with its gradient and Adam's two moments
MEMORY_SHARE = 0.15  # share of a device's memory that these may take when mesh.fsdp is 0

Rules = tuple[tuple[str, PartitionSpec], ...]
# From the path of a parameter to its sharding; the first match wins. Blocks are stacked for a loop
# and have the number of the block as their first axis, which is never sharded: each iteration of
# the loop gathers one block.
RULES: Rules = (
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
    # Norms, biases, scales, special tokens and the last layers of the DPT heads are small.
    (r".*", REPLICATED),
)


def make_mesh(config: Config, devices: Sequence[Device] | None = None) -> Mesh:
    """The devices (default: all) as a mesh of data x fsdp x patch, with data across slices."""
    # The order of JAX within a slice. create_hybrid_device_mesh would shuffle the devices of a
    # process, which then have no equal part of the images (docs/log.md).
    devices = sorted(devices or jax.devices(), key=slice_of)
    data = config.mesh.data
    fsdp = config.mesh.fsdp or _smallest_fsdp(config, devices)
    patch = config.mesh.patch
    if data == 0:
        data = max(len(devices) // (fsdp * patch), 1)
        fits = data * fsdp * patch == len(devices)
    else:
        fits = data * fsdp * patch <= len(devices)
    require(
        fits,
        f"a mesh of data {config.mesh.data or 'all'} x fsdp {fsdp} x patch {patch} does not fit "
        f"{len(devices)} devices: their product must be the number of devices",
    )
    shares = data * fsdp * config.optim.accumulate
    require(
        all(config.data.images(m) % shares == 0 for m in block_sides(config)),
        f"data.batch {config.data.batch} does not divide among mesh.data x mesh.fsdp = "
        f"{data * fsdp} devices and {config.optim.accumulate} parts (optim.accumulate): change "
        "one of them",
    )
    require(
        patch == 1 or not config.data.packed,
        f"mesh.patch {patch} does not go with data.batching packed, where a row holds patches of "
        "several images: set --mesh.patch 1 and use --mesh.fsdp, or set --data.batching patches",
    )
    used = np.array(devices[: data * fsdp * patch]).reshape(data, fsdp, patch)
    processes = {device.process_index for device in devices}
    idle = processes - {device.process_index for device in used.flat}
    require(
        not idle,
        f"a mesh of data {data} x fsdp {fsdp} x patch {patch} leaves {len(idle)} of "
        f"{len(processes)} processes without a device: start fewer, or set --mesh.data 0",
    )
    for group in used:
        slices = {slice_of(device) for device in group.flat}
        require(
            config.mesh.span_slices or len(slices) == 1,
            f"a mesh of fsdp {fsdp} x patch {patch} spans slices of {_devices_per_slice(devices)} "
            "devices, between which the network is slow: choose axes whose product divides that "
            "number, or add --mesh.span_slices",
        )
    return Mesh(used, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def slice_of(device: Device) -> int:
    """The number of the slice that a device belongs to: devices in one share a fast network."""
    return getattr(device, "slice_index", 0)


def _devices_per_slice(devices: list[Device]) -> int:
    """The number of devices in the smallest slice."""
    counts = Counter(slice_of(device) for device in devices)
    return min(counts.values())


def _smallest_fsdp(config: Config, devices: list[Device]) -> int:
    """The fewest devices on which each holds at most MEMORY_SHARE of its memory in parameters.

    They belong to one slice.
    """
    chip = hardware.chip_of(devices[0])
    if chip is None:
        return 1
    parameters = sum(x.size for x in jax.tree.leaves(abstract_params(config.model)))
    needed = TRAINING_BYTES * parameters / (MEMORY_SHARE * chip.hbm)
    slices = len({slice_of(device) for device in devices})
    data = max(math.ceil(config.mesh.data / slices), 1)
    available = max(_devices_per_slice(devices) // (config.mesh.patch * data), 1)
    for count in range(1, available):
        if available % count == 0 and count >= needed:
            return count
    return available


def block_sides(config: Config) -> list[int]:
    """The sides M of the GridMix blocks that occur in training."""
    return [m for m in (1, 2, 3, 4) if config.data.mix[m - 1] > 0]


def image_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis, the images, over the image axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(IMAGE_AXES))


@cache
def process_share(mesh: Mesh) -> tuple[int, int]:
    """The part of a batch that this process prepares: its index, and the number of equal parts.

    Processes that share the patches of the same images prepare the same part.
    """
    image_rows = mesh.devices.reshape(-1, mesh.shape["patch"])
    own = []
    for index, row in enumerate(image_rows):
        if any(device.process_index == jax.process_index() for device in row):
            own.append(index)
    size = len(own)
    consecutive = size > 0 and own == list(range(own[0], own[0] + size))
    require(
        consecutive and own[0] % size == 0,
        f"process {jax.process_index()} has no equal part of the images on a mesh of "
        f"{dict(mesh.shape)}: choose axes that are multiples of the devices of a process",
    )
    return own[0] // size, len(image_rows) // size


def put_on_mesh(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The global batch, of which this process holds its part."""
    _, parts = process_share(mesh)
    sharding = image_sharding(mesh)
    arrays = {}
    for name, x in batch.items():
        shape = (x.shape[0] * parts, *x.shape[1:])
        arrays[name] = jax.make_array_from_process_local_data(sharding, x, shape)
    return arrays


def split_batch(batch: dict[str, jax.Array], count: int, mesh: Mesh) -> dict[str, jax.Array]:
    """The batch in `count` parts along a new first axis; every image stays on its device."""
    sharding = NamedSharding(mesh, PartitionSpec(None, IMAGE_AXES))

    def split(x: jax.Array) -> jax.Array:
        # Part i gets every count-th image, starting with image i: consecutive images, which share
        # a device, go to different parts.
        parts = x.reshape(x.shape[0] // count, count, *x.shape[1:])
        return jax.lax.with_sharding_constraint(jnp.moveaxis(parts, 1, 0), sharding)

    return jax.tree.map(split, batch)


def rule_table(tree: dict, rules: Rules = RULES) -> dict[str, PartitionSpec]:
    """The sharding of every parameter by its path; a rule that no parameter matches is an error."""
    table = {}
    used = set()
    for path, _ in jax.tree_util.tree_leaves_with_path(tree):
        name = path_name(path)
        pattern, spec = _matching_rule(name, rules)
        table[name] = spec
        used.add(pattern)
    unused = [pattern for pattern, _ in rules if pattern not in used]
    require(not unused, f"sharding rules that no parameter matches: {', '.join(unused)}")
    return table


def _matching_rule(name: str, rules: Rules) -> tuple[str, PartitionSpec]:
    """The first rule whose pattern matches the path of a parameter."""
    for pattern, spec in rules:
        if re.search(pattern, name):
            return pattern, spec
    raise ValueError(f"no sharding rule matches {name}")


def param_shardings(params: dict, mesh: Mesh) -> dict:
    """The sharding of every parameter, in the same tree.

    A parameter whose sharded axis does not divide by the number of devices is replicated.
    """
    table = rule_table(params)

    def sharding_of(path: tuple, x: jax.Array | jax.ShapeDtypeStruct) -> NamedSharding:
        spec = table[path_name(path)]
        if not _divides(x.shape, spec, mesh):
            spec = REPLICATED
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding_of, params)


def _divides(shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> bool:
    """Whether every sharded side divides by the number of devices that share it."""
    for side, axis in zip(shape[: len(spec)], spec, strict=True):
        if axis is not None and side % mesh.shape[axis] != 0:
            return False
    return True


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(x: jax.Array, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    """The whole matrix on every device; its gradient is sharded by `spec` like the matrix was."""
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, REPLICATED))


def _gather_forward(x: jax.Array, mesh: Mesh, spec: PartitionSpec) -> tuple[jax.Array, None]:
    return _gather(x, mesh, spec), None


def _gather_backward(
    mesh: Mesh, spec: PartitionSpec, residual: None, gradient: jax.Array
) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient, NamedSharding(mesh, spec)),)


_gather.defvjp(_gather_forward, _gather_backward)


def placement_for(mesh: Mesh) -> Placement:
    """The placement of activations on a mesh."""
    if mesh.devices.size == 1:
        return SINGLE_DEVICE
    return MeshPlacement(mesh)


class MeshPlacement(Placement):
    """Images over data and fsdp, patches over patch; cross-patch attention exchanges tokens."""

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self.patch_shards = mesh.shape["patch"]
        self.gathers = mesh.shape["fsdp"] > 1

    def padded_count(self, patches: int) -> int:
        """The next multiple of the number of devices on the patch axis."""
        return math.ceil(patches / self.patch_shards) * self.patch_shards

    def map_patches(self, function: Callable, weights: Any, patches: Any) -> Any:
        """function(weights, patches), where every device computes its own patches."""
        spec = PartitionSpec(IMAGE_AXES, "patch")
        mapped = self._shard_map(function, (REPLICATED, spec), spec, self.mesh)
        return mapped(weights, patches)

    def gather_block(self, block: Any, dtype: Any) -> Any:
        """The matrices of a block, whole on every device and in the dtype they are used in.

        Without this the compiler multiplies shards of matrices and adds up partial products
        across devices, which communicates several times as much.
        """
        if not self.gathers:
            return block

        def gather(path: tuple, x: jax.Array) -> jax.Array:
            name = "blocks/" + path_name(path).removesuffix("/value")
            _, stacked_spec = _matching_rule(name, RULES)
            spec = PartitionSpec(*stacked_spec[1:])  # one block has no axis of blocks
            if stacked_spec == REPLICATED or not _divides(x.shape, spec, self.mesh):
                return x
            return _gather(x.astype(dtype), self.mesh, spec)

        return jax.tree_util.tree_map_with_path(gather, block)

    def shard_tokens(self, x: Shaped[Array, "B P ..."]) -> Shaped[Array, "B P ..."]:
        """Every device holds the tokens of its own patches."""
        spec = PartitionSpec(IMAGE_AXES, "patch")
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    def attend(
        self,
        kernel: Callable,
        q: Float[Array, "B N H D"],
        k: Float[Array, "B N H D"],
        v: Float[Array, "B N H D"],
        owner: Int[Array, "B N"] | None = None,
        *,
        across: bool,
    ) -> Float[Array, "B N H D"]:
        """Attention; across patches every device computes some heads over all tokens.

        If there are more devices than heads, several devices share a head: each takes a part of
        its queries.
        """
        if not across or self.patch_shards == 1:
            arrays = [q, k, v] if owner is None else [q, k, v, owner]
            spec = PartitionSpec((*IMAGE_AXES, "patch"))
            return self._shard_map(kernel, (spec,) * len(arrays), spec, self.mesh)(*arrays)
        mesh = self._head_mesh(q.shape[2])

        # Written out, because the partitioner would gather whole tensors instead of exchanging
        # tokens for heads.
        def exchange(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            q = _tokens_to_heads(q)
            k = _tokens_to_heads(k)
            v = _tokens_to_heads(v)
            if mesh.shape["queries"] > 1:
                k = jax.lax.all_gather(k, "queries", axis=1, tiled=True)
                v = jax.lax.all_gather(v, "queries", axis=1, tiled=True)
            return _heads_to_tokens(kernel(q, k, v))

        spec = PartitionSpec(IMAGE_AXES, ("queries", "heads"))
        return self._shard_map(exchange, (spec,) * 3, spec, mesh)(q, k, v)

    def _head_mesh(self, num_heads: int) -> Mesh:
        """The mesh with its patch axis split into `queries` and `heads`."""
        heads = math.gcd(num_heads, self.patch_shards)
        data, fsdp, patch = self.mesh.devices.shape
        devices = self.mesh.devices.reshape(data, fsdp, patch // heads, heads)
        axes = (*IMAGE_AXES, "queries", "heads")
        return Mesh(devices, axes, axis_types=(AxisType.Auto,) * len(axes))

    def _shard_map(self, function: Callable, in_specs: Any, out_specs: Any, mesh: Mesh) -> Callable:
        # check_vma would demand to know which results are the same on all devices, which functions
        # with custom gradients do not declare.
        return jax.shard_map(
            function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )


def _tokens_to_heads(x: Float[Array, "B N H D"]) -> Float[Array, "B N2 H2 D"]:
    """Trade a device's tokens of all heads for more tokens of some heads."""
    return jax.lax.all_to_all(x, "heads", split_axis=2, concat_axis=1, tiled=True)


def _heads_to_tokens(x: Float[Array, "B N H D"]) -> Float[Array, "B N2 H2 D"]:
    """The inverse of `_tokens_to_heads`."""
    return jax.lax.all_to_all(x, "heads", split_axis=1, concat_axis=2, tiled=True)
