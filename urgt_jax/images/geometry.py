"""Camera geometry: unit vectors, and normals from depth."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


def unit_normals(
    normal: Float[np.ndarray, "H W 3"], least: float = 1e-3
) -> Float[np.ndarray, "H W 3"]:
    """Unit normals; towards the camera where one is shorter than `least`."""
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    facing = np.array([0, 0, -1], np.float32)
    return np.where(length > least, normal / np.maximum(length, least), facing).astype(np.float32)


def unit_vectors(v: Float[Array, "*B 3"]) -> Float[Array, "*B 3"]:
    """Vectors of length one; a zero vector stays zero and has a finite gradient."""
    square = jnp.sum(v * v, -1, keepdims=True)
    return v * jax.lax.rsqrt(jnp.maximum(square, 1e-16))


def normals_from_depth(
    depth: Float[Array, "*B H W"],
    intrinsics: Float[Array, "*B 4"],
    valid: Bool[Array, "*B H W"],
    window: int = 5,
    max_step: float = 0.05,
) -> tuple[Float[Array, "*B H W 3"], Bool[Array, "*B H W"]]:
    """Unit normals towards the camera and where they are defined, from depth in metres.

    Least squares fit of 1/Z = a u + b v + c around each pixel, which is exact on planes.
    """
    h, w = depth.shape[-2:]
    inverse = jnp.where(valid, 1 / jnp.where(valid, depth, 1.0), 0.0)
    reach = window // 2
    pad = [(0, 0)] * (depth.ndim - 2) + [(reach, reach)] * 2
    near, known = jnp.pad(inverse, pad), jnp.pad(valid, pad)
    names = ("1", "u", "v", "uu", "uv", "vv", "z", "uz", "vz")
    sums = dict.fromkeys(names, jnp.zeros_like(inverse))
    for dv in range(-reach, reach + 1):
        for du in range(-reach, reach + 1):
            rows, cols = slice(reach + dv, reach + dv + h), slice(reach + du, reach + du + w)
            z = near[..., rows, cols]
            close = jnp.abs(z - inverse) <= max_step * z
            share = (known[..., rows, cols] & valid & close).astype(inverse.dtype)
            rise = (z - inverse) * share  # relative to the centre, which keeps float32 exact
            terms = (share, share * du, share * dv, share * du * du, share * du * dv,
                     share * dv * dv, rise, rise * du, rise * dv)  # fmt: skip
            sums = {n: sums[n] + t for n, t in zip(names, terms, strict=True)}
    return _plane(sums, inverse, intrinsics, valid)


def _plane(s: dict, inverse, intrinsics, valid):
    """Solves the 3 x 3 fit by elimination of the mean and turns it into a normal."""
    count = jnp.maximum(s["1"], 1.0)
    u, v, z = s["u"] / count, s["v"] / count, s["z"] / count
    uu, uv, vv = s["uu"] - s["u"] * u, s["uv"] - s["u"] * v, s["vv"] - s["v"] * v
    uz, vz = s["uz"] - s["u"] * z, s["vz"] - s["v"] * z
    determinant = uu * vv - uv * uv
    fine = valid & (s["1"] >= 5) & (determinant > 0.5)
    safe = jnp.where(fine, determinant, 1.0)
    a, b = (uz * vv - vz * uv) / safe, (vz * uu - uz * uv) / safe
    centre = inverse + z - a * u - b * v  # the fitted 1/Z at the pixel itself
    fx, fy, cx, cy = (intrinsics[..., i, None, None] for i in range(4))
    h, w = inverse.shape[-2:]
    x, y = jnp.arange(w) + 0.5 - cx, jnp.arange(h)[:, None] + 0.5 - cy
    normal = -unit_vectors(jnp.stack([fx * a, fy * b, centre - a * x - b * y], -1) * 1e3)
    return jnp.where(fine[..., None], normal, 0.0), fine
