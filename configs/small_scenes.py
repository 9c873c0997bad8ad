"""The first part of scenes-small, which is shipped: the tiny size on scenes and priors of any kind.

Fifty minutes on two CPU cores, from nothing. Wider networks learned nothing in that time, see
docs/log.md.

urgt train configs/small_scenes.py --workdir runs/small_scenes
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
