"""Coarse maps on disk: what is stored, and how windows of it are read."""

import json
import os
import pickle
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from helpers.coarse_maps import (
    MAX_DEPTH,
    SIZES,
    RandomImages,
    contents,
    run_priors,
    write_maps,
)
from helpers.mutations import mutations

from urgt_jax.config import Prior
from urgt_jax.data.priors.networks import DepthNetwork, NormalNetwork
from urgt_jax.data.priors.stored import StoredPriors, claim_folder
from urgt_jax.data.priors.units import to_network_unit
from urgt_jax.data.samples import WHOLE
from urgt_jax.errors import UserError
from urgt_jax.files import seal
from urgt_jax.images.geometry import unit_normals
from urgt_jax.images.resize import resize_linear

WINDOWS = [
    (slice(0, 7), slice(0, 9)),
    (slice(20, 41), slice(33, 51)),
    (slice(13, 14), slice(None)),
    WHOLE,
]


def test_read_returns_what_the_networks_predict(complete, weights):
    # On the devices that the stored maps were made on: another program would round otherwise.
    devices = jax.local_devices()
    depth_network = DepthNetwork(weights["--depth-weights"], devices=devices)
    normal_network = NormalNetwork(weights["--normal-weights"], devices=devices)
    stored = StoredPriors(complete / "all")
    source = RandomImages()
    for index, size in enumerate(SIZES):
        image = source.read(index).image
        depth, normal = stored.read(source.name(index), size)
        expected, _ = to_network_unit(depth_network(image), Prior(), MAX_DEPTH)
        assert depth.dtype == normal.dtype == np.float32
        assert depth.min() == 0 and depth.max() == 1 and depth.std() > 0.05
        np.testing.assert_allclose(depth, expected, rtol=0, atol=1e-6)
        expected = unit_normals(normal_network(image))
        np.testing.assert_allclose(normal, expected, rtol=0, atol=1e-6)
        assert normal.std((0, 1)).max() > 0.01


@pytest.mark.parametrize("window", WINDOWS)
def test_read_of_a_window_equals_the_crop_of_the_whole(complete, window):
    stored = StoredPriors(complete / "all")
    for index, size in enumerate(SIZES):
        whole = stored.read(f"image{index}", size)
        part = stored.read(f"image{index}", size, window)
        for values, cropped in zip(whole, part, strict=True):
            np.testing.assert_array_equal(values[window], cropped)


def test_read_keeps_maps_of_the_images_size(tmp_path):
    options = write_maps(tmp_path / "maps")
    run_priors(options, tmp_path, "--maps-kind", "depth")
    stored = StoredPriors(tmp_path / "all")
    assert stored.kind == "depth"
    depth, normal = stored.read("image1", SIZES[1])
    original = np.load(options["--depth-maps"] / "image1.npy")
    np.testing.assert_allclose(depth * MAX_DEPTH, original, rtol=1e-6)
    original = np.load(options["--normal-maps"] / "image1_normal.npy")
    np.testing.assert_array_equal(normal, unit_normals(original))


def test_read_enlarges_smaller_maps_with_pixel_centres_at_one_half(tmp_path):
    sizes = [(21, 33), (22, 33), (20, 33)]
    options = write_maps(tmp_path / "maps", lambda name, values: values.astype(np.float16), sizes)
    run_priors(options, tmp_path)
    stored = StoredPriors(tmp_path / "all")
    for index, size in enumerate(SIZES):
        original = np.load(options["--depth-maps"] / f"image{index}.npy").astype(np.float32)
        enlarged = resize_linear(original, *size)
        expected = (enlarged - enlarged.min()) / (enlarged.max() - enlarged.min())
        depth, _ = stored.read(f"image{index}", size)
        np.testing.assert_allclose(depth, expected, atol=1e-6)


