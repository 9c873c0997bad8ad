"""The fourth part of scenes-small: on from configs/small_scenes_varied.py with angles as they are.

Squared, small angles on planes are hardly felt; and confidences learn beside the maps.

urgt train configs/small_scenes_angle.py --workdir runs/small_scenes_angle
"""

from pathlib import Path

from urgt_jax.config_files import load_config, with_changes

config = with_changes(
    load_config(Path(__file__).with_name("small_scenes_varied.py")),
    {
        "init": "runs/small_scenes_varied",
        "seed": 3,
        "loss.normal_error": "distance",
        "loss.alignment": 0.0,
        "loss.confidence": 0.05,
        "optim.steps": 12000,
    },
)
