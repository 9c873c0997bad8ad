"""AdamW with warm-up, cosine decay and clipping.

Parameters may be frozen, and the encoder may have its own learning rate.
"""

import re
from functools import partial
from typing import Any, NamedTuple

import jax
import optax

from urgt_jax.config import Config, Optim
from urgt_jax.errors import require
from urgt_jax.models.registry import param_paths, path_name

FINAL_LR_SCALE = 0.01  # the learning rate of the last step, as a share of the highest


def learning_rate_schedule(config: Optim) -> optax.Schedule:
    """The learning rate as a function of the step."""
    warmup_steps = max(round(config.warmup * config.steps), 1)
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / warmup_steps,
        peak_value=config.learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=max(config.steps, warmup_steps + 1),
        end_value=FINAL_LR_SCALE * config.learning_rate,
    )


def param_groups(config: Optim, params: Any) -> Any:
    """The group of each parameter, in the same tree; optax also asks for that of a placeholder.

    `frozen`; `encoder`, if pretrained weights have a learning rate of their own; or `rest`.
    """
    own_rate = config.encoder_lr_scale != 1.0

    def group(path: tuple, _) -> str:
        name = path_name(path)
        if config.freezes(name):
            return "frozen"
        # The embeddings of the coarse maps are new beside DINOv2's weights.
        new = name.startswith(("encoder/depth", "encoder/normal/"))
        if own_rate and name.startswith("encoder/") and not new:
            return "encoder"
        return "rest"

    return jax.tree_util.tree_map_with_path(group, params)


def check_frozen(config: Config) -> None:
    """Fails if a pattern of `optim.frozen` names no parameter, or if all are frozen."""
    paths = param_paths(config.model)
    for pattern in config.optim.frozen:
        require(
            any(re.search(pattern, path) for path in paths),
            f"optim.frozen {pattern!r} matches no parameter: paths are such as "
            "encoder/blocks/attn/qkv/kernel (docs/train.md)",
        )
    require(
        not all(config.optim.freezes(path) for path in paths),
        "optim.frozen freezes all parameters: leave out a pattern",
    )


def stop_frozen(config: Optim, params: dict) -> dict:
    """The parameters; no gradient flows to those that are frozen."""
    if config.encoder_lr_scale > 0 and not config.frozen:
        return params
    frozen = ["frozen"]
    if config.encoder_lr_scale == 0:
        frozen.append("encoder")

    def stop(x: jax.Array, group: str) -> jax.Array:
        return jax.lax.stop_gradient(x) if group in frozen else x

    return jax.tree.map(stop, params, param_groups(config, params))


class Average(NamedTuple):
    """The moving average of the parameters."""

    average: Any


def track_average(decay: float) -> optax.GradientTransformation:
    """Keeps a moving average of the updated parameters and leaves the updates as they are."""

    def init(params: Any) -> Average:
        # A copy, because a step donates the buffers of its parameters and of its state.
        return Average(jax.tree.map(lambda x: x + 0, params))

    def update(updates: dict, state: Average, params: dict) -> tuple[dict, Average]:
        new_params = optax.apply_updates(params, updates)
        average = jax.tree.map(
            lambda old, new: decay * old + (1 - decay) * new, state.average, new_params
        )
        return updates, Average(average)

    return optax.GradientTransformation(init, update)


def averaged_params(opt_state: optax.OptState, params: dict) -> dict:
    """The averaged parameters; where no average is kept, the parameters themselves."""
    average = optax.tree_utils.tree_get(opt_state, "average")
    if average is None:
        return params

    def choose(average: jax.Array | optax.MaskedNode, param: jax.Array) -> jax.Array:
        return param if _is_masked(average) else average

    return jax.tree.map(choose, average, params, is_leaf=_is_masked)


def make_optimizer(config: Optim) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW; vectors (norms, biases, scales) do not decay."""
    steps = [optax.clip_by_global_norm(config.grad_clip_norm)]
    groups = {}
    if config.encoder_lr_scale == 0:
        groups["encoder"] = optax.set_to_zero()  # keeps no moments
    elif config.encoder_lr_scale != 1.0:
        groups["encoder"] = _adamw(config, config.encoder_lr_scale)
    groups["rest"] = _adamw(config, 1.0)
    if config.frozen:
        groups["frozen"] = optax.set_to_zero()
    if len(groups) == 1:
        steps.append(groups["rest"])
    else:
        steps.append(optax.partition(groups, partial(param_groups, config)))
    if config.ema_decay > 0:
        average = track_average(config.ema_decay)
        if config.frozen:
            average = optax.masked(average, partial(_trained, config))
        steps.append(average)
    return optax.chain(*steps)


def _trained(config: Optim, params: dict) -> dict:
    """Whether each parameter is trained, in the same tree."""
    return jax.tree.map(lambda group: group != "frozen", param_groups(config, params))


def _is_masked(x: object) -> bool:
    return isinstance(x, optax.MaskedNode)


def _adamw(config: Optim, lr_scale: float) -> optax.GradientTransformation:
    # The DPT heads end in weights near zero, so the gradients behind them are tiny at first. With
    # Adam's usual eps of 1e-8 those weights would all move at full speed in one direction until
    # every ReLU is dead.
    return optax.adamw(
        partial(_scaled_learning_rate, config, lr_scale),
        b2=0.99,
        eps=1e-6,
        weight_decay=config.weight_decay,
        mask=_matrices,
    )


def _scaled_learning_rate(config: Optim, scale: float, step: jax.Array) -> jax.Array:
    return scale * learning_rate_schedule(config)(step)


def _matrices(params: dict) -> dict:
    return jax.tree.map(lambda x: x.ndim > 1, params)
