"""Memory of the forward pass and of training as compiled, without weights or pictures."""

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
from urgt_jax.scaling.tpu_plan import abstract_batch
from urgt_jax.training import sharding
from urgt_jax.training.step import abstract_state, train_step

STAGES = ("encode", "attend", "heads")
Shape = jax.ShapeDtypeStruct


@dataclass(frozen=True)
class PassMemory:
    """What one device holds in a stage beside the parameters, bytes."""

    temporary: int
    output: int
    argument: int
    held: int  # tokens or layers of other patches, that wait for their turn

    @property
    def total(self) -> int:
        """All of it."""
        return self.temporary + self.output + self.argument + self.held


def compiled(size: str, patches: int, dtype: str, shards: int = 1) -> dict[str, PassMemory]:
    """Every stage's memory on the device that holds most, from compiling it for this backend.

    With shards, patches are shared among as many devices the way training does it.
    """
    model = replace(SIZES[size], dtype=dtype)
    mesh = _mesh(shards) if shards > 1 else None
    params, inputs = _shapes(model, patches, mesh, shards)
    found = {}
    with use_placement(sharding.placement_for(mesh)) if mesh else nullcontext():
        for name, stage in zip(STAGES, jit_stages(model), strict=True):
            arrays, held = inputs[name]
            found[name] = _of(stage, params, arrays, held // shards)
    return found


def training(size: str, patches: int, dtype: str, remat: str, shards: int = 1) -> PassMemory:
    """What a training step on one picture holds: gradients are temporary, the state an argument."""
    told = MeshConfig(data=1, fsdp=1, patch=shards)
    model = replace(SIZES[size], dtype=dtype, remat=remat)
    config = Config(model=model, data=Data(batch=1), mesh=told)
    batch = {
        name: Shape((1, patches, *x.shape[2:]), x.dtype)
        for name, x in abstract_batch(config, 1).items()
    }
    step = train_step(config, _mesh(shards))
    found = step.lower(abstract_state(config), batch).compile().memory_analysis()
    own = found.output_size_in_bytes - found.alias_size_in_bytes  # the state is written in place
    return PassMemory(found.temp_size_in_bytes, own, found.argument_size_in_bytes, 0)


def on_devices(size: str, count: int, work: Callable, *case):
    """work(size, *case) in a process that is to have that many CPU devices."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    return work(size, *case)


def _of(stage: Callable, params, arrays: tuple, held: int) -> PassMemory:
    found = stage.lower(params, *arrays).compile().memory_analysis()
    beside = sum(math.prod(_part(x)) * x.dtype.itemsize for x in jax.tree.leaves(arrays))
    return PassMemory(found.temp_size_in_bytes, found.output_size_in_bytes, beside, held)


def _part(x: Shape) -> tuple[int, ...]:
    return x.sharding.shard_shape(x.shape) if x.sharding else x.shape


def _mesh(shards: int) -> Mesh:
    devices = jax.devices()
    require(len(devices) >= shards, f"patch={shards}: there are {len(devices)} devices")
    config = Config(mesh=MeshConfig(data=1, fsdp=1, patch=shards), data=Data(batch=1))
    return sharding.make_mesh(config, devices[:shards])


def _shapes(model: Model, patches: int, mesh: Mesh | None, shards: int):
    """Parameters, and for every stage its other arrays and the bytes that wait beside them."""
    lies = NamedSharding(mesh, PartitionSpec(None, "patch")) if mesh else None
    of = lambda *shape, dtype="float32": Shape((1, *shape), jnp.dtype(dtype), sharding=lies)  # noqa: E731
    few = chunk_of(model, patches // shards) * shards
    lattice, process = math.prod(model.tokens), model.patch_size
    pictures = of(few, *process, 3, dtype="uint8"), of(few, *process), of(few, *process, 3)
    tokens = of(patches, lattice, model.width, dtype=model.dtype)
    layer = of(patches, tokens_per_patch(model), 2 * model.width, dtype=model.dtype)
    kept = len(kept_blocks(model.dpt_layers))
    stacked = NamedSharding(mesh, PartitionSpec(None, None, "patch")) if mesh else None
    part = Shape((kept, 1, few, *layer.shape[2:]), layer.dtype, sharding=stacked)
    token_bytes = tokens.size * tokens.dtype.itemsize
    params = abstract_params(model)
    if mesh:
        whole = NamedSharding(mesh, PartitionSpec())
        params = jax.tree.map(lambda x: Shape(x.shape, x.dtype, sharding=whole), params)
    return params, {
        "encode": (pictures, token_bytes * (patches - few) // patches),
        "attend": ((tokens, of(patches, lattice, 2)), 0),
        "heads": ((part,), kept * layer.size * layer.dtype.itemsize),
    }
