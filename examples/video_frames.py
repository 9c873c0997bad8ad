"""Refine the frames of a video: python examples/video_frames.py VIDEO COARSE OUT [WEIGHTS]

COARSE holds the coarse maps of frame N as N_depth.npy (disparity) and N_normal.npy. Each frame is
refined alone. The pictures of all frames share one range of colours, so that they do not flicker.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

import urgt_jax
from urgt_jax.images.colour import colour_values


def main(video: str, coarse: str, out: str, weights: str = "scenes") -> None:
    """Refine frame by frame, then draw the frames."""
    refiner = urgt_jax.load(weights)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    frames = cv2.VideoCapture(video)
    ranges = []
    while True:
        is_there, frame = frames.read()
        if not is_there:
            break
        number = len(ranges)
        depth = np.load(Path(coarse) / f"{number}_depth.npy")
        normal = np.load(Path(coarse) / f"{number}_normal.npy")
        image = np.ascontiguousarray(frame[..., ::-1])  # OpenCV's order is blue, green, red
        result = refiner(image, depth, normal)
        np.save(folder / f"{number:05}_depth.npy", result.depth)
        ranges.append(np.percentile(result.depth, (1, 99)))
    low, high = np.median(ranges, 0)
    for number in range(len(ranges)):
        depth = np.load(folder / f"{number:05}_depth.npy")
        picture = colour_values(depth, low, high)
        cv2.imwrite(str(folder / f"{number:05}.png"), picture[..., ::-1])
    print(f"{len(ranges)} frames: {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
