"""The second part of scenes-small: on from configs/small_scenes.py with errors in proportion.

From nothing such errors taught nothing, see docs/log.md; from there they sharpen edges. New scenes,
and more of the larger blocks.

urgt train configs/small_scenes_relative.py --workdir runs/small_scenes_relative
"""

from pathlib import Path

from urgt_jax.config_files import load_config, with_changes

config = with_changes(
    load_config(Path(__file__).with_name("small_scenes.py")),
    {
        "init": "runs/small_scenes",
        "seed": 1,
        "data.scenes": 12000,
        "data.mix": (0, 0.3, 0, 0.7),
        "loss.depth_error": "relative",
        "loss.depth": 2.5,
        "loss.gradient": 4.0,
        "loss.normal": 3.0,
        "optim.steps": 8000,
    },
)
