"""Memory of the forward pass and of training as compiled, without weights or images."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from urgt_jax.config import SIZES, Config, Data, Model
from urgt_jax.config import Mesh as MeshConfig
from urgt_jax.errors import require
from urgt_jax.inference.refiner import chunk_of
from urgt_jax.inference.stages import jit_stages
from urgt_jax.models.layers import kept_blocks
from urgt_jax.models.placement import use_placement
from urgt_jax.models.refiner import tokens_per_patch
from urgt_jax.models.registry import abstract_params
from urgt_jax.scaling.batch_shapes import abstract_batch
from urgt_jax.training import sharding
from urgt_jax.training.step import abstract_state, train_step


@dataclass(frozen=True)
class PassMemory:
    """What one device holds in a stage beside the parameters, bytes."""

    temporary: int
    output: int
    argument: int
    held: int  # tokens or layers of other patches, which wait for their turn

    @property
    def total(self) -> int:
        """All of these together."""
        return self.temporary + self.output + self.argument + self.held


def compiled(size: str, patches: int, dtype: str, shards: int = 1) -> dict[str, PassMemory]:
    """Every stage's memory on the device that holds most, from compiling it for this backend.

    With `shards` devices the patches are shared among them as training does it.
    """
    model = replace(SIZES[size], dtype=dtype)
    mesh = mesh_of_shards(shards) if shards > 1 else None
    params = placed_params(model, mesh)
    inputs = stage_inputs(model, patches, mesh, shards)
    memory = {}
    with use_placement(sharding.placement_for(mesh)) if mesh else nullcontext():
        for name, stage in jit_stages(model)._asdict().items():
            arrays, held = inputs[name]
            analysis = stage.lower(params, *arrays).compile().memory_analysis()
            memory[name] = PassMemory(
                temporary=analysis.temp_size_in_bytes,
                output=analysis.output_size_in_bytes,
                argument=sum(bytes_on_device(x) for x in jax.tree.leaves(arrays)),
                held=held // shards,
            )
    return memory


def training(size: str, patches: int, dtype: str, remat: str, shards: int = 1) -> PassMemory:
    """Memory of a training step on one image: gradients are temporary, the state an argument."""
    config = Config(
        model=replace(SIZES[size], dtype=dtype, remat=remat),
        data=Data(batch=1),
        mesh=MeshConfig(data=1, fsdp=1, patch=shards),
    )
    batch = {}
    for name, x in abstract_batch(config, 1).items():
        batch[name] = jax.ShapeDtypeStruct((1, patches, *x.shape[2:]), x.dtype)
    step = train_step(config, mesh_of_shards(shards))
    analysis = step.lower(abstract_state(config), batch).compile().memory_analysis()
    # The state is written in place, so that its part of the output needs no memory of its own.
    output = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return PassMemory(analysis.temp_size_in_bytes, output, analysis.argument_size_in_bytes, 0)


def on_devices(size: str, count: int, work: Callable, *arguments):
    """work(size, *arguments), in a process that gets that many CPU devices."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    return work(size, *arguments)


def mesh_of_shards(shards: int) -> Mesh:
    """A mesh whose devices share only patches."""
    devices = jax.devices()
    require(len(devices) >= shards, f"patch={shards}: there are only {len(devices)} devices")
    config = Config(mesh=MeshConfig(data=1, fsdp=1, patch=shards), data=Data(batch=1))
    return sharding.make_mesh(config, devices[:shards])


def placed_params(model: Model, mesh: Mesh | None) -> dict:
    """Shapes of the parameters, whole on every device of the mesh."""
    params = abstract_params(model)
    if mesh is None:
        return params
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), params)


def stage_inputs(
    model: Model, patches: int, mesh: Mesh | None, shards: int
) -> dict[str, tuple[tuple[jax.ShapeDtypeStruct, ...], int]]:
    """For every stage, its arrays beside the parameters, and the bytes that wait beside them."""
    per_patch = NamedSharding(mesh, PartitionSpec(None, "patch")) if mesh else None
    per_layer_and_patch = NamedSharding(mesh, PartitionSpec(None, None, "patch")) if mesh else None

    def array(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *shape), jnp.dtype(dtype), sharding=per_patch)

    chunk = chunk_of(model, patches // shards) * shards
    image = array(chunk, *model.patch_size, 3, dtype="uint8")
    depth = array(chunk, *model.patch_size)
    normal = array(chunk, *model.patch_size, 3)
    lattice = math.prod(model.tokens)
    tokens = array(patches, lattice, model.width, dtype=model.dtypes.residual)
    positions = array(patches, lattice, 2)
    layer = array(patches, tokens_per_patch(model), 2 * model.width, dtype=model.dtypes.heads)
    layers = len(kept_blocks(model.dpt_layers))
    layers_of_chunk = jax.ShapeDtypeStruct(
        (layers, 1, chunk, *layer.shape[2:]), layer.dtype, sharding=per_layer_and_patch
    )
    token_bytes = tokens.size * tokens.dtype.itemsize
    layer_bytes = layer.size * layer.dtype.itemsize
    return {
        "encode": ((image, depth, normal), token_bytes * (patches - chunk) // patches),
        "attend": ((tokens, positions), 0),
        "heads": ((layers_of_chunk,), layers * layer_bytes),
    }


def bytes_on_device(x: jax.ShapeDtypeStruct) -> int:
    """Bytes of an array, or of its part on one device."""
    shape = x.sharding.shard_shape(x.shape) if x.sharding else x.shape
    return math.prod(shape) * x.dtype.itemsize
