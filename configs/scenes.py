"""A larger refiner on scenes, for one GPU: 12 M parameters, patches of 252 x 448 pixels.

    urgt train scenes --workdir runs/scenes                                            # or:
    make scenes-train

On another machine, training can continue from the weights alone, with other scenes and a new
schedule:

    urgt train scenes --workdir runs/scenes_2 --init runs/scenes --seed 1

It has not been run yet: no GPU was available ("Waiting for a GPU" in docs/log.md).
configs/scenes_cpu.py is the same on a smaller scale.
"""

from dataclasses import replace
from pathlib import Path

from urgt_jax.config import Model, Vit
from urgt_jax.config_files import load_config, with_changes

scaled_down = load_config(Path(__file__).with_name("scenes_cpu.py"))
model = Model(
    Vit(width=224, depth=6, num_heads=4, pretrain_size=252, layer_scale=0.2),
    num_heads=4,
    depth=4,
    dpt_layers=(0, 1, 2, 3),
    patch_size=(252, 448),
    dpt_features=64,
    dpt_channels=(48, 96, 192, 224),
    layer_scale=0.2,
    last_layer_std=0.01,
    dtype="bfloat16",
)
config = with_changes(
    replace(scaled_down, model=model),
    {
        "data.size": (1008, 1792),
        "data.workers": 14,
        "prior.lines": (252, 1008),
        "prior.displace": (0.4, 1.2),
        "optim.learning_rate": 5e-4,
        "optim.steps": 2000,
        "train.save_every": 500,
    },
)
