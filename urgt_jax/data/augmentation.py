"""Colour jitter in training, so that the model does not depend on one camera's colours."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

GREY = 0.1  # share of images that become grey
NOISY = 0.2  # share of images with added noise
SOFT = 0.2  # share of images that are blurred


def jitter(
    image: UInt8[np.ndarray, "*B H W 3"], rng: np.random.Generator, strength: float = 1.0
) -> UInt8[np.ndarray, "*B H W 3"]:
    """The image with random brightness, contrast, gamma and colours; all patches change alike.

    Some images also become grey, noisy or blurred. A strength of 0 changes nothing.
    """
    if strength == 0:
        return image
    grey, noisy, soft = rng.random(3) < np.array([GREY, NOISY, SOFT]) * min(strength, 1)
    image = _mapped(image, _curves(rng, strength))
    if grey:
        light = image @ np.array([0.299, 0.587, 0.114], np.float32)
        image = np.repeat(light[..., None].round().astype(np.uint8), 3, -1)
    if soft:
        image = _blurred(image, rng.uniform(0.3, 1.0) * strength)
    if noisy:
        noise = rng.standard_normal(image.shape, np.float32) * np.float32(6 * strength)
        image = np.clip(image + noise * np.float32(rng.random()), 0, 255).astype(np.uint8)
    return image


def _curves(rng: np.random.Generator, strength: float) -> np.ndarray:
    """[3, 256] the new value of every level of red, green and blue."""
    level = np.linspace(0, 1, 256)
    gamma, contrast = np.exp(rng.normal(0, 0.2 * strength, 2))
    bright = rng.normal(0, 0.06 * strength)
    balance = np.exp(rng.normal(0, 0.08 * strength, (3, 1)))
    curve = (level**gamma - 0.5) * contrast + 0.5 + bright
    return (np.clip(curve * balance, 0, 1) * 255).round().astype(np.uint8)


def _mapped(image: np.ndarray, curves: np.ndarray) -> np.ndarray:
    return np.stack([curves[i][image[..., i]] for i in range(3)], -1)


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of every patch."""
    soft = ImageFilter.GaussianBlur(sigma)
    patches = image.reshape(-1, *image.shape[-3:])
    blurred = [np.asarray(Image.fromarray(patch).filter(soft)) for patch in patches]
    return np.stack(blurred).reshape(image.shape)
