"""The training step as one jitted function, and the state it updates."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped, UInt

from urgt_jax.config import Config, Model
from urgt_jax.models import refiner
from urgt_jax.models.apply import Batch, apply
from urgt_jax.models.placement import use_placement
from urgt_jax.models.registry import abstract_params
from urgt_jax.training import losses, sharding
from urgt_jax.training.optimizer import freeze_encoder, learning_rate_schedule, make_optimizer

METRICS = ("loss", *losses.TERMS, "grad_norm", "learning_rate")  # of a step


class State(NamedTuple):
    """All that a run needs to go on."""

    step: jax.Array
    skipped: jax.Array  # steps that were left out, their gradients not being usable
    params: dict
    opt: tuple


class StepVerdict(NamedTuple):
    """Whether a step could be taken, and what tells why not."""

    usable: jax.Array  # the loss is finite and the gradient has not exploded
    norm: jax.Array  # of the gradient
    # Mean squared error of the maps of each image, or packed of each patch [B * 16]; not finite
    # where those are not.
    far: jax.Array


def initial_params(model: Model, seed: int) -> dict:
    """Weights drawn from the seed."""
    return nnx.to_pure_dict(nnx.state(refiner.build(model, seed), nnx.Param))


def abstract_state(config: Config) -> State:
    """Shapes and dtypes of a state."""
    params = abstract_params(config.model)
    opt = jax.eval_shape(make_optimizer(config.optim).init, params)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    return State(count, count, params, opt)


def state_shardings(config: Config, mesh: Mesh) -> State:
    """How a state lies on the mesh."""
    whole = NamedSharding(mesh, PartitionSpec())
    state = abstract_state(config)
    params = sharding.param_shardings(state.params, mesh)
    # Parameters of another group of the optimiser have no moments in this one.
    masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
    opt = optax.tree_utils.tree_map_params(
        make_optimizer(config.optim), lambda x, s: x if masked(x) else s, state.opt, params,
        transform_non_params=lambda _: whole, is_leaf=masked,
    )  # fmt: skip
    return State(whole, whole, params, opt)


@jax.jit
def digest(state: State) -> UInt[Array, "L"]:
    """The sum of every leaf's bits, modulo 2^32, the same on any mesh."""
    bits = lambda x: jax.lax.bitcast_convert_type(x, jnp.uint32)  # noqa: E731
    return jnp.stack([bits(x).sum(dtype=jnp.uint32) for x in jax.tree.leaves(state)])


def initial_state(config: Config, mesh: Mesh) -> State:
    """Step 0, already laid out over the mesh."""

    def make():
        params = initial_params(config.model, config.seed)
        zero = jnp.zeros((), jnp.int32)
        return State(zero, zero, params, make_optimizer(config.optim).init(params))

    return jax.jit(make, out_shardings=state_shardings(config, mesh))()


@cache
def train_step(config: Config, mesh: Mesh):
    """(state, batch) -> (state, metrics, verdict); compiled once for each number of patches.

    A step whose gradient is not usable leaves parameters and optimiser as they were.
    """
    layout, rows = state_shardings(config, mesh), sharding.image_sharding(mesh)
    whole = NamedSharding(mesh, PartitionSpec())

    def loss_of(params, batch, counts):
        with use_placement(sharding.placement_for(mesh)):
            maps = apply(freeze_encoder(config.optim, params), config.model, batch)
            terms = losses.compute_terms(config, maps, batch, counts)
            far = losses.image_errors(config, maps, batch)
        return losses.weighted_sum(config, terms), (terms, far)

    def gradient(params, batch: Batch):
        """Loss, terms and gradient, part by part where a batch is worked on in parts."""
        of_part = jax.value_and_grad(loss_of, has_aux=True)
        counts = losses.valid_counts(config, batch)
        if config.optim.accumulate == 1:
            return of_part(params, batch, counts)
        parts = sharding.split_batch(batch, config.optim.accumulate, mesh)

        def add(so_far, part):
            (loss, (terms, far)), grads = of_part(params, part, counts)
            far = far.reshape(len(part["valid"]), -1)
            return jax.tree.map(jnp.add, so_far, (loss, terms, grads)), far

        (loss, (terms, _)), grads = jax.eval_shape(of_part, params, _first(parts), counts)
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, terms, grads))
        (loss, terms, grads), far = jax.lax.scan(add, start, parts)
        return (loss, (terms, far.swapaxes(0, 1).reshape(-1))), grads

    def step(state: State, batch: Batch):
        (loss, (terms, far)), grads = gradient(state.params, batch)
        norm = optax.tree.norm(grads)
        usable = jnp.isfinite(loss) & (norm <= config.optim.skip_above_grad_norm)  # which no NaN is
        updates, opt = make_optimizer(config.optim).update(grads, state.opt, state.params)
        after = optax.apply_updates(state.params, updates), opt
        before = state.params, state.opt
        kept = jax.tree.map(lambda new, old: jnp.where(usable, new, old), after, before)
        metrics = {"loss": loss, **terms, "grad_norm": norm}
        metrics["learning_rate"] = learning_rate_schedule(config.optim)(state.step - state.skipped)
        verdict = StepVerdict(usable, norm, far)
        after = State(state.step + 1, state.skipped + ~usable, *kept)
        return after, metrics, verdict

    return jax.jit(
        step, donate_argnums=0, in_shardings=(layout, rows), out_shardings=(layout, whole, whole)
    )


def _first(parts):
    return jax.tree.map(lambda x: x[0], parts)


@cache
def predictions(config: Config, mesh: Mesh, side: int):
    """(params, batch) -> maps of the batch's first block as one picture, at a patch's size.

    The block is the first side x side patches of the first row.
    """

    def maps(params, batch: Batch):
        batch = {name: x[:, : side * side] for name, x in batch.items() if name != "owner"}
        with use_placement(sharding.placement_for(mesh)):
            result = apply(params, config.model, batch)
        found = {"image": batch["image"], "valid": batch["valid"]}
        if "depth" in config.model.outputs:
            found |= {"coarse_depth": batch["coarse_depth"], "refined_depth": result["depth"]}
            found["true_depth"] = batch["target"]
        if "normal" in config.model.outputs:
            found |= {"coarse_normal": batch["coarse_normal"], "refined_normal": result["normal"]}
            found["true_normal"], found["normal_valid"] = losses.true_normals(config, batch)
        return jax.tree.map(_first_block, found)

    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(maps, out_shardings=whole)


def _first_block(x: Shaped[Array, "B P H W ..."]) -> Shaped[Array, "H W ..."]:
    """The m x m patches of the first image, side by side; every m-th pixel."""
    m = round(x.shape[1] ** 0.5)
    rows = x[0].reshape(m, m, *x.shape[2:]).swapaxes(1, 2)
    whole = rows.reshape(m * x.shape[2], m * x.shape[3], *x.shape[4:])
    return whole[m // 2 :: m, m // 2 :: m]
