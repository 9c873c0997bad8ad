"""The second half of scenes-small: on from configs/small_scenes.py with errors in proportion.

From nothing such errors taught nothing, see docs/log.md; from there they sharpen edges. New scenes,
and more of the larger blocks.

python train.py configs/small_scenes_relative.py --workdir runs/small_scenes_relative
"""

from urgt_jax.config import SIZES, Config, Data, Eval, Loss, Optim, Prior, Train

config = Config(
    model=SIZES["tiny"],
    init="runs/small_scenes",
    seed=1,
    data=Data(
        size=(224, 392), scenes=12000, batch=1, mix=(0, 0.3, 0, 0.7), fill="patches", jitter=1.0
    ),
    prior=Prior(
        lines=(12, 96), blur=(0.3, 0.7), displace=(0, 0.3), grain=(0.01, 0.12), rough=(1, 10),
        distort=(0, 0.015), tilt=(0, 3), vary=0.3,
    ),
    loss=Loss(depth=2.5, error="relative", gradient=4.0, normal=3.0, target="exact"),
    optim=Optim(rate=1e-3, steps=8000, warmup=0.05, average=0.998),
    train=Train(save_every=100, log_every=20),
    eval=Eval(images=64, grid=(0, 0), patches=64, overlap=0.3),
)  # fmt: skip
