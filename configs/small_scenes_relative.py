"""The second part of scenes-small: on from configs/small_scenes.py with errors in proportion.

From nothing such errors taught nothing, see docs/log.md; from there they sharpen edges. New scenes,
and more of the larger blocks.

python train.py configs/small_scenes_relative.py --workdir runs/small_scenes_relative
"""

from pathlib import Path

from urgt_jax.config_files import changed, load

config = changed(
    load(Path(__file__).with_name("small_scenes.py")),
    {
        "init": "runs/small_scenes",
        "seed": 1,
        "data.scenes": 12000,
        "data.mix": (0, 0.3, 0, 0.7),
        "loss.error": "relative",
        "loss.depth": 2.5,
        "loss.gradient": 4.0,
        "loss.normal": 3.0,
        "optim.steps": 8000,
    },
)
