"""Export a refined image as a textured mesh: python examples/export_mesh.py IMAGE DEPTH FOV OUT.glb

DEPTH is photo_depth.npy of `urgt refine`, in metres, and FOV the horizontal field of view in
degrees. `urgt refine --save glb` does the same; here the background is cut off as well.
"""

import sys

import numpy as np
from etils.epath import Path

from urgt_jax.data.priors.given import normals_of_depth
from urgt_jax.images.files import read_image
from urgt_jax.images.surfaces import make_surface, write_glb

FARTHEST = 3.0  # multiples of the median depth


def main(image: str, depth: str, fov: str, out: str) -> None:
    """Write the mesh."""
    pixels = read_image(Path(image))
    metres = np.load(depth)
    focal = pixels.shape[1] / 2 / np.tan(np.radians(float(fov)) / 2)
    normals = normals_of_depth(1 / metres, focal)
    # Depth jumps to infinity there, which ends the mesh.
    near = np.where(metres < FARTHEST * np.median(metres), metres, np.float32(np.inf))
    with np.errstate(invalid="ignore"):
        surface = make_surface(near, normals, pixels, focal, most=500_000)
        write_glb(Path(out), surface, pixels)
    print(f"{out}: {Path(out).stat().length / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
