"""AdamW with warm-up, cosine decay and clipping; the encoder may learn at a rate of its own."""

import jax
import optax

from urgt_jax.config import Optim


def schedule(c: Optim) -> optax.Schedule:
    """Learning rate by step."""
    warm = max(round(c.warmup * c.steps), 1)
    return optax.warmup_cosine_decay_schedule(
        c.rate / warm, c.rate, warm, max(c.steps, warm + 1), 0.01 * c.rate
    )


def _groups(params):
    """Which rate each parameter learns at, by its path."""

    def group(path, _):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        priors = ("encoder/depth", "encoder/normal/")  # new beside DINOv2's weights
        return "encoder" if name.startswith("encoder/") and not name.startswith(priors) else "rest"

    return jax.tree_util.tree_map_with_path(group, params)


def optimiser(c: Optim) -> optax.GradientTransformation:
    """Clip, then AdamW; vectors (norms, biases, scales) do not decay."""
    matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731

    def adamw(share: float):
        rate = lambda step: share * schedule(c)(step)  # noqa: E731
        # The heads end in weights near zero, behind which gradients are tiny at first. At Adam's
        # usual eps of 1e-8 they move as fast as any, in one direction, until every ReLU is dead.
        return optax.adamw(rate, b2=0.99, eps=1e-6, weight_decay=c.decay, mask=matrices)

    if c.encoder == 1.0:
        return optax.chain(optax.clip_by_global_norm(c.clip), adamw(1.0))
    groups = {"encoder": adamw(c.encoder), "rest": adamw(1.0)}
    return optax.chain(optax.clip_by_global_norm(c.clip), optax.partition(groups, _groups))
