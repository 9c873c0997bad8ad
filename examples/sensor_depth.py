"""Refine the depth of a sensor: python examples/sensor_depth.py OUT [WEIGHTS]

An analytic scene stands for the photograph. Its true depth, reduced to the 256 x 192 pixels of a
phone's LiDAR, with noise, holes and 16-bit millimetres, stands for the sensor. The script prints
the errors of the sensor's map (with its holes filled) and of the refined map. Refined maps are in
OUT/refined, a picture of both in OUT/sensor.png.
"""

import sys

import cv2
import numpy as np
from etils.epath import Path

from urgt_jax.commands.refine import main as refine
from urgt_jax.config import Prior
from urgt_jax.data.scenes.export import write_scene
from urgt_jax.images.files import read_image, write_image
from urgt_jax.inference.outputs import draw_depth

SIZE = (720, 960)
SENSOR = (192, 256)


def sense(depth: np.ndarray, seed: int = 0) -> np.ndarray:
    """What a sensor sees of true depth in metres: millimetres, 0 where nothing is measured."""
    rng = np.random.default_rng(seed)
    small = cv2.resize(depth, SENSOR[::-1], interpolation=cv2.INTER_NEAREST)
    noisy = small * (1 + 0.01 * rng.standard_normal(small.shape))
    jump = cv2.dilate(small, np.ones((3, 3))) / cv2.erode(small, np.ones((3, 3)))
    noisy[(jump > 1.1) | (rng.random(small.shape) < 0.02)] = 0
    return np.clip(np.round(noisy * 1000), 0, 65535).astype(np.uint16)


def main(out: str, weights: str = "scenes", size: tuple[int, int] = SIZE) -> None:
    """Make the inputs, refine them as the command line does, and compare."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    image = write_scene(folder, "photo", 5, "other", size, Prior())
    truth = np.load(folder / "photo_true_depth.npy")
    for kind in ("depth", "normal"):
        (folder / f"photo_coarse_{kind}.npy").unlink()
    sensor = sense(truth)
    cv2.imwrite(str(folder / "lidar.png"), sensor)
    words = f"{image} --coarse-depth {folder}/lidar.png --depth-unit millimetres --fov 60"
    results = folder / "refined"
    refine([*words.split(), "--weights", weights, "--out", str(results), "--save-coarse"])
    # The coarse map has no holes and the size of the image. It is in the unit of the weights.
    coarse = 1 / np.load(results / "photo_coarse_depth.npy")
    refined = np.load(results / "photo_depth.npy")
    known = np.isfinite(truth) & (truth < 80)
    for name, depth in (("sensor", coarse), ("refined", refined)):
        error = 100 * np.abs(depth - truth)[known] / truth[known]
        print(f"{name}: median error {np.median(error):.2f} %, mean {error.mean():.2f} %")
    maps = [draw_depth(depth, metric=True) for depth in (coarse, refined)]
    write_image(folder / "sensor.png", np.concatenate([read_image(image), *maps], 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
