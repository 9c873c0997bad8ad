"""Use the refiner inside another JAX program: python examples/python_api.py IMAGE [WEIGHTS]

IMAGE needs its coarse maps next to it, as `urgt scene` writes them. The pure functions return the
same maps as the refiner. Their gradient shows how much the first patch depends on the others.
"""

import sys

import jax
import numpy as np
from etils.epath import Path

import urgt_jax
from urgt_jax.images.files import read_image


def main(image: str, weights: str = "scenes", grid: tuple[int, int] = (2, 2)) -> None:
    """Refine the image in two ways, and differentiate one of them."""
    stem = image.rpartition(".")[0]
    maps = (
        read_image(Path(image)),
        np.load(f"{stem}_coarse_depth.npy"),
        np.load(f"{stem}_coarse_normal.npy"),
    )
    refiner = urgt_jax.load(weights, fidelity="exact")
    model = refiner.config.model
    expected = refiner(*maps, grid=grid, overlap=0.0)

    batch = urgt_jax.patchify(*maps, grid, model=model, prior=refiner.config.prior)
    refined = jax.jit(urgt_jax.apply, static_argnums=1)(refiner.params, model, batch)
    depth, _ = urgt_jax.merge(refined, batch)
    print(f"largest difference: {np.abs(depth - expected.depth).max():.1e}")

    def first_patch(coarse_depth: jax.Array) -> jax.Array:
        outputs = urgt_jax.apply(refiner.params, model, {**batch, "coarse_depth": coarse_depth})
        return outputs["depth"][0, 0].mean()

    gradient = np.abs(jax.grad(first_patch)(batch["coarse_depth"]))[0].sum((1, 2))
    shares = ", ".join(f"{100 * share:.1f} %" for share in gradient / gradient.sum())
    print(f"share of each patch in the gradient of the first one: {shares}")


if __name__ == "__main__":
    main(*sys.argv[1:])
