"""The fourth part of scenes-small: on from configs/small_scenes_varied.py with angles as they are.

Squared, small angles on planes are hardly felt; and confidences learn beside the maps.

python train.py configs/small_scenes_angle.py --workdir runs/small_scenes_angle
"""

from pathlib import Path

from urgt_jax.config_files import changed, load

config = changed(
    load(Path(__file__).with_name("small_scenes_varied.py")),
    {
        "init": "runs/small_scenes_varied",
        "seed": 3,
        "loss.angle": "distance",
        "loss.alignment": 0.0,
        "loss.confidence": 0.05,
        "optim.steps": 12000,
    },
)
