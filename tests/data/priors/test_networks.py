"""Prior networks: one class each for single images and for batches on several devices."""

import jax
import numpy as np
import pytest
from helpers import tiny_prior_networks
from helpers.coarse_maps import RandomImages

from urgt_jax.data.priors.networks import DepthNetwork, NormalNetwork
from urgt_jax.errors import UserError
from urgt_jax.weights.weight_file import load_weights, save_weights


def test_depth_network_gives_disparity_from_0_to_1_at_the_images_size(weights):
    image = RandomImages().read(0).image
    disparity = DepthNetwork(weights["--depth-weights"])(image)
    assert disparity.shape == image.shape[:2] and disparity.dtype == np.float32
    assert disparity.min() == 0 and disparity.max() == pytest.approx(1, abs=1e-6)
    assert disparity.std() > 0.05


def test_depth_network_has_the_shorter_side_that_was_asked_for(weights):
    image = RandomImages().read(0).image
    network = DepthNetwork(weights["--depth-weights"], size=56)
    assert network.input_size(image.shape[:2]) == network.prepare(image).image.shape[1:3]
    assert min(network.input_size(image.shape[:2])) == 56


def test_normal_network_removes_the_border_of_its_input(weights):
    image = RandomImages().read(0).image
    network = NormalNetwork(weights["--normal-weights"])
    [normal] = network.run([network.prepare(image)])
    assert network.prepare(image).image.shape == (1, 28, 56, 3) and normal.shape == (28, 45, 3)
    assert network(image).shape == image.shape


@pytest.mark.parametrize("count", [1, 3, 8])
def test_run_on_several_devices_gives_the_maps_of_single_images(weights, count):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 30, 45, 3), np.uint8)
    together = DepthNetwork(weights["--depth-weights"], devices=jax.local_devices())
    alone = DepthNetwork(weights["--depth-weights"])
    maps = together.run([together.prepare(image) for image in images])
    assert len(maps) == count
    for image, disparity in zip(images, maps, strict=True):
        [expected] = alone.run([alone.prepare(image)])
        np.testing.assert_allclose(disparity, expected, rtol=0, atol=1e-6 * expected.max())


def test_run_reports_weights_that_predict_nan(weights, tmp_path):
    params, config = load_weights(weights["--depth-weights"], "depth_anything")
    params = jax.tree.map(lambda x: x * np.float32("nan"), params)
    path = tmp_path / "nan.safetensors"
    save_weights(path, params, config)
    with pytest.raises(UserError, match="nan.safetensors predicts NaN"):
        DepthNetwork(path)(RandomImages().read(0).image)


def test_networks_reject_weights_of_the_other_kind(tmp_path):
    path = tmp_path / "depth.safetensors"
    tiny_prior_networks.save_random(path, tiny_prior_networks.DEPTH_ANYTHING, 0)
    with pytest.raises(UserError, match="Depth Anything V2.*Metric3D v2"):
        NormalNetwork(path)
