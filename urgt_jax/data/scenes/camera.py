"""A camera model: blur, exposure, gamma, noise and compression."""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

F = np.float32
LINES = 448  # image height that `blur` refers to, pixels


@dataclass(frozen=True)
class Camera:
    """The imperfections of a camera."""

    exposure: float  # mean brightness of the image before gamma
    balance: np.ndarray  # [3] white balance
    gamma: float
    vignette: float  # share of light that is lost in the corners
    blur: float  # standard deviation, pixels of an image with LINES rows
    shot: float  # standard deviation of the noise at full brightness
    read: float  # standard deviation of the noise in the dark
    quality: int  # JPEG quality; 0 is no compression
    seed: int  # seed of the noise


def sample_camera(rng: np.random.Generator) -> Camera:
    """A random camera; one in five is nearly perfect."""
    good = rng.random() < 0.2
    noisy = 0.2 if good else 1.0
    return Camera(
        exposure=np.exp(rng.uniform(np.log(0.14), np.log(0.5))),
        balance=np.exp(rng.normal(0, 0.07, 3)).astype(F),
        gamma=rng.uniform(0.45, 0.8),
        vignette=rng.uniform(0, 0.4) * (rng.random() < 0.5),
        blur=rng.uniform(0.3, 0.5) if good else rng.uniform(0.3, 1.2),
        shot=noisy * rng.uniform(0, 0.035),
        read=noisy * rng.uniform(0, 0.012),
        quality=int(rng.integers(40, 96)) if rng.random() < 0.15 else 0,
        seed=int(rng.integers(2**31)),
    )


def take(camera: Camera, light: Float[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The image that the camera takes of the light of a whole view."""
    size = light.shape[:2]
    sigma = camera.blur * size[0] / LINES
    gain = camera.balance * F(camera.exposure / max(light[::4, ::4].mean(), 1e-3))
    light = np.stack([_blurred(light[..., i] * gain[i], sigma) for i in range(3)], -1)
    if camera.vignette:
        y, x = ((np.arange(n, dtype=F) + F(0.5)) / n * 2 - 1 for n in size)
        light *= (1 - F(camera.vignette / 2) * (x[None] ** 2 + y[:, None] ** 2))[..., None]
    pixels = np.maximum(light, 0, out=light) ** F(camera.gamma)
    noise = np.random.default_rng(camera.seed).standard_normal(pixels.shape, F)
    noise *= F(camera.read) + F(camera.shot) * np.sqrt(np.minimum(pixels, 1))
    pixels += noise
    pixels = (np.clip(pixels, 0, 1) * 255 + F(0.5)).astype(np.uint8)
    return _compressed(pixels, camera.quality) if camera.quality else pixels


def _blurred(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of a [H, W] map with repeated borders."""
    reach = int(2.5 * sigma + 0.5)
    if reach == 0:
        return x
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(F)
    taps /= taps.sum()
    for axis in (0, 1):
        pad = np.pad(x, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], "edge")
        x = np.zeros_like(x)
        for i, tap in enumerate(taps):
            part = pad[i : i + x.shape[0]] if axis == 0 else pad[:, i : i + x.shape[1]]
            x += tap * part
    return x


def _compressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))
