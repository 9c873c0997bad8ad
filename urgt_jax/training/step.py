"""The training step as one jitted function, and the state that it updates."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt

from urgt_jax.config import Config, Model
from urgt_jax.models import refiner
from urgt_jax.models.apply import Maps, apply
from urgt_jax.models.placement import use_placement
from urgt_jax.models.precision import in_precision
from urgt_jax.models.registry import abstract_params
from urgt_jax.training import losses, sharding
from urgt_jax.training.losses import LossFunction, Terms, TrainingBatch
from urgt_jax.training.optimizer import learning_rate_schedule, make_optimizer, stop_frozen

METRICS = ("loss", *losses.TERMS, "grad_norm", "learning_rate")  # of a step


class State(NamedTuple):
    """Everything that a run needs to resume."""

    step: Int[Array, ""]
    skipped: Int[Array, ""]  # number of skipped steps, whose gradients were not usable
    params: dict
    opt_state: optax.OptState


class StepVerdict(NamedTuple):
    """Whether a step was taken, and what explains why not."""

    usable: Bool[Array, ""]  # the loss is finite and the norm of the gradient is below the limit
    grad_norm: Float[Array, ""]
    # Mean squared error of the maps of each image, or of each patch if images are packed; not
    # finite if the maps are not.
    image_errors: Float[Array, "E"]


class PartResult(NamedTuple):
    """Loss and gradient of a batch, or of a part of it."""

    loss: Float[Array, ""]
    terms: Terms
    image_errors: Float[Array, "E"]
    grads: dict


TrainStep = Callable[[State, TrainingBatch], tuple[State, dict[str, Float[Array, ""]], StepVerdict]]


def initial_params(model: Model, seed: int) -> dict:
    """Parameters drawn from the seed."""
    return nnx.to_pure_dict(nnx.state(refiner.build(model, seed), nnx.Param))


def abstract_state(config: Config) -> State:
    """The shapes and dtypes of a state."""
    params = abstract_params(config.model)
    opt_state = jax.eval_shape(make_optimizer(config.optim).init, params)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    return State(count, count, params, opt_state)


def state_shardings(config: Config, mesh: Mesh) -> State:
    """The sharding of every array of a state; moments are sharded like their parameters."""
    replicated = NamedSharding(mesh, sharding.REPLICATED)
    state = abstract_state(config)
    params = sharding.param_shardings(state.params, mesh)

    def is_masked(x: object) -> bool:
        return isinstance(x, optax.MaskedNode)

    def sharding_of(x: object, param_sharding: NamedSharding) -> object:
        # Each group of the optimiser has moments for its own parameters only.
        return x if is_masked(x) else param_sharding

    opt_state = optax.tree_utils.tree_map_params(
        make_optimizer(config.optim),
        sharding_of,
        state.opt_state,
        params,
        transform_non_params=lambda _: replicated,
        is_leaf=is_masked,
    )
    return State(replicated, replicated, params, opt_state)


@jax.jit
def digest(state: State) -> UInt[Array, "L"]:
    """The sum of the bits of every array, modulo 2^32; it does not depend on the mesh."""
    sums = []
    for x in jax.tree.leaves(state):
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
        sums.append(bits.sum(dtype=jnp.uint32))
    return jnp.stack(sums)


def initial_state(config: Config, mesh: Mesh) -> State:
    """The state before the first step, sharded over the mesh."""

    def make_state() -> State:
        params = initial_params(config.model, config.seed)
        zero = jnp.zeros((), jnp.int32)
        return State(zero, zero, params, make_optimizer(config.optim).init(params))

    return jax.jit(make_state, out_shardings=state_shardings(config, mesh))()


@cache
def train_step(config: Config, mesh: Mesh, loss: LossFunction | None = None) -> TrainStep:
    """The jitted function (state, batch) -> (state, metrics, verdict).

    It is compiled once for each number of patches, and reuses the memory of the state that it is
    given. If the gradient is not usable, parameters and optimiser state stay as they were. A loss
    of your own, (maps, batch) -> (loss, terms), replaces the configured one; with
    `optim.accumulate` it is the mean over the parts of a batch.
    """
    optimizer = make_optimizer(config.optim)
    schedule = learning_rate_schedule(config.optim)

    def step(state: State, batch: TrainingBatch) -> tuple[State, dict, StepVerdict]:
        result = _loss_and_gradient(config, mesh, loss, state.params, batch)
        grad_norm = optax.tree.norm(result.grads)
        # A norm of NaN is not below the limit either.
        small_enough = grad_norm <= config.optim.skip_above_grad_norm
        usable = jnp.isfinite(result.loss) & small_enough

        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(result.grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)

        def choose(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(usable, new, old)

        new_state = State(
            step=state.step + 1,
            skipped=state.skipped + ~usable,
            params=jax.tree.map(choose, params, state.params),
            opt_state=jax.tree.map(choose, opt_state, state.opt_state),
        )
        metrics = {
            "loss": result.loss,
            **result.terms,
            "grad_norm": grad_norm,
            "learning_rate": schedule(state.step - state.skipped),
        }
        return new_state, metrics, StepVerdict(usable, grad_norm, result.image_errors)

    state_sharding = state_shardings(config, mesh)
    replicated = NamedSharding(mesh, sharding.REPLICATED)
    return jax.jit(
        in_precision(config.model.dtype, step),
        donate_argnums=0,
        in_shardings=(state_sharding, sharding.image_sharding(mesh)),
        out_shardings=(state_sharding, replicated, replicated),
    )


def _loss_and_gradient(
    config: Config, mesh: Mesh, own_loss: LossFunction | None, params: dict, batch: TrainingBatch
) -> PartResult:
    """Loss, terms, errors and gradient, over `optim.accumulate` parts one after the other."""
    counts = losses.valid_counts(config, batch)

    def part_loss(maps: Maps, part: TrainingBatch) -> tuple[jax.Array, Terms]:
        if own_loss is None:
            terms = losses.compute_terms(config, maps, part, counts)
            return losses.weighted_sum(config, terms), terms
        share = 1 / config.optim.accumulate
        total, terms = own_loss(maps, part)
        return total * share, {name: term * share for name, term in terms.items()}

    if config.optim.accumulate == 1:
        return _part_gradient(config, mesh, part_loss, params, batch)

    parts = sharding.split_batch(batch, config.optim.accumulate, mesh)

    def add_part(total: tuple, part: TrainingBatch) -> tuple[tuple, jax.Array]:
        result = _part_gradient(config, mesh, part_loss, params, part)
        total = jax.tree.map(jnp.add, total, (result.loss, result.terms, result.grads))
        rows = len(part["valid"])
        return total, result.image_errors.reshape(rows, -1)

    first_part = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(
        lambda part: _part_gradient(config, mesh, part_loss, params, part), first_part
    )
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), (shapes.loss, shapes.terms, shapes.grads)
    )
    (total_loss, terms, grads), errors = jax.lax.scan(add_part, zeros, parts)
    # From [parts, rows of a part, errors of a row] back to the order of the batch.
    image_errors = errors.swapaxes(0, 1).reshape(-1)
    return PartResult(total_loss, terms, image_errors, grads)


def _part_gradient(
    config: Config, mesh: Mesh, loss: LossFunction, params: dict, batch: TrainingBatch
) -> PartResult:
    """Loss, terms, errors and gradient of a batch or of one of its parts."""

    def loss_function(params: dict) -> tuple[jax.Array, tuple[Terms, jax.Array]]:
        with use_placement(sharding.placement_for(mesh)):
            trained = stop_frozen(config.optim, params)
            maps = apply(trained, config.model, batch)
            with jax.named_scope("loss"):
                total, terms = loss(maps, batch)
            errors = losses.image_errors(config, maps, batch)
        return total, (terms, errors)

    (total, (terms, errors)), grads = jax.value_and_grad(loss_function, has_aux=True)(params)
    return PartResult(total, terms, errors, grads)


@cache
def predictions(
    config: Config, mesh: Mesh, side: int
) -> Callable[[dict, TrainingBatch], dict[str, jax.Array]]:
    """The jitted function (params, batch) -> maps of the first block, at the size of a patch.

    The block is the first side x side patches of the first row of the batch.
    """

    def predict(params: dict, batch: TrainingBatch) -> dict[str, jax.Array]:
        block = {name: x[:, : side * side] for name, x in batch.items() if name != "owner"}
        with use_placement(sharding.placement_for(mesh)):
            refined = apply(params, config.model, block)
        maps = {"image": block["image"], "valid": block["valid"]}
        if "depth" in config.model.outputs:
            maps["coarse_depth"] = block["coarse_depth"]
            maps["refined_depth"] = refined["depth"]
            maps["true_depth"] = block["target"]
        if "normal" in config.model.outputs:
            maps["coarse_normal"] = block["coarse_normal"]
            maps["refined_normal"] = refined["normal"]
            maps["true_normal"], maps["normal_valid"] = losses.true_normals(config, block)
        return {name: _join_first_block(x) for name, x in maps.items()}

    return jax.jit(
        in_precision(config.model.dtype, predict),
        out_shardings=NamedSharding(mesh, sharding.REPLICATED),
    )


def _join_first_block(x: Shaped[Array, "B P H W ..."]) -> Shaped[Array, "H W ..."]:
    """The m x m patches of the first image side by side, of which every m-th pixel is taken."""
    _, patches, height, width, *channels = x.shape
    m = round(patches**0.5)
    rows = x[0].reshape(m, m, height, width, *channels).swapaxes(1, 2)
    joined = rows.reshape(m * height, m * width, *channels)
    return joined[m // 2 :: m, m // 2 :: m]
