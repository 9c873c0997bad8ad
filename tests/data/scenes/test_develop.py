"""The camera's faults, each on its own."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from urgt_jax.data.scenes.arrays import pack_camera
from urgt_jax.data.scenes.camera import LINES, Camera
from urgt_jax.data.scenes.develop import Block
from urgt_jax.data.scenes.render import develop_in_turn, develop_together, take

PERFECT = Camera(
    exposure=0.25,
    balance=np.ones(3, np.float32),
    gamma=1.0,
    vignette=0.0,
    blur=0.0,
    shot=0.0,
    read=0.0,
    quality=0,
    seed=0,
)
SIZE = (130, 150)  # two blocks by two


@pytest.fixture(scope="module")
def light():
    """Smooth random light with edges."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0.2, 1, (14, 16, 3))
    return np.kron(coarse, np.ones((10, 10, 1)))[: SIZE[0], : SIZE[1]].astype(np.float32)


def test_exposure_balance_and_gamma_map_mean_light_to_a_brightness():
    camera = replace(PERFECT, gamma=0.5, balance=np.array([1.0, 1.21, 0.81], np.float32))
    image = take(camera, np.full((*SIZE, 3), 7.0, np.float32))
    expected = np.array([0.5, 0.55, 0.45]) * 255
    assert (np.abs(image - expected) <= 1).all()


def test_dark_light_does_not_divide_by_zero():
    assert not take(PERFECT, np.zeros((*SIZE, 3), np.float32)).any()


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.3, 5.0])
def test_blur_is_gaussian_across_blocks_and_borders(light, sigma):
    camera = replace(PERFECT, exposure=0.5, blur=sigma * LINES / SIZE[0])
    expected = light * camera.exposure / light[::4, ::4].mean()
    for axis in (0, 1):
        expected = gaussian_filter1d(expected, sigma, axis, mode="nearest", truncate=2.5)
    image = take(camera, light)
    assert np.abs(image - np.clip(expected, 0, 1) * 255).max() <= 1


def test_vignette_darkens_the_corners_by_its_share():
    image = take(replace(PERFECT, vignette=0.4), np.ones((*SIZE, 3), np.float32)) / 255
    assert abs(image[65, 75] - 0.25).max() < 0.005
    for corner in (image[0, 0], image[-1, 0], image[0, -1], image[-1, -1]):
        assert abs(corner - 0.25 * 0.6).max() < 0.01


@pytest.mark.parametrize("level", [0.09, 0.49])
def test_noise_grows_with_the_square_root_of_brightness(level):
    camera = replace(PERFECT, exposure=level, read=0.02, shot=0.05)
    ones = np.ones((224, 224, 3), np.float32)
    image = take(camera, ones) / 255
    assert abs(image.std() / (0.02 + 0.05 * level**0.5) - 1) < 0.03
    assert abs(image.mean() - level) < 0.002
    np.testing.assert_array_equal(take(camera, ones, workers=2) / 255, image)
    blocks = [image[:112, :112], image[:112, 112:], image[112:, :112], image[112:, 112:]]
    blocks.append(take(replace(camera, seed=1), ones)[:112, :112] / 255)
    for i, one in enumerate(blocks):
        for other in blocks[:i]:
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("quality", [40, 75, 95])
def test_compression_loses_what_jpeg_loses(light, quality):
    camera = replace(PERFECT, exposure=0.5, blur=1.0, shot=0.03)
    exact = take(camera, light)
    file = io.BytesIO()
    Image.fromarray(exact).save(file, "JPEG", quality=quality)
    jpeg = np.array(Image.open(file)).astype(int)
    compressed = take(replace(camera, quality=quality), light).astype(int)
    lost = np.abs(jpeg - exact).mean()
    assert lost > 0.5 and np.abs(compressed - jpeg).mean() < 0.5 * lost


def test_blocks_developed_together_are_those_developed_in_turn():
    light = np.random.default_rng(1).uniform(0, 1, (8, 144, 144, 3)).astype(np.float32)
    numbers = np.arange(8, dtype=np.int32)
    blocks = Block(number=numbers, corner=np.stack([numbers, numbers], 1) * 112, light=light)
    camera = pack_camera(replace(PERFECT, gamma=0.6, blur=0.5, shot=0.03, vignette=0.2, quality=75))
    arguments = (camera, np.float32(0.5), np.array([896, 896], np.int32), blocks)
    in_turn = np.asarray(develop_in_turn(*arguments, 8)).astype(int)
    together = np.asarray(develop_together(*arguments)).astype(int)
    # Rounding may move a coefficient of JPEG by a step here and there.
    assert (np.abs(in_turn - together) > 1).mean() < 1e-3 and in_turn.std() > 5
