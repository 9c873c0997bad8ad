"""Part 3 of the shipped model: continues small_scenes_relative with bent and leaning shapes.

    urgt train small_scenes_varied --workdir runs/small_scenes_varied

It starts from runs/small_scenes_relative, which lacked shapes, not textures (docs/log.md). Scenes
of split `varied` also have curved and leaning things and ground. 11000 steps took 94 minutes on two
CPU cores. Expected on held-out scenes: AbsRel 0.55, normals 0.72 of the coarse maps.
"""

from pathlib import Path

from urgt_jax.config_files import load_config, with_changes

config = with_changes(
    load_config(Path(__file__).with_name("small_scenes_relative.py")),
    {
        "init": "runs/small_scenes_relative",
        "seed": 2,
        "data.train_split": "varied",
        "data.scenes": 20000,
        "data.mix": (0, 0.15, 0, 0.85),
        "loss.normal": 4.0,
        "optim.steps": 11000,
    },
)
