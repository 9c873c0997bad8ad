"""Paths in object stores: what is rejected, what is written, and what local copies hold."""

import sys

import cv2
import numpy as np
import pytest
from etils.epath import Path

from urgt_jax import files, remote
from urgt_jax.errors import UserError
from urgt_jax.images.depth_formats import open_pfm, open_raw32
from urgt_jax.images.files import read_image, write_image, write_map
from urgt_jax.images.map_files import read_map_file


@pytest.mark.parametrize("address", ["gcs://bucket/run", "https://page", "file:///run"])
def test_check_rejects_an_unknown_scheme(address):
    with pytest.raises(UserError, match=rf"{address}: \w+:// is unknown. Pass .* \(gs://, s3://"):
        remote.check(address)


@pytest.mark.parametrize("path", ["runs/a", "gs:/bucket", "A://b", "hf://me/x"])
def test_check_lets_local_paths_and_the_hub_pass(path):
    remote.check(path)


@pytest.mark.parametrize(
    ("address", "module", "words"),
    [
        ("gs://bucket/run", "gcsfs", r'pip install "urgt-jax\[gcp\]"'),
        ("s3://bucket/run", "s3fs", r'pip install "urgt-jax\[s3\]"'),
    ],
)
def test_check_names_the_missing_package(address, module, words, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"{address} needs a package: {words}"):
        remote.check(address)


def test_check_reports_a_store_that_does_not_answer(store, monkeypatch):
    def exists(path):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(store, "exists", exists)
    with pytest.raises(UserError, match=r"fake://b/x cannot be reached \(ConnectionError: no rou"):
        remote.open_path("fake://b/x")


def test_make_folder_fails_where_nothing_can_be_written(store):
    store.denied = "locked"
    with pytest.raises(UserError, match=r"cannot write to fake://locked/run \(PermissionError: 40"):
        files.make_folder(Path("fake://locked/run"))
    folder = files.make_folder(Path("fake://open/run"))
    assert not folder.exists()  # nothing is left of the attempt


def test_atomic_write_uploads_a_file_only_when_complete(store):
    path = Path("fake://b/run/notes.txt")
    files.write_text(path, "old")
    with pytest.raises(ValueError):
        with files.atomic_write(path) as file:
            file.write(b"half of the new")
            raise ValueError
    assert path.read_text() == "old"
    store.denied = "notes"
    with pytest.raises(UserError, match=r"cannot write fake://b/run/notes.txt \(PermissionError"):
        files.write_text(path, "new")
    assert [path.name for path in path.parent.iterdir()] == ["notes.txt"]


def test_open_to_append_uploads_the_whole_file_at_every_flush(store):
    path = Path("fake://b/log")
    with files.open_to_append(path) as file:
        file.write(b"one\n")
        assert not path.exists()
        file.flush()
        assert path.read_bytes() == b"one\n"
        file.write(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    with files.open_to_append(path) as file:
        assert file.tell() == 8
        file.truncate(4)
        file.write(b"three\n")
    assert path.read_bytes() == b"one\nthree\n"


def test_find_paths_takes_brackets_literally_and_leaves_hidden_files_out(store):
    folder = Path("fake://b/a[1]")
    for name in ("x.npy", ".hidden.npy", "y.png"):
        files.write_text(folder / name, name)
    assert files.find_paths(folder, "*.npy") == [folder / "x.npy"]
    assert files.find_paths(folder, ".*.npy") == [folder / ".hidden.npy"]


def test_local_copy_is_made_once_and_again_after_a_change(store):
    path = Path("fake://b/weights")
    files.write_text(path, "first")
    copy = remote.local_copy(path)
    assert copy.read_text() == "first" and not remote.is_remote(copy)
    assert remote.local_copy(path) == copy
    files.write_text(path, "second")
    assert remote.local_copy(path).read_text() == "second"


def test_stage_uploads_what_is_new_or_has_changed(store):
    stage = remote.Stage(Path("fake://b/logs"))
    (stage.local / "a").mkdir()
    (stage.local / "a/events").write_text("1")
    stage.upload()
    (stage.folder / "a/events").write_text("changed in the store")
    (stage.local / "other").write_text("2")
    stage.upload()
    assert (stage.folder / "a/events").read_text() == "changed in the store"
    (stage.local / "a/events").write_text("13")
    stage.upload()
    assert (stage.folder / "a/events").read_text() == "13"
    assert [str(path) for path in remote.all_files(stage.folder)] == [
        "fake://b/logs/a/events",
        "fake://b/logs/other",
    ]


def test_staged_uploads_nothing_after_an_error(store, tmp_path):
    with pytest.raises(ValueError):
        with remote.staged(Path("fake://b/out")) as folder:
            (folder / "half").write_text("half")
            raise ValueError
    assert not Path("fake://b/out").exists() and not folder.exists()
    with remote.staged(tmp_path) as folder:
        assert folder == tmp_path


def test_images_and_maps_in_a_store_are_those_of_local_files(store, tmp_path):
    rng = np.random.default_rng(0)
    depth = rng.random((9, 12), np.float32)
    write_image(tmp_path / "photo.png", rng.integers(0, 255, (9, 12, 3), np.uint8))
    write_map(tmp_path / "map.npy", depth)
    np.savez(tmp_path / "map.npz", depth=depth)
    (tmp_path / "map.pfm").write_bytes(b"Pf\n12 9\n-1\n" + depth[::-1].tobytes())
    (tmp_path / "map.raw").write_bytes(depth.tobytes())
    (tmp_path / "map.tif").write_bytes(cv2.imencode(".tif", depth)[1].tobytes())
    folder = Path("fake://b/images")
    for path in tmp_path.glob("*.*"):
        remote.upload(path, folder / path.name)
    np.testing.assert_array_equal(
        read_image(folder / "photo.png"), read_image(tmp_path / "photo.png")
    )
    for name in ("map.npy", "map.npz", "map.pfm", "map.tif"):
        np.testing.assert_array_equal(read_map_file(folder / name, "depth").values, depth)
    np.testing.assert_array_equal(open_pfm(folder / "map.pfm"), depth)
    np.testing.assert_array_equal(open_raw32(folder / "map.raw", (9, 12)), depth)
