"""AdamW with warm-up, cosine decay and clipping; the encoder may learn at a rate of its own."""

from typing import NamedTuple

import jax
import optax

from urgt_jax.config import Optim


def learning_rate_schedule(c: Optim) -> optax.Schedule:
    """Learning rate by step."""
    warm = max(round(c.warmup * c.steps), 1)
    return optax.warmup_cosine_decay_schedule(
        c.learning_rate / warm,
        c.learning_rate,
        warm,
        max(c.steps, warm + 1),
        0.01 * c.learning_rate,
    )


def _groups(params):
    """Which rate each parameter learns at, by its path."""

    def group(path, _):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        priors = ("encoder/depth", "encoder/normal/")  # new beside DINOv2's weights
        return "encoder" if name.startswith("encoder/") and not name.startswith(priors) else "rest"

    return jax.tree_util.tree_map_with_path(group, params)


def freeze_encoder(c: Optim, params):
    """The parameters, without gradients to those that are frozen."""
    if c.encoder_lr_scale > 0:
        return params
    stop = lambda x, group: jax.lax.stop_gradient(x) if group == "encoder" else x  # noqa: E731
    return jax.tree.map(stop, params, _groups(params))


class Average(NamedTuple):
    """The moving average of the parameters."""

    average: dict


def _averaged(decay: float) -> optax.GradientTransformation:
    """Changes no update, and follows what the parameters become with it."""

    def update(updates, state: Average, params):
        new = optax.apply_updates(params, updates)
        follow = lambda old, x: decay * old + (1 - decay) * x  # noqa: E731
        return updates, Average(jax.tree.map(follow, state.average, new))

    # A copy, since a step donates its parameters and its state.
    return optax.GradientTransformation(lambda p: Average(jax.tree.map(lambda x: x + 0, p)), update)


def averaged_params(opt, params):
    """The averaged parameters where the optimiser keeps them, else the parameters themselves."""
    average = optax.tree_utils.tree_get(opt, "average")
    return params if average is None else average


def make_optimizer(c: Optim) -> optax.GradientTransformation:
    """Clip, then AdamW; vectors (norms, biases, scales) do not decay."""
    matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731

    def adamw(share: float):
        rate = lambda step: share * learning_rate_schedule(c)(step)  # noqa: E731
        # The heads end in weights near zero, behind which gradients are tiny at first. At Adam's
        # usual eps of 1e-8 they move as fast as any, in one direction, until every ReLU is dead.
        return optax.adamw(rate, b2=0.99, eps=1e-6, weight_decay=c.weight_decay, mask=matrices)

    chain = [optax.clip_by_global_norm(c.grad_clip_norm)]
    if c.encoder_lr_scale == 1.0:
        chain.append(adamw(1.0))
    else:  # what is frozen needs no moments
        encoder = adamw(c.encoder_lr_scale) if c.encoder_lr_scale > 0 else optax.set_to_zero()
        chain.append(optax.partition({"encoder": encoder, "rest": adamw(1.0)}, _groups))
    return optax.chain(*chain, *([_averaged(c.ema_decay)] if c.ema_decay else []))
