"""The refiner that is shipped as scenes-small: a few CPU-hours on analytic scenes, from nothing.

python train.py configs/small_scenes.py --workdir runs/small_scenes
"""

from urgt_jax.config import Config, Data, Eval, Loss, Model, Optim, Prior, Train, Vit

config = Config(
    model=Model(
        Vit(width=192, depth=4, heads=4, pretrain=112, scale=0.2),
        heads=4, depth=4, layers=(0, 1, 2, 3), process=(84, 140), layer_scale=0.2, last=1e-6,
        features=48, channels=(48, 64, 96, 96),
    ),
    data=Data(
        size=(168, 280), scenes=20_000, batch=1, mix=(0, 0.75, 0, 0.25), fill="patches",
        jitter=1.0,
    ),
    prior=Prior(
        lines=(12, 84), blur=(0.3, 0.7), displace=(0, 0.35), grain=(0, 0.1), rough=(0, 10),
        distort=(0, 0.01), tilt=(0, 0.5), vary=0.5,
    ),
    loss=Loss(depth=2.0, gradient=3.0, normal=2.0, target="exact", error="relative"),
    optim=Optim(rate=4e-4, steps=1600, warmup=0.06, average=0.998),
    train=Train(save_every=50, log_every=20),
    eval=Eval(images=64, grid=(0, 0), zoom=2.0),
)  # fmt: skip
