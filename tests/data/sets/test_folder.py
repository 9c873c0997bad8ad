"""A folder of one's own images: depth maps, cameras, and what is rejected."""

import io

import numpy as np
import pytest
from helpers.public_sets import SIZE, assert_rejected, write_folder, write_photo
from PIL import Image

from urgt_jax.data.sets.folder import Folder
from urgt_jax.errors import UserError

WINDOW = (slice(3, 11), slice(5, 16))


def npy_bytes(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def npz_bytes(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, values)
    return file.getvalue()


def png_bytes(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


NPY = npy_bytes(np.ones(SIZE))
PNG = png_bytes(np.ones(SIZE, np.uint16))
PFM = b"Pf\n17 12\n-1\n" + np.ones(SIZE, "<f4").tobytes()
BAD_DEPTH = {  # suffix, content, a word of the error
    "empty npy": (".npy", b"", "empty"),
    "truncated npy": (".npy", NPY[:-9], "cannot be read"),
    "npy of text": (".npy", b"depth", "not a .npy file"),
    "pickled npy": (".npy", npy_bytes(np.array([None])), "cannot be read"),
    "archive": (".npy", npz_bytes(np.ones(SIZE)), "not a .npy file"),
    "integers": (".npy", npy_bytes(np.ones(SIZE, int)), "float32"),
    "another size": (".npy", npy_bytes(np.ones((12, 18))), "size of its image"),
    "three axes": (".npy", npy_bytes(np.ones((12, 17, 1))), "[height, width]"),
    "all unknown": (".npy", npy_bytes(np.full(SIZE, np.nan)), "no pixel of known depth"),
    "all infinite": (".npy", npy_bytes(np.full(SIZE, np.inf)), "no pixel of known depth"),
    "all negative": (".npy", npy_bytes(np.full(SIZE, -1.0)), "no pixel of known depth"),
    "empty pfm": (".pfm", b"", "empty"),
    "truncated pfm": (".pfm", PFM[:-1], "815 bytes"),
    "pfm with only a header": (".pfm", PFM[:12], "0 bytes"),
    "pfm too long": (".pfm", PFM + b"0", "817 bytes"),
    "huge pfm": (".pfm", PFM.replace(b"17 12", b"99999999999 99999999999"), "bytes"),
    "pfm of another size": (".pfm", PFM.replace(b"17 12", b"12 17"), "size of its image"),
    "colour pfm": (".pfm", PFM.replace(b"Pf", b"PF"), "one channel"),
    "pfm of a png": (".pfm", PNG, "not a PFM"),
    "pfm with scale 0": (".pfm", PFM.replace(b"-1\n", b"0.0\n"), "scale"),
    "pfm with a word as scale": (".pfm", PFM.replace(b"-1\n", b"1-1\n"), "scale"),
    "empty png": (".png", b"", "empty"),
    "truncated png": (".png", PNG[:-30], "cannot be read"),
    "png of a pfm": (".png", PFM, "cannot be read"),
    "8-bit png": (".png", png_bytes(np.ones(SIZE, np.uint8)), "16-bit"),
    "colour png": (".png", png_bytes(np.ones((*SIZE, 3), np.uint8)), "16-bit"),
    "png of another size": (".png", png_bytes(np.ones((9, 9), np.uint16)), "size of its image"),
}
BAD_CALIBRATION = {  # content of the JSON file, a word of the error
    "empty": ("", "empty"),
    "half": ("{", "cannot be read"),
    "list": ("[1]", "one JSON object"),
    "not UTF-8": ("\xff", "cannot be read"),
    "unknown name": ('{"depth_scal": 2}', "depth_scal is unknown"),
    "text for a number": ('{"depth_scale": "1000"}', "depth_scale"),
    "scale 0": ('{"depth_scale": 0}', "above 0"),
    "three intrinsics": ('{"intrinsics": [1, 2, 3]}', "[fx, fy, cx, cy]"),
    "uneven intrinsics": ('{"intrinsics": [[1, 2], 3]}', "[fx, fy, cx, cy]"),
    "focal length 0": ('{"intrinsics": [0, 2, 3, 4]}', "intrinsics"),
    "intrinsics as an object": ('{"intrinsics": {"fx": 1}}', "intrinsics"),
    "intrinsics with NaN": ('{"intrinsics": [1, 2, 3, NaN]}', "intrinsics"),
    "half of the intrinsics": ('{"fx": 1, "fy": 2}', "belong together"),
    "negative baseline": ('{"baseline": -1}', "above 0"),
}


def test_folder_takes_cameras_for_all_images_or_for_one(tmp_path):
    for name in ("a", "b", "c"):
        write_photo(tmp_path / f"{name}.png")
        np.save(tmp_path / f"{name}_depth.npy", np.ones(SIZE, np.float16))
    (tmp_path / "dataset.json").write_text('{"intrinsics": [1, 2, 3, 4], "source": "a note"}')
    (tmp_path / "b.json").write_text('{"fx": 5, "fy": 6, "cx": 7, "cy": 8, "baseline": 0.5}')
    folder = Folder(tmp_path)
    samples = [folder.read(i) for i in range(3)]
    intrinsics = [list(sample.intrinsics) for sample in samples]
    assert intrinsics == [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4]]
    assert [sample.stereo for sample in samples] == [None, 2.5, None]
    (tmp_path / "dataset.json").unlink()
    assert Folder(tmp_path).read(0).intrinsics is None


def test_folder_takes_normals_as_truth(tmp_path):
    write_folder(tmp_path)
    normal = np.zeros((*SIZE, 3))
    normal[..., 2] = -3  # lengths do not matter
    normal[0, 0] = np.nan
    normal[1, 1] = 0
    np.save(tmp_path / "kitchen_normal.npy", normal)
    sample = Folder(tmp_path).read(0)
    assert sample.normal.dtype == np.float32
    known = sample.valid.copy()
    known[0, 0] = known[1, 1] = False
    np.testing.assert_array_equal(sample.normal[known], np.float32([[0, 0, -1]] * known.sum()))
    assert not sample.normal[~known].any()
    part = Folder(tmp_path).read(0, WINDOW)
    np.testing.assert_array_equal(part.normal, sample.normal[WINDOW])


@pytest.mark.parametrize(
    ("normal", "word"),
    [
        (np.ones((12, 18, 3)), "size of their image"),
        (np.ones(SIZE), "[height, width, 3]"),
        (np.ones((*SIZE, 3), int), "float32"),
    ],
)
def test_folder_rejects_wrong_normals(tmp_path, normal, word):
    write_folder(tmp_path)
    np.save(tmp_path / "kitchen_normal.npy", normal)
    assert_rejected("folder", tmp_path, str(tmp_path / "kitchen_normal.npy"), word)


def test_folder_reads_a_window_without_known_depth(tmp_path):
    write_photo(tmp_path / "a.png")
    depth = np.full(SIZE, np.nan)
    depth[0, 0] = 2
    np.save(tmp_path / "a_depth.npy", depth)
    folder = Folder(tmp_path)
    assert folder.read(0).valid.sum() == 1
    assert not folder.read(0, WINDOW).valid.any()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_folder_reports_the_size_of_the_upright_image(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    size = (10, 20) if orientation < 5 else (20, 10)
    np.save(tmp_path / "a_depth.npy", np.ones(size, np.float32))
    folder = Folder(tmp_path)
    assert folder.size(0) == folder.read(0).depth.shape == folder.read(0).image.shape[:2] == size


@pytest.mark.parametrize("kind", BAD_DEPTH)
def test_folder_rejects_a_damaged_depth_map(tmp_path, kind):
    suffix, content, word = BAD_DEPTH[kind]
    write_folder(tmp_path, suffix)
    file = tmp_path / f"kitchen_depth{suffix}"
    file.write_bytes(content)
    assert_rejected("folder", tmp_path, str(file), word)


@pytest.mark.parametrize("kind", BAD_CALIBRATION)
@pytest.mark.parametrize("name", ["dataset.json", "a.json"])
def test_folder_rejects_a_wrong_calibration(tmp_path, name, kind):
    content, word = BAD_CALIBRATION[kind]
    write_photo(tmp_path / "a.png")
    np.save(tmp_path / "a_depth.npy", np.ones(SIZE))
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    assert_rejected("folder", tmp_path, str(tmp_path / name), word)


@pytest.mark.parametrize("name", ["dataset.json", "a.json"])
def test_folder_rejects_a_baseline_without_intrinsics(tmp_path, name):
    write_photo(tmp_path / "a.png")
    np.save(tmp_path / "a_depth.npy", np.ones(SIZE))
    (tmp_path / name).write_text('{"baseline": 1}')
    assert_rejected("folder", tmp_path, str(tmp_path / "a.png"), "no intrinsics")


def test_folder_needs_a_scale_for_png_maps(tmp_path):
    write_folder(tmp_path, ".png")
    (tmp_path / "dataset.json").unlink()
    assert_rejected("folder", tmp_path, "depth_scale", "dataset.json")


def test_folder_needs_one_depth_map_for_each_image(tmp_path):
    write_folder(tmp_path, ".png")
    np.save(tmp_path / "kitchen_depth.npy", np.ones(SIZE))
    assert_rejected(
        "folder", tmp_path, "several depth maps", "kitchen_depth.npy, kitchen_depth.png"
    )
    (tmp_path / "kitchen_depth.png").unlink()
    write_photo(tmp_path / "hall.jpg")
    assert_rejected("folder", tmp_path, "no depth map", "hall.jpg", "hall_depth.npy")


def test_folder_rejects_two_images_of_one_name(tmp_path):
    write_folder(tmp_path)
    write_photo(tmp_path / "kitchen.jpg")
    assert_rejected("folder", tmp_path, "two images", "kitchen")


def test_folder_opens_although_one_image_has_no_depth_map(tmp_path):
    write_folder(tmp_path)
    write_photo(tmp_path / "hall.jpg")
    folder = Folder(tmp_path)
    assert [folder.name(i) for i in range(len(folder))] == ["hall", "kitchen"]
    with pytest.raises(UserError, match="hall.jpg has no depth map"):
        folder.read(0)
    assert folder.read(1).valid.any()


def test_folder_takes_upper_case_endings_and_a_leading_dash(tmp_path):
    for number, (suffix, content) in enumerate(((".npy", NPY), (".pfm", PFM))):
        write_photo(tmp_path / f"-{number}.png")
        (tmp_path / f"-{number}.png").rename(tmp_path / f"-{number}.PNG")
        (tmp_path / f"-{number}_depth{suffix.upper()}").write_bytes(content)
    folder = Folder(tmp_path)
    assert [folder.name(i) for i in range(len(folder))] == ["-0", "-1"]
    for index in range(2):
        assert (folder.read(index).depth == 1).all()


def test_folder_reads_a_pfm_file_with_comments(tmp_path):
    write_photo(tmp_path / "a.png")
    comment = b"# written by a program" + b" with a long name" * 20 + b"\n"
    header = b"Pf\n" + comment + b"17 12\n" + comment + b"-1\n"
    (tmp_path / "a_depth.pfm").write_bytes(header + np.ones(SIZE, "<f4").tobytes())
    assert (Folder(tmp_path).read(0).depth == 1).all()
