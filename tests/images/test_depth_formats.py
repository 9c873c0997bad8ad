"""Readers of depth maps."""

import numpy as np
import pytest
from helpers.public_sets import random_depth, write_hdf5, write_pfm, write_png16

from urgt_jax.errors import UserError
from urgt_jax.images import files
from urgt_jax.images.depth_formats import open_pfm, open_raw32, read_hdf5, read_mat, read_png16


@pytest.mark.parametrize("order", ["<", ">"])
def test_open_pfm_reads_either_byte_order(tmp_path, order):
    values, _ = random_depth()
    write_pfm(tmp_path / "a.pfm", values, order)
    np.testing.assert_array_equal(open_pfm(tmp_path / "a.pfm"), values)


def test_open_raw32_reads_rows_from_the_top(tmp_path):
    values, _ = random_depth()
    (tmp_path / "a.raw").write_bytes(values.astype("<f4").tobytes())
    np.testing.assert_array_equal(open_raw32(tmp_path / "a.raw", values.shape), values)


def test_read_png16_keeps_all_sixteen_bits(tmp_path):
    values = np.arange(65536).reshape(256, 256)
    write_png16(tmp_path / "a.png", values)
    np.testing.assert_array_equal(read_png16(tmp_path / "a.png"), values)


def test_read_hdf5_follows_nothing_out_of_its_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(bytes(48))
    write_hdf5(tmp_path / "other", depth=np.zeros((3, 4), np.float32))
    with h5py.File(tmp_path / "a", "w") as file:
        file["link"] = h5py.ExternalLink(str(tmp_path / "other"), "depth")
        file["own"] = np.ones((3, 4), np.float32)
        file["soft"] = h5py.SoftLink("/own")
        external = [(str(tmp_path / "secret"), 0, 48)]
        file.create_dataset("external", (3, 4), np.float32, external=external)
        layout = h5py.VirtualLayout((3, 4), np.float32)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other"), "depth", (3, 4))
        file.create_virtual_dataset("virtual", layout)
        file.create_group("group")
    np.testing.assert_array_equal(read_hdf5(tmp_path / "a", "own"), np.ones((3, 4)))
    for name in ("link", "soft", "external", "virtual", "group"):
        with pytest.raises(UserError, match=f"a: '{name}' is no array of this file but a link"):
            read_hdf5(tmp_path / "a", name)
    with pytest.raises(UserError, match="has no array 'missing'"):
        read_hdf5(tmp_path / "a", "missing")


def test_small_files_that_would_unpack_to_enormous_maps_are_rejected(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    zeros = np.zeros((3, 1000, 100), np.float32)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("depth", data=zeros, compression="gzip")
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(tmp_path / "a.mat", {"data": {"depth": zeros}}, do_compression=True)
    monkeypatch.setattr(files, "ALWAYS_READ", 0.5e6)
    assert read_hdf5(tmp_path / "a.hdf5", "depth", part=1).shape == (1000, 100)
    with pytest.raises(UserError, match="a.hdf5 would unpack to"):
        read_hdf5(tmp_path / "a.hdf5", "depth")
    with pytest.raises(UserError, match="a.mat would unpack to"):
        read_mat(tmp_path / "a.mat")
    monkeypatch.setattr(files, "ALWAYS_READ", 2e6)
    assert read_mat(tmp_path / "a.mat")["data"]["depth"].shape == zeros.shape
