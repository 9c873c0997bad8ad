"""The third part of scenes-small: on from configs/small_scenes_relative.py with bent shapes.

What it had not learned was shapes, not textures, see docs/log.md; so scenes of split `varied` have
curved and leaning things and ground as well.

urgt train configs/small_scenes_varied.py --workdir runs/small_scenes_varied
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
