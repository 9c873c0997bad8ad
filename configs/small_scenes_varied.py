"""The third part of scenes-small: on from configs/small_scenes_relative.py with bent shapes.

What it had not learned was shapes, not textures, see docs/log.md; so scenes of split `varied` have
curved and leaning things and ground as well.

python train.py configs/small_scenes_varied.py --workdir runs/small_scenes_varied
"""

from urgt_jax.config import SIZES, Config, Data, Eval, Loss, Optim, Prior, Train

config = Config(
    model=SIZES["tiny"],
    init="runs/small_scenes_relative",
    seed=2,
    data=Data(
        trained="varied", size=(224, 392), scenes=20000, batch=1, mix=(0, 0.15, 0, 0.85),
        fill="patches", jitter=1.0,
    ),
    prior=Prior(
        lines=(12, 96), blur=(0.3, 0.7), displace=(0, 0.3), grain=(0.01, 0.12), rough=(1, 10),
        distort=(0, 0.015), tilt=(0, 3), vary=0.3,
    ),
    loss=Loss(depth=2.5, error="relative", gradient=4.0, normal=4.0, target="exact"),
    optim=Optim(rate=1e-3, steps=11000, warmup=0.05, average=0.998),
    train=Train(save_every=100, log_every=20),
    eval=Eval(images=64, grid=(0, 0), patches=64, overlap=0.3),
)  # fmt: skip
