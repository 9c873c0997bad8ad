"""The camera of a scene, as the host draws it. `develop.py` takes the image."""

from dataclasses import dataclass

import numpy as np

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
