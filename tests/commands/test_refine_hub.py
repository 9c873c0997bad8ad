"""`urgt refine photo.jpg` alone, against a hub on this machine."""

import os
import subprocess
import sys

import numpy as np
import pytest
from etils.epath import Path
from helpers.loopback_hub import TINY, LoopbackHub, official_file
from PIL import Image

from urgt_jax.weights.download import PUBLISHED

ROOT = Path(__file__).parents[2]
# Metric3D at its published input of 616 x 1064 pixels would take long.
PROGRAM = """
import sys
from urgt_jax.weights import detect
detect.METRIC3D_INPUT = (56, 112)
from urgt_jax.commands import main
sys.exit(main.main())
"""


@pytest.fixture
def photo(tmp_path):
    """A folder with a photograph and nothing else."""
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photo.jpg")
    return folder / "photo.jpg"


def refine(photo: Path, hub: str, *options) -> subprocess.CompletedProcess:
    """`urgt refine photo.jpg` in the photo's folder, with a cache of its own."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub,
        "HF_HOME": str(photo.parent / "hf"),
        "HF_HUB_ETAG_TIMEOUT": "2",
        "URGT_CACHE": str(photo.parent / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    words = [sys.executable, "-c", PROGRAM, "refine", photo.name, "--grid", "2", "2", *options]
    return subprocess.run(
        words,
        cwd=photo.parent,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_refine_alone_downloads_converts_and_keeps(photo, tmp_path):
    pytest.importorskip("huggingface_hub")
    files = {}
    for name, config in TINY.items():
        published = PUBLISHED[name]
        files[published.host] = {published.file: official_file(tmp_path, config)}
    server = LoopbackHub(files)

    unasked = refine(photo, server.url)
    assert unasked.returncode == 2
    [line] = unasked.stderr.splitlines()
    assert "photo.jpg: no coarse depth map found" in line and "--accept-licences" in line
    assert "ckpt_best.pth, licence: MIT according to its README" in unasked.stdout
    assert not server.requests

    done = refine(photo, server.url, "--accept-licences")
    assert done.returncode == 0, done.stderr
    depth = np.load(photo.parent / "refined/photo_depth.npy")
    assert depth.shape == (64, 80) and np.isfinite(depth).all()
    weights = photo.parent / "cache/weights"
    assert {path.stem for path in weights.glob("*.safetensors")} == set(TINY)
    assert not list(weights.glob("*.pth"))

    server.requests.clear()
    again = refine(photo, server.url)  # nobody is asked, and nothing is fetched
    server.close()
    assert again.returncode == 0, again.stderr
    assert not server.requests
    np.testing.assert_array_equal(np.load(photo.parent / "refined/photo_depth.npy"), depth)


@pytest.mark.slow  # huggingface_hub tries for 25 s
def test_refine_alone_without_a_network_says_what_to_fetch(photo):
    pytest.importorskip("huggingface_hub")
    done = refine(photo, "http://127.0.0.1:9", "--accept-licences")
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "JUGGHM/Metric3D/metric_depth_vit_small_800k.pth" in line
    assert "cache/weights" in line and "--weights scenes works offline" in line
    assert not (photo.parent / "refined").exists()
