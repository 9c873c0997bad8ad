"""Refine all images of a folder: python examples/refine_folder.py PHOTOS OUT [WEIGHTS]

Each photo.jpg needs photo_coarse_depth.npy and photo_coarse_normal.npy next to it. The refiner is
loaded once, and images with the same number of patches share its compiled programs.
"""

import sys

import numpy as np
from etils.epath import Path

import urgt_jax
from urgt_jax.images.files import SUFFIXES, read_image


def main(photos: str, out: str, weights: str = "scenes") -> None:
    """Refine the images one after the other, so that memory does not grow."""
    refiner = urgt_jax.load(weights)
    Path(out).mkdir(parents=True, exist_ok=True)
    for path in sorted(Path(photos).iterdir()):
        coarse_depth = path.with_name(f"{path.stem}_coarse_depth.npy")
        coarse_normal = path.with_name(f"{path.stem}_coarse_normal.npy")
        if path.suffix.lower() not in SUFFIXES or not coarse_depth.is_file():
            continue
        result = refiner(read_image(path), np.load(coarse_depth), np.load(coarse_normal))
        np.save(Path(out) / f"{path.stem}_depth.npy", result.depth)
        np.save(Path(out) / f"{path.stem}_normal.npy", result.normal)
        print(f"{path.name}: depth from {result.depth.min():.3f} to {result.depth.max():.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
