"""Operations of a refiner against the compiler's own count; peaks of chips by JAX's names."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from urgt_jax.config import SIZES, Config, Model, Optim, Vit
from urgt_jax.models import flops, refiner

# Wide, so that products outweigh what is done to each number, which the compiler counts too;
# nothing is in a loop, which it would count once.
WIDE = Model(
    Vit(width=256, depth=1, num_heads=2, pretrain_size=98), num_heads=2, depth=2, dpt_layers=(0, 0, 0, 0),
    patch_size=(98, 98), dpt_features=128, dpt_channels=(64, 128, 256, 256), outputs=("depth",),
)  # fmt: skip


def _counted(model: Model, patches: int, gradient: bool = False) -> float:
    """The compiler's count for one picture; nothing is compiled or run."""
    (h, w), (rows, cols) = model.patch_size, model.tokens
    shapes = [(h, w, 3), (h, w), (h, w, 3), (rows * cols, 2)]
    maps = [jax.ShapeDtypeStruct((1, patches, *shape), jnp.float32) for shape in shapes]

    def run(network, *maps):
        out = network(*maps)
        return sum(x.sum() for x in jax.tree.leaves(out)) if gradient else out

    network = nnx.eval_shape(lambda: refiner.build(model, 0))
    lowered = jax.jit(jax.grad(run) if gradient else run).lower(network, *maps)
    return lowered.cost_analysis()["flops"]


@pytest.mark.parametrize(
    "changes,patches",
    [
        ({"outputs": ("depth", "normal"), "layers": (0, 0, 1, 1), "process": (56, 140)}, 4),
        ({"cross": False, "channels": (256, 64, 64, 128)}, 4),
        (
            {
                "encoder": Vit(
                    width=512, depth=2, num_heads=4, pretrain_size=98, ffn="swiglu", registers=0
                )
            },
            2,
        ),
    ],
)
def test_a_forward_pass_has_the_operations_that_the_compiler_counts(changes, patches):
    model = replace(WIDE, **changes)
    assert flops.forward(model, patches).total == pytest.approx(_counted(model, patches), rel=0.03)


def test_a_step_has_three_times_as_many():
    wanted = flops.training(Config(model=WIDE), 1).total
    assert wanted == 3 * flops.forward(WIDE, 1).total
    # What the compiler counts besides weighs more backwards, where resampling is a full matrix.
    assert wanted == pytest.approx(_counted(WIDE, 1, gradient=True), rel=0.05)


def test_a_frozen_encoder_costs_no_gradients_of_weights():
    frozen = Config(model=WIDE, optim=Optim(encoder_lr_scale=0.0))
    saved = flops.training(Config(model=WIDE), 1).total - flops.training(frozen, 1).total
    assert saved == flops.forward(WIDE, 1).encoder_linear


def test_remat_of_blocks_runs_them_once_more():
    times = {
        remat: flops.executed(Config(model=replace(WIDE, remat=remat)), 4)
        for remat in ("none", "attention", "blocks")
    }
    once = flops.forward(WIDE, 4)
    for part in ("encoder", "within", "across"):
        linear, attention = f"{part}_linear", f"{part}_attention"
        of = lambda remat, name: getattr(times[remat], name) / getattr(once, name)  # noqa: B023, E731
        assert [of(remat, linear) for remat in times] == [3, 4, 4]
        assert [of(remat, attention) for remat in times] == [3.5, 3.5, 4.5]
    assert times["none"].dpt_heads > 3 * once.dpt_heads  # enlarging by matrices, there and back


def test_only_attention_across_patches_grows_faster_than_their_number():
    one, four = (flops.forward(SIZES["large"], patches) for patches in (1, 4))
    assert four.across_attention == 16 * one.across_attention
    assert four.total - four.across_attention == 4 * (one.total - one.across_attention)
