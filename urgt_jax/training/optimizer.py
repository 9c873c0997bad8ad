"""AdamW with warm-up, cosine decay and clipping; the encoder may have its own learning rate."""

from functools import partial
from typing import NamedTuple

import jax
import optax

from urgt_jax.config import Optim

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


def param_groups(params: dict) -> dict:
    """The group of each parameter, in the same tree: `encoder` (pretrained) or `rest`."""

    def group(path: tuple, _) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # The embeddings of the coarse maps are new beside DINOv2's weights.
        if name.startswith(("encoder/depth", "encoder/normal/")):
            return "rest"
        return "encoder" if name.startswith("encoder/") else "rest"

    return jax.tree_util.tree_map_with_path(group, params)


def freeze_encoder(config: Optim, params: dict) -> dict:
    """The parameters; no gradient flows to those of a frozen encoder."""
    if config.encoder_lr_scale > 0:
        return params

    def stop(x: jax.Array, group: str) -> jax.Array:
        return jax.lax.stop_gradient(x) if group == "encoder" else x

    return jax.tree.map(stop, params, param_groups(params))


class Average(NamedTuple):
    """The moving average of the parameters."""

    average: dict


def track_average(decay: float) -> optax.GradientTransformation:
    """Keeps a moving average of the updated parameters and leaves the updates as they are."""

    def init(params: dict) -> Average:
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
    """The averaged parameters, or the parameters themselves if no average is kept."""
    average = optax.tree_utils.tree_get(opt_state, "average")
    return params if average is None else average


def make_optimizer(config: Optim) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW; vectors (norms, biases, scales) do not decay."""
    steps = [optax.clip_by_global_norm(config.grad_clip_norm)]
    if config.encoder_lr_scale == 1.0:
        steps.append(_adamw(config, 1.0))
    else:
        if config.encoder_lr_scale > 0:
            encoder = _adamw(config, config.encoder_lr_scale)
        else:
            encoder = optax.set_to_zero()  # keeps no moments
        groups = {"encoder": encoder, "rest": _adamw(config, 1.0)}
        steps.append(optax.partition(groups, param_groups))
    if config.ema_decay > 0:
        steps.append(track_average(config.ema_decay))
    return optax.chain(*steps)


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
