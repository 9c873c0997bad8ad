"""Coarse maps of a whole data set: batches, hosts, resuming, skipped images."""

import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from etils.epath import Path
from helpers.coarse_maps import RandomImages, contents, run_priors, write_maps

from urgt_jax.data.priors import stored as stored_module
from urgt_jax.data.priors.networks import DepthNetwork
from urgt_jax.data.priors.precompute import group_images
from urgt_jax.data.priors.providers import NetworkProvider, StoredFolder
from urgt_jax.errors import UserError

ROOT = Path(__file__).parents[3]


def test_precompute_stores_maps_at_the_networks_own_size(complete):
    files = contents(complete)
    shapes = {
        name: np.load(complete / "all" / name).shape for name in files if name.endswith(".npy")
    }
    assert shapes["image0_depth.npy"] == shapes["image1_depth.npy"] == (28, 42)
    assert shapes["image0_normal.npy"] == (28, 45, 3)
    assert shapes["image1_normal.npy"] == (28, 42, 3)
    assert len(files) == 3 * 3 + 1


def test_precompute_on_two_hosts_gives_the_bytes_of_one(complete, weights, tmp_path):
    for host in range(2):
        run_priors(weights, tmp_path, "--host", host, 2)
        assert len(list(pathlib.Path(tmp_path).rglob("*_fit.json"))) == (2, 3)[host]
    assert contents(tmp_path) == contents(complete)


def test_precompute_on_one_device_gives_the_maps_of_eight(complete, weights, tmp_path, monkeypatch):
    assert len(jax.local_devices()) == 8
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    options = {
        "--depth-weights": weights["--depth-weights"],
        "--normal-maps": write_maps(tmp_path / "maps")["--normal-maps"],
    }
    run_priors(options, tmp_path, "--host", 0, 2)
    for name in ("image0_depth.npy", "image2_depth.npy"):
        one = np.load(tmp_path / "all" / name)
        eight = np.load(complete / "all" / name)
        np.testing.assert_allclose(one, eight, rtol=0, atol=1e-6 * eight.max())


class MixedSizes(RandomImages):
    """Twenty images of three sizes in turn."""

    def __len__(self):
        return 20

    def size(self, index):
        return [(41, 66), (44, 66), (66, 41)][index % 3]


def test_group_images_puts_one_input_size_into_a_batch(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:4])
    source = MixedSizes()
    depth_provider = NetworkProvider(DepthNetwork(weights["--depth-weights"]))
    normal_provider = StoredFolder(tmp_path, "normal")
    batches, skipped = group_images(source, depth_provider, normal_provider, list(range(3, 20)))
    assert skipped == []
    assert sorted(index for batch in batches for index in batch) == list(range(3, 20))
    # Twelve images of two sizes have the input (28, 42), and five have (42, 28).
    assert sorted(len(batch) for batch in batches) == [1, 4, 4, 4, 4]
    for batch in batches:
        sizes = {depth_provider.input_size(source.size(index)) for index in batch}
        assert len(sizes) == 1


def test_precompute_again_makes_only_missing_maps(complete, weights, tmp_path, capsys):
    run_priors(weights, tmp_path)
    folder = tmp_path / "all"
    (folder / "image1_normal.npy").unlink()
    (folder / "image2_fit.json").unlink()
    (folder / "image2_depth.npy").write_bytes(b"half")
    time = os.stat(folder / "image0_depth.npy").st_mtime_ns
    run_priors(weights, tmp_path)
    assert "1 of 3 images are finished already" in capsys.readouterr().out
    assert os.stat(folder / "image0_depth.npy").st_mtime_ns == time
    assert contents(tmp_path) == contents(complete)


def test_precompute_resumes_after_a_kill_with_the_same_bytes(tmp_path):
    options = write_maps(tmp_path / "maps")
    run_priors(options, tmp_path / "whole")
    options_text = {name: str(path) for name, path in options.items()}
    code = f"""
        import os, signal
        from etils.epath import Path
        from helpers.coarse_maps import run_priors

        replace = os.replace
        calls = []

        def replace_or_die(*paths):
            calls.append(paths)
            if len(calls) == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*paths)

        os.replace = replace_or_die
        run_priors({options_text!r}, Path({str(tmp_path)!r}))
    """
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment)
    assert process.returncode == -9
    assert 1 <= len(list((tmp_path / "all").glob("image*"))) < 9
    run_priors(options, tmp_path)
    files = {name: x for name, x in contents(tmp_path).items() if not name.startswith(".")}
    assert files == contents(tmp_path / "whole")


def test_precompute_stores_the_other_images_when_a_map_does_not_fit(tmp_path):
    options = write_maps(
        tmp_path / "maps", lambda name, values: values.T if name == "depth1" else values
    )
    with pytest.raises(UserError, match="1 of 3 images were skipped .*skipped.txt"):
        run_priors(options, tmp_path)
    [line] = (tmp_path / "all" / "skipped.txt").read_text().splitlines()
    assert "image1.npy" in line and "aspect" in line
    assert len(list(pathlib.Path(tmp_path).rglob("*_fit.json"))) == 2


@pytest.mark.parametrize(
    "source",
    [RandomImages(broken=[1]), RandomImages(unsized=[1]), RandomImages(broken=[0, 2])],
    ids=["damaged", "empty", "two damaged"],
)
def test_precompute_skips_a_damaged_image_until_it_is_repaired(complete, weights, tmp_path, source):
    bad = sorted([*source.broken, *source.unsized])
    with pytest.raises(UserError, match=f"{len(bad)} of 3 images were skipped"):
        run_priors(weights, tmp_path, source=source)
    lines = (tmp_path / "all" / "skipped.txt").read_text().splitlines()
    assert [line.split(".")[0] for line in lines] == [f"image{index}" for index in bad]
    run_priors(weights, tmp_path)
    assert contents(tmp_path) == contents(complete)


def test_precompute_on_one_host_removes_older_lists_of_skipped_images(tmp_path):
    options = write_maps(tmp_path / "maps")
    for host in range(2):
        with pytest.raises(UserError, match=f"images were skipped .*skipped_{host}.txt"):
            source = RandomImages(broken=[0, 1])
            run_priors(options, tmp_path, "--host", host, 2, source=source)
    run_priors(options, tmp_path)
    assert not list(pathlib.Path(tmp_path).rglob("skipped*"))
    assert len(list(pathlib.Path(tmp_path).rglob("*_fit.json"))) == 3


def test_precompute_skips_an_image_of_another_size_than_its_header_says(tmp_path, monkeypatch):
    options = write_maps(tmp_path / "maps")
    monkeypatch.setattr(RandomImages, "size", lambda self, index: (44, 66))
    with pytest.raises(UserError, match="2 of 3 images were skipped"):
        run_priors(options, tmp_path)
    lines = (tmp_path / "all" / "skipped.txt").read_text()
    assert "image2 has (41, 66) pixels, but its file header says (44, 66)" in lines


def test_precompute_ends_when_the_disk_is_full(tmp_path, monkeypatch):
    options = write_maps(tmp_path / "maps")

    def fail(path, values):
        raise UserError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(stored_module, "write_map", fail)
    with pytest.raises(UserError, match="cannot write .*: No space left"):
        run_priors(options, tmp_path)
    assert not list(pathlib.Path(tmp_path).rglob("*_fit.json"))
