"""Weights and an image for the tests of commands."""

import jax
import pytest
from etils.epath import Path

from urgt_jax.config import Prior
from urgt_jax.data.scenes.export import write_scene
from urgt_jax.training.step import initial_params
from urgt_jax.weights.weight_file import save_weights


@pytest.fixture(scope="session")
def weights(micro, tmp_path_factory):
    """A work directory with weights that change their priors a little."""
    workdir = Path(tmp_path_factory.mktemp("weights"))
    params = jax.device_get(initial_params(micro.model, 0))
    for head in ("depth_head", "normal_head"):
        last = params[head]["pyramid"]["last"]
        last["kernel"] = last["kernel"] * 300
    save_weights(workdir / "weights.safetensors", params, micro)
    return workdir


@pytest.fixture
def scene(tmp_path):
    """An image of 41 x 67 pixels with coarse maps next to it."""
    write_scene(tmp_path, "photo", 3, "test", (41, 67), Prior())
    return tmp_path / "photo.png"


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """Weights that the user has in the cache change nothing here."""
    monkeypatch.setenv("URGT_CACHE", str(tmp_path / "cache"))
