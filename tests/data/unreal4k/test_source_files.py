"""The published files of UnrealStereo4K: raw images, and what is rejected."""

import codecs
import shutil

import numpy as np
import pytest
from etils.epath import Path
from helpers import miniature_sets
from PIL import Image

from urgt_jax.data.unreal4k.source_files import FrameFiles, read_frame, read_splits
from urgt_jax.errors import UserError


def test_read_frame_reads_raw_images_as_blue_green_red(source, tmp_path):
    raw = miniature_sets.unreal4k(tmp_path / "raw", (36, 64), raw=True)
    from_raw = read_frame(FrameFiles(str(raw), "00001", "00011"))
    from_png = read_frame(FrameFiles(str(source), "00001", "00011"))
    np.testing.assert_array_equal(from_raw.image, from_png.image)


def remove_image(scene: Path) -> None:
    (scene / "Image0/00000.png").unlink()


def truncate_image(scene: Path) -> None:
    image = scene / "Image0/00000.png"
    image.write_bytes(image.read_bytes()[:500])


def shrink_image(scene: Path) -> None:
    Image.fromarray(np.zeros((18, 32, 3), np.uint8)).save(scene / "Image0/00000.png")


def truncate_raw_image(scene: Path) -> None:
    remove_image(scene)
    (scene / "Image0/00000.raw").write_bytes(b"0" * 77)


def remove_disparity(scene: Path) -> None:
    (scene / "Disp0/00000.npy").unlink()


def empty_disparity(scene: Path) -> None:
    (scene / "Disp0/00000.npy").write_bytes(b"")


def put_nan_into_disparity(scene: Path) -> None:
    change_disparity(scene, np.nan)


def put_negative_into_disparity(scene: Path) -> None:
    change_disparity(scene, -1)


def change_disparity(scene: Path, value: float) -> None:
    disparity = np.load(scene / "Disp0/00000.npy")
    disparity[3, 4] = value
    np.save(scene / "Disp0/00000.npy", disparity)


def save_disparity_as_integers(scene: Path) -> None:
    disparity = np.load(scene / "Disp0/00000.npy")
    np.save(scene / "Disp0/00000.npy", disparity.astype(np.uint8))


def crop_disparity(scene: Path) -> None:
    disparity = np.load(scene / "Disp0/00000.npy")
    np.save(scene / "Disp0/00000.npy", disparity[:3, :3])


def remove_camera(scene: Path) -> None:
    (scene / "Extrinsics1/00000.txt").unlink()


def remove_baseline(scene: Path) -> None:
    shutil.copy(scene / "Extrinsics0/00000.txt", scene / "Extrinsics1/00000.txt")


def write_words_into_camera(scene: Path) -> None:
    (scene / "Extrinsics0/00000.txt").write_text("1 0 x\n")


def put_nan_into_camera(scene: Path) -> None:
    change_focal_length(scene, "nan")


def set_focal_length_to_0(scene: Path) -> None:
    change_focal_length(scene, "0")


def change_focal_length(scene: Path, value: str) -> None:
    camera = scene / "Extrinsics0/00000.txt"
    first, *others = camera.read_text().split(" ")
    camera.write_text(" ".join([value, *others]))


BAD_FRAMES = [  # what is done to the first frame of scene 00000, a pattern of the error
    (remove_image, "Image0/00000.png"),
    (truncate_image, "00000.png cannot be read"),
    (shrink_image, r"00000.png is \(18, 32\) pixels, its disparity \(36, 64\)"),
    (truncate_raw_image, "00000.raw has 77 bytes, not 36 x 64 x 3"),
    (remove_disparity, "Disp0/00000.npy"),
    (empty_disparity, "Disp0/00000.npy"),
    (put_nan_into_disparity, "00000.npy has 1 values that are NaN"),
    (put_negative_into_disparity, "00000.npy has 1 values that are NaN, infinite or negative"),
    (save_disparity_as_integers, "dtype uint8, not float"),
    (crop_disparity, r"00000.npy is \(3, 3\) pixels. The least is 8"),
    (remove_camera, "Extrinsics1/00000.txt: the camera file is missing"),
    (remove_baseline, "have no baseline"),
    (write_words_into_camera, "is not two lines of numbers"),
    (put_nan_into_camera, "has numbers that are NaN"),
    (set_focal_length_to_0, "focal lengths 0 and"),
]


@pytest.mark.parametrize("spoil, pattern", BAD_FRAMES)
def test_read_frame_names_the_bad_file(source, tmp_path, spoil, pattern):
    spoilt = shutil.copytree(source, tmp_path / "source")
    spoil(spoilt / "00000")
    with pytest.raises(UserError, match=pattern) as caught:
        read_frame(FrameFiles(str(spoilt), "00000", "00000"))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "line, pattern",
    [
        ("00000/Image0", "train.txt, line 4 is not 'SCENE/Image0/N.png"),
        ("00000/Image1/00000.png x", "line 4 is not"),
        ("00000/Image0/00001.png x", "line 4 repeats a frame"),
    ],
)
def test_read_splits_names_a_wrong_line(source, tmp_path, line, pattern):
    splits = shutil.copytree(source / "splits", tmp_path / "splits")
    with (splits / "train.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=pattern):
        read_splits(splits, source)


def test_read_splits_ignores_a_byte_order_mark(source, tmp_path):
    splits = tmp_path / "train.txt"
    splits.write_bytes(codecs.BOM_UTF8 + (source / "splits" / "train.txt").read_bytes())
    assert read_splits(splits, source) == read_splits(source / "splits" / "train.txt", source)


def test_read_splits_rejects_a_folder_without_split_files(source, tmp_path):
    with pytest.raises(UserError, match="neither a split file nor a folder"):
        read_splits(tmp_path, source)
    (tmp_path / "val.txt").write_text("")
    with pytest.raises(UserError, match="val.txt is empty"):
        read_splits(tmp_path, source)


def test_read_splits_takes_the_names_of_smd_nets_too(source, tmp_path):
    names = {"test_in.txt": "test.txt", "test_out.txt": "out_test.txt"}
    for own, other in names.items():
        shutil.copy(source / "splits" / own, tmp_path / other)
    splits = read_splits(tmp_path, source)
    assert list(splits) == ["test_in", "test_out"]
    assert splits["test_out"][0].name == "00008_00030"
