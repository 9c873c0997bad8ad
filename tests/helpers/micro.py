"""The smallest experiment."""

from urgt_jax.config import Config, Data, Eval, Mesh, Model, Vit

MICRO = Config(
    model=Model(
        Vit(width=16, depth=1, num_heads=2, pretrain_size=42),
        num_heads=2,
        depth=2,
        dpt_layers=(0, 0, 1, 1),
        patch_size=(28, 42),
        dpt_features=8,
        dpt_channels=(8, 8, 8, 8),
    ),
    data=Data(size=(48, 72), scenes=6),
    eval=Eval(images=2),
    mesh=Mesh(data=1),
)
