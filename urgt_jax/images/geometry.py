"""Camera geometry: unit vectors, angles between them, and normals from depth."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

FEWEST_NEIGHBOURS = 5  # pixels of a window that a plane is fitted to, at least
SMALLEST_DETERMINANT = 0.5  # of the fit; below it the pixels are almost on a line


def unit_normals(
    normal: Float[np.ndarray, "H W 3"], shortest: float = 1e-3
) -> Float[np.ndarray, "H W 3"]:
    """Normals of length one; those shorter than `shortest` become (0, 0, -1), facing the camera."""
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    facing = np.array([0, 0, -1], np.float32)
    unit = normal / np.maximum(length, shortest)
    return np.where(length > shortest, unit, facing).astype(np.float32)


def angles_between(
    a: Float[np.ndarray, "*S 3"], b: Float[np.ndarray, "*S 3"]
) -> Float[np.ndarray, "*S"]:
    """Degrees between unit vectors, from the chord: accurate for small angles, unlike arccos."""
    chord = np.sqrt(np.square(a - b).sum(-1))
    return np.degrees(2 * np.arcsin(np.minimum(chord / 2, 1)))


def unit_vectors(v: Float[Array, "*B 3"]) -> Float[Array, "*B 3"]:
    """Vectors of length one; a zero vector stays zero and has a finite gradient."""
    square = jnp.sum(v * v, -1, keepdims=True)
    return v * jax.lax.rsqrt(jnp.maximum(square, 1e-16))


def normals_from_depth(
    depth: Float[Array | np.ndarray, "*B H W"],
    intrinsics: Float[Array | np.ndarray, "*B 4"],
    valid: Bool[Array | np.ndarray, "*B H W"],
    window: int = 5,
    max_step: float = 0.05,
) -> tuple[Float[Array, "*B H W 3"], Bool[Array, "*B H W"]]:
    """Unit normals towards the camera from depth in metres, and where they are defined.

    A least-squares fit of 1/Z = a u + b v + c to the pixels of a window around each pixel, which is
    exact on planes. Pixels whose 1/Z differs by more than the share `max_step` are left out.
    """
    height, width = depth.shape[-2:]
    inverse = jnp.where(valid, 1 / jnp.where(valid, depth, 1.0), 0.0)
    reach = window // 2
    padding = [(0, 0)] * (depth.ndim - 2) + [(reach, reach)] * 2
    padded_inverse = jnp.pad(inverse, padding)
    padded_valid = jnp.pad(valid, padding)
    names = ("1", "u", "v", "uu", "uv", "vv", "z", "uz", "vz")
    sums = dict.fromkeys(names, jnp.zeros_like(inverse))
    for dv in range(-reach, reach + 1):
        rows = slice(reach + dv, reach + dv + height)
        for du in range(-reach, reach + 1):
            columns = slice(reach + du, reach + du + width)
            z = padded_inverse[..., rows, columns]
            close = jnp.abs(z - inverse) <= max_step * z
            weight = (padded_valid[..., rows, columns] & valid & close).astype(inverse.dtype)
            rise = (z - inverse) * weight  # relative to the centre, which keeps float32 exact
            sums["1"] += weight
            sums["u"] += weight * du
            sums["v"] += weight * dv
            sums["uu"] += weight * du * du
            sums["uv"] += weight * du * dv
            sums["vv"] += weight * dv * dv
            sums["z"] += rise
            sums["uz"] += rise * du
            sums["vz"] += rise * dv
    return _plane_normals(sums, inverse, intrinsics, valid)


def _plane_normals(
    sums: dict[str, Float[Array, "*B H W"]],
    inverse: Float[Array, "*B H W"],
    intrinsics: Float[Array | np.ndarray, "*B 4"],
    valid: Bool[Array | np.ndarray, "*B H W"],
) -> tuple[Float[Array, "*B H W 3"], Bool[Array, "*B H W"]]:
    """Solve the least-squares fit from the sums over each window, and turn planes into normals."""
    # Moments about the mean.
    count = jnp.maximum(sums["1"], 1.0)
    u = sums["u"] / count
    v = sums["v"] / count
    z = sums["z"] / count
    uu = sums["uu"] - sums["u"] * u
    uv = sums["uv"] - sums["u"] * v
    vv = sums["vv"] - sums["v"] * v
    uz = sums["uz"] - sums["u"] * z
    vz = sums["vz"] - sums["v"] * z
    # The slopes by Cramer's rule.
    determinant = uu * vv - uv * uv
    defined = valid & (sums["1"] >= FEWEST_NEIGHBOURS) & (determinant > SMALLEST_DETERMINANT)
    safe = jnp.where(defined, determinant, 1.0)
    a = (uz * vv - vz * uv) / safe
    b = (vz * uu - uz * uv) / safe
    centre = inverse + z - a * u - b * v  # the fitted 1/Z at the pixel itself
    # The plane in the camera's coordinates: (fx a, fy b, c) is orthogonal to it.
    fx, fy, cx, cy = (intrinsics[..., i, None, None] for i in range(4))
    height, width = inverse.shape[-2:]
    x = jnp.arange(width) + 0.5 - cx
    y = jnp.arange(height)[:, None] + 0.5 - cy
    normal = jnp.stack([fx * a, fy * b, centre - a * x - b * y], -1)
    normal = -unit_vectors(normal * 1e3)
    return jnp.where(defined[..., None], normal, 0.0), defined
