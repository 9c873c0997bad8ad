"""The demo: the tiny size (1.74 M parameters) from scratch on analytic scenes.

    urgt train tiny --workdir runs/tiny
    urgt eval --workdir runs/tiny

600 steps take about five minutes on two CPU cores. From scratch, they improve
little: AbsRel is 0.95 times that of the coarse maps, the mean error of normals 1.00 times (32
held-out scenes). `make demo` starts from the shipped model instead, with `--init scenes`: AbsRel
0.80, normals 0.78, boundary F1 2.8 times.
"""

from urgt_jax.config import SIZES, Config, Data, Eval, Loss, Optim, Prior, Train

config = Config(
    model=SIZES["tiny"],
    data=Data(size=(224, 392), scenes=300, batch=1, mix=(0, 0.5, 0, 0.5), batching="patches"),
    prior=Prior(lines=(28, 56)),
    loss=Loss(depth=10.0, gradient=0.125, normal_target="exact"),
    optim=Optim(learning_rate=1e-3, steps=600, warmup=0.15),
    train=Train(save_every=100, log_every=20),
    eval=Eval(images=32, grid=(4, 4)),
)
