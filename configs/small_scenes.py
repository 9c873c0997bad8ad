"""Part 1 of the shipped model: the tiny size from scratch on scenes, with priors of all kinds.

    urgt train small_scenes --workdir runs/small_scenes

5000 steps took 49 minutes on two CPU cores. Expected on held-out scenes (docs/results.md): AbsRel
0.75, normals 0.81 of the coarse maps. Wider networks learned nothing in that time (docs/log.md).
"""

from urgt_jax.config import SIZES, Config, Data, Eval, Loss, Optim, Prior, Train

config = Config(
    model=SIZES["tiny"],
    data=Data(
        size=(224, 392), scenes=4000, batch=1, mix=(0, 0.5, 0, 0.5), batching="patches", jitter=1.0
    ),
    prior=Prior(
        lines=(12, 96), blur=(0.3, 0.7), displace=(0, 0.3), grain=(0.01, 0.12), rough=(1, 10),
        distort=(0, 0.015), tilt=(0, 3), vary=0.3,
    ),
    loss=Loss(depth=10.0, gradient=1.0, normal=2.0, normal_target="exact"),
    optim=Optim(learning_rate=1e-3, steps=5000, warmup=0.05, ema_decay=0.998),
    train=Train(save_every=100, log_every=20),
    eval=Eval(images=64, grid=(0, 0), max_patches=64, overlap=0.3),
)  # fmt: skip
