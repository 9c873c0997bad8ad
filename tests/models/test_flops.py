"""Operations of a refiner against the compiler's own count."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from urgt_jax.config import SIZES, Config, Model, Optim, Vit
from urgt_jax.models import flops, refiner

# Wide, so that products outweigh elementwise work, which the compiler counts too.
WIDE = Model(
    Vit(width=256, depth=1, num_heads=2, pretrain_size=98),
    num_heads=2,
    depth=2,
    dpt_layers=(0, 0, 0, 0),
    patch_size=(98, 98),
    dpt_features=128,
    dpt_channels=(64, 128, 256, 256),
    outputs=("depth",),
)


@pytest.fixture
def unrolled(monkeypatch):
    """Loops over blocks are unrolled, since the compiler counts the body of a loop once."""
    scan = functools.partial(jax.lax.scan, unroll=True)
    monkeypatch.setattr("urgt_jax.models.layers.jax.lax.scan", scan)


def count_by_compiler(model: Model, patches: int, gradient: bool = False) -> float:
    """The compiler's count of operations for one image; nothing is compiled or run."""
    height, width = model.patch_size
    rows, cols = model.tokens
    maps = [
        jax.ShapeDtypeStruct((1, patches, height, width, 3), jnp.float32),
        jax.ShapeDtypeStruct((1, patches, height, width), jnp.float32),
        jax.ShapeDtypeStruct((1, patches, height, width, 3), jnp.float32),
        jax.ShapeDtypeStruct((1, patches, rows * cols, 2), jnp.float32),
    ]

    def forward(network, *maps):
        return network(*maps)

    def loss(network, *maps):
        return sum(x.sum() for x in jax.tree.leaves(network(*maps)))

    network = nnx.eval_shape(lambda: refiner.build(model, 0))
    function = jax.grad(loss) if gradient else forward
    return jax.jit(function).lower(network, *maps).cost_analysis()["flops"]


@pytest.mark.parametrize(
    "changes,patches",
    [
        (
            {
                "outputs": ("depth", "normal"),
                "dpt_layers": (0, 0, 1, 1),
                "patch_size": (56, 140),
            },
            4,
        ),
        ({"cross_patch": False, "dpt_channels": (256, 64, 64, 128)}, 4),
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
def test_forward_counts_the_operations_that_the_compiler_counts(unrolled, changes, patches):
    model = replace(WIDE, **changes)
    wanted = count_by_compiler(model, patches)
    assert flops.forward(model, patches).total == pytest.approx(wanted, rel=0.03)


def test_training_counts_three_forward_passes(unrolled):
    total = flops.training(Config(model=WIDE), 1).total
    assert total == 3 * flops.forward(WIDE, 1).total
    # The compiler also counts resampling, which is a product with a matrix in the backward pass.
    assert total == pytest.approx(count_by_compiler(WIDE, 1, gradient=True), rel=0.05)


def test_training_of_a_frozen_encoder_lacks_the_gradients_of_its_weights():
    frozen = Config(model=WIDE, optim=Optim(encoder_lr_scale=0.0))
    saved = flops.training(Config(model=WIDE), 1).total - flops.training(frozen, 1).total
    assert saved == flops.forward(WIDE, 1).encoder_linear


def test_training_of_frozen_parts_lacks_their_gradients():
    once = flops.forward(WIDE, 1)
    whole = flops.training(Config(model=WIDE), 1)
    for patterns, saved in [
        (("^encoder/",), 2 * (once.encoder_linear + once.encoder_attention)),
        (("^encoder/(?!depth|normal/)",), once.encoder_linear),
        (("within_patch/", "across_patches/.*/kernel"), once.within_linear + once.across_linear),
        (("_head/",), once.dpt_heads),
        (("bias",), 0),
    ]:
        frozen = Config(model=WIDE, optim=Optim(frozen=patterns))
        difference = whole.total - flops.training(frozen, 1).total
        assert difference == pytest.approx(saved, rel=1e-9), patterns


@pytest.mark.parametrize(
    "remat,linear,attention", [("none", 3, 3.5), ("attention", 4, 3.5), ("blocks", 4, 4.5)]
)
def test_executed_counts_what_remat_repeats(remat, linear, attention):
    once = flops.forward(WIDE, 4)
    step = flops.executed(Config(model=replace(WIDE, remat=remat)), 4)
    for part in ("encoder", "within", "across"):
        linear_name = f"{part}_linear"
        attention_name = f"{part}_attention"
        assert getattr(step, linear_name) == linear * getattr(once, linear_name)
        assert getattr(step, attention_name) == attention * getattr(once, attention_name)


def test_executed_counts_resampling_in_the_dpt_heads():
    assert flops.executed(Config(model=WIDE), 4).dpt_heads > 3 * flops.forward(WIDE, 4).dpt_heads


def test_only_attention_across_patches_grows_faster_than_the_number_of_patches():
    one = flops.forward(SIZES["large"], 1)
    four = flops.forward(SIZES["large"], 4)
    assert four.across_attention == 16 * one.across_attention
    assert four.total - four.across_attention == 4 * (one.total - one.across_attention)
