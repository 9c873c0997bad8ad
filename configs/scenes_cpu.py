"""The shipped model: the tiny size, on scenes whose coarse maps imitate those of depth networks.

    urgt train scenes_cpu --workdir runs/scenes_cpu
    urgt convert runs/scenes_cpu scenes.safetensors --half

docs/results.md says how the weights that come with the package were trained, and what they reach.
"""

from urgt_jax.config import SIZES, Config, Data, Eval, Loss, Optim, Prior, Train

config = Config(
    model=SIZES["tiny"],
    data=Data(
        size=(224, 392),
        scenes=30_000,
        batch=1,
        mix=(0, 0.2, 0, 0.8),
        batching="patches",
        jitter=1.0,
        train_split="varied",
    ),
    prior=Prior(
        lines=(100, 224), displace=(0.2, 1.2), drift=(0.0, 0.06), exact=0.15, from_depth=0.2
    ),
    loss=Loss(
        depth=10.0,
        depth_error="relative",
        gradient=1.5,
        normal=4.0,
        normal_error="distance",
        alignment=0.0,
        normal_target="exact",
        confidence=0.05,
    ),
    optim=Optim(learning_rate=6e-4, steps=3000, warmup=0.02, ema_decay=0.998),
    train=Train(save_every=100, log_every=20),
    eval=Eval(images=64, grid=(0, 0), max_patches=64, overlap=0.3),
)