def test_stored_priors_can_be_pickled(complete):
    stored = pickle.loads(pickle.dumps(StoredPriors(complete / "all")))
    depth, _ = stored.read("image0", SIZES[0])
    assert stored.kind == "disparity" and depth.shape == SIZES[0]


def test_priors_json_identifies_the_networks_and_settings(complete, weights):
    origin = json.loads((complete / "all" / "priors.json").read_text())
    assert origin["data"] == "folder" and origin["max_depth"] == MAX_DEPTH
    assert origin["depth"]["model"] == "Depth Anything V2" and origin["depth"]["size"] == 28
    assert origin["normal"]["config"]["input_size"] == [28, 56]
    command = ["sha256sum", weights["--depth-weights"]]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert origin["depth"]["sha256"] == output.split()[0]


def test_claim_folder_by_two_hosts_at_once_writes_one_file(tmp_path, monkeypatch):
    origin = {"kind": "disparity", "max_depth": MAX_DEPTH}
    origin |= {kind: {"geometry": "centres"} for kind in ("depth", "normal")}
    replace = os.replace
    both = threading.Barrier(2, timeout=20)

    def replace_together(*paths):
        both.wait()
        replace(*paths)

    monkeypatch.setattr(os, "replace", replace_together)
    with ThreadPoolExecutor(2) as hosts:  # threads share a process id, as hosts may
        jobs = [hosts.submit(claim_folder, tmp_path, origin) for _ in range(2)]
    assert [job.result().kind for job in jobs] == ["disparity"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["priors.json"]


@pytest.fixture
def copy(complete, tmp_path):
    """A copy of a complete folder that a test may damage."""
    for name, content in contents(complete).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("image1_fit.json", None, "no coarse maps of image image1 at"),
        ("image1_fit.json", b"{", "image1_fit.json is damaged"),
        ("image1_fit.json", b"{}", "image1_fit.json is damaged"),
        ("image1_depth.npy", None, "no coarse map at .*image1_depth.npy"),
        ("image1_depth.npy", b"", "image1_depth.npy is damaged"),
        ("image1_depth.npy", slice(0, 300), "image1_depth.npy is damaged"),
        ("image1_normal.npy", "image1_depth.npy", "image1_normal.npy is damaged"),
        ("priors.json", None, "no coarse maps in .*: run urgt priors"),
        ("priors.json", b"", "priors.json is damaged"),
        ("priors.json", b"{}", "priors.json is damaged"),
        ("priors.json", json.dumps(seal({})).encode(), "was not written by urgt priors"),
    ],
)
def test_read_reports_a_missing_or_damaged_file(copy, name, content, message):
    path = copy / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, slice):
        path.write_bytes(path.read_bytes()[content])
    else:
        path.write_bytes((copy / content).read_bytes())
    with pytest.raises(UserError, match=message):
        StoredPriors(copy).read("image1", SIZES[1])


@pytest.mark.parametrize(
    "name", ["image1_fit.json", "image1_depth.npy", "image1_normal.npy", "priors.json"]
)
def test_no_change_of_a_stored_file_goes_unnoticed(copy, name):
    expected = StoredPriors(copy).read("image1", SIZES[1])
    for what, changed in mutations((copy / name).read_bytes(), 60):
        (copy / name).write_bytes(changed)
        try:
            maps = StoredPriors(copy).read("image1", SIZES[1])
        except UserError as error:
            assert name in str(error), what
            continue
        for values, want in zip(maps, expected, strict=True):
            np.testing.assert_array_equal(values, want, err_msg=what)


def test_read_rejects_an_image_of_another_size(complete):
    with pytest.raises(UserError, match=r"belong to an image of \(44, 66\) pixels, .* \(44, 67\)"):
        StoredPriors(complete / "all").read("image1", (44, 67))


def test_stored_priors_rejects_a_folder_that_does_not_exist():
    with pytest.raises(UserError, match="no coarse maps in nowhere: run"):
        StoredPriors("nowhere")
