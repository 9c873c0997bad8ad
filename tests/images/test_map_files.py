"""Maps in every file format read back as they were written."""

import cv2
import numpy as np
import pytest
from etils.epath import Path
from PIL import Image, PngImagePlugin

from urgt_jax.errors import UserError
from urgt_jax.images import files
from urgt_jax.images.map_files import read_map_file, read_mask

RNG = np.random.default_rng(0)
DEPTH = RNG.uniform(0.5, 9, (12, 17)).astype(np.float32)
NORMAL = RNG.uniform(-1, 1, (12, 17, 3)).astype(np.float32)


def write_pfm(path: Path, values: np.ndarray, dtype: str) -> None:
    """A PFM file as its description says: the bottom row first."""
    kind = "PF" if values.ndim == 3 else "Pf"
    scale = -1.0 if dtype == "<f4" else 1.0
    height, width = values.shape[:2]
    header = f"{kind}\n{width} {height}\n{scale}\n".encode()
    path.write_bytes(header + values[::-1].astype(dtype).tobytes())


def write_exr(path: Path, channels: dict[str, np.ndarray], **header) -> None:
    """An EXR file with these channels."""
    openexr = pytest.importorskip("OpenEXR")
    channels = {name: np.ascontiguousarray(values) for name, values in channels.items()}
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage, **header}
    with openexr.File(header, channels) as file:
        file.write(str(path))


def save_depth(path: Path, form: str) -> None:
    """Write DEPTH in one of the formats that keep float32."""
    if form == "npy":
        np.save(path.with_suffix(".npy"), DEPTH)
        path.with_suffix(".npy").rename(path)
    elif form == "npy with a channel":
        np.save(path.with_suffix(".npy"), DEPTH[..., None])
        path.with_suffix(".npy").rename(path)
    elif form == "npz":
        np.savez(path.with_suffix(".npz"), DEPTH)
        path.with_suffix(".npz").rename(path)
    elif form == "npz with a name":
        np.savez(path.with_suffix(".npz"), camera=np.eye(3), Depth=DEPTH)
        path.with_suffix(".npz").rename(path)
    elif form == "pfm":
        write_pfm(path, DEPTH, "<f4")
    elif form == "big-endian pfm":
        write_pfm(path, DEPTH, ">f4")
    elif form == "tif":
        Image.fromarray(DEPTH).save(path, "TIFF")
    elif form == "double tif":
        cv2.imwrite(str(path.with_suffix(".tif")), DEPTH.astype(np.float64))
        path.with_suffix(".tif").rename(path)
    elif form == "exr":
        write_exr(path, {"Z": DEPTH})
    elif form == "exr with a strange channel":
        write_exr(path, {"my map": DEPTH})
    elif form == "exr with colours":
        write_exr(path, {"R": 0 * DEPTH, "G": 0 * DEPTH, "B": 0 * DEPTH, "Camera.Depth.Z": DEPTH})
    elif form == "grey exr":
        write_exr(path, {"R": DEPTH, "G": DEPTH, "B": DEPTH})


@pytest.mark.parametrize(
    "form",
    [
        "npy",
        "npy with a channel",
        "npz",
        "npz with a name",
        "pfm",
        "big-endian pfm",
        "tif",
        "double tif",
        "exr",
        "exr with a strange channel",
        "exr with colours",
        "grey exr",
    ],
)
def test_read_map_file_returns_the_same_depth_from_every_format(tmp_path, form):
    path = tmp_path / "depth.map"  # the content decides
    save_depth(path, form)
    file = read_map_file(path, "depth")
    np.testing.assert_array_equal(file.values, DEPTH)
    assert file.unit == ""


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pfm", ".tif", ".exr"])
def test_read_map_file_returns_the_same_normals_from_every_format(tmp_path, suffix):
    path = tmp_path / f"normal{suffix}"
    if suffix == ".npy":
        np.save(path, NORMAL)
    elif suffix == ".npz":
        np.savez(path, depth=DEPTH, normals=NORMAL)
    elif suffix == ".pfm":
        write_pfm(path, NORMAL, "<f4")
    elif suffix == ".tif":
        cv2.imwrite(str(path), NORMAL[..., ::-1])
    else:
        x, y, z = (NORMAL[..., i] for i in range(3))
        write_exr(path, {"Z": DEPTH, "normal.X": x, "normal.Y": y, "normal.Z": z})
        np.testing.assert_array_equal(read_map_file(path, "depth").values, DEPTH)
    np.testing.assert_array_equal(read_map_file(path, "normal").values, NORMAL)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_read_map_file_keeps_whole_numbers_of_a_png(tmp_path, dtype):
    depth = RNG.integers(0, np.iinfo(dtype).max, (9, 8), dtype)
    colours = RNG.integers(0, np.iinfo(dtype).max, (9, 8, 3), dtype)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    cv2.imwrite(str(tmp_path / "normal.png"), colours[..., ::-1])
    cv2.imwrite(str(tmp_path / "grey.png"), np.stack([depth] * 3, -1))
    for name in ("depth.png", "grey.png"):
        values = read_map_file(tmp_path / name, "depth").values
        assert values.dtype == dtype
        np.testing.assert_array_equal(values, depth)
    values = read_map_file(tmp_path / "normal.png", "normal").values
    assert values.dtype == dtype
    np.testing.assert_array_equal(values, colours)


def test_read_map_file_obeys_the_text_of_a_png(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("urgt_jax", '{"unit": "metres", "scale": 0.5, "offset": 2}')
    Image.fromarray(np.full((4, 4), 6, np.uint16)).save(tmp_path / "d.png", pnginfo=info)
    file = read_map_file(tmp_path / "d.png", "depth")
    assert file.unit == "metres"
    assert (file.values == 5).all()


def test_read_mask_is_true_where_the_image_is_not_black(tmp_path):
    mask = RNG.random((6, 9)) > 0.5
    Image.fromarray(mask).save(tmp_path / "bits.png")
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "bytes.png")
    np.save(tmp_path / "mask.npy", mask)
    for name in ("bits.png", "bytes.png", "mask.npy"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), mask)


def test_read_mask_rejects_colours(tmp_path):
    Image.fromarray(RNG.integers(0, 256, (9, 9, 3), np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match="mask.png is a colour image, not a mask. Save it in grey"):
        read_mask(tmp_path / "mask.png")


def spoil(path: Path, kind: str) -> None:
    """Write something that is no map of depth."""
    if kind == "empty":
        path.touch()
    elif kind == "bits":
        Image.fromarray(RNG.random((9, 9)) > 0.5).save(path, "PNG")
    elif kind == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    elif kind == "jpeg":
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(path, "JPEG")
    elif kind == "colours":
        Image.fromarray(RNG.integers(0, 256, (9, 9, 3), np.uint8)).save(path, "PNG")
    elif kind == "truncated png":
        whole = path.with_suffix(".whole")
        Image.fromarray(RNG.integers(0, 9999, (90, 90), np.uint16)).save(whole, "PNG")
        path.write_bytes(whole.read_bytes()[:2000])
    elif kind == "truncated colours":
        whole = path.with_suffix(".png")
        cv2.imwrite(str(whole), RNG.integers(0, 9999, (90, 90, 3), np.uint16))
        path.write_bytes(whole.read_bytes()[:2000])
    elif kind == "two arrays":
        with path.open("wb") as file:
            np.savez(file, a=DEPTH, b=DEPTH)
    elif kind == "a stack":
        with path.open("wb") as file:
            np.save(file, np.stack([DEPTH] * 5))
    elif kind == "complex":
        with path.open("wb") as file:
            np.save(file, DEPTH.astype(np.complex64))
    elif kind == "one row":
        with path.open("wb") as file:
            np.save(file, DEPTH[:1])
    elif kind == "exr":
        path.write_bytes(b"\x76\x2f\x31\x01\x02\0\0\0" + bytes(40))
    elif kind == "exr without depth":
        write_exr(path, {"X": DEPTH, "Y": DEPTH, "Z": DEPTH})


@pytest.mark.parametrize(
    "kind,message",
    [
        ("missing", "no coarse depth map at .*depth.map"),
        ("empty", "depth.map is empty"),
        ("bits", "depth.map holds only true and false. Pass a mask with --mask"),
        (
            "pointer",
            "depth.map is a pointer of Git LFS, not the coarse depth map. Run git lfs pull",
        ),
        ("jpeg", "depth.map is not a coarse depth map that can be read. Save it as npy, npz, exr"),
        ("colours", "depth.map is a colour image, not a depth map"),
        ("truncated png", "depth.map cannot be read. Save or download the coarse depth map again"),
        ("truncated colours", "depth.map cannot be read. Save or download the coarse depth map"),
        ("two arrays", "depth.map holds the arrays a, b. Name one of them depth"),
        ("a stack", r"depth.map has shape \(5, 12, 17\). A coarse depth map has shape \[H, W\]"),
        ("complex", "depth.map has dtype complex64"),
        ("one row", "it needs at least 2 pixels a side"),
        ("exr", "depth.map cannot be read. Save or download the EXR map again"),
        ("exr without depth", "has the channels X, Y, Z. Its depth must be Z"),
    ],
)
def test_read_map_file_names_what_is_wrong(tmp_path, kind, message):
    if kind.startswith("exr"):
        pytest.importorskip("OpenEXR")
    path = tmp_path / "depth.map"
    spoil(path, kind)
    with pytest.raises(UserError, match=message) as caught:
        read_map_file(path, "depth")
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[" * 99999,
        '{"scale": "x"}',
        '{"scale": 1e999}',
        '{"scale": {}}',
        '{"scale": 1, "offset": null}',
        '{"unit": 5}',
        '{"axes": ["x"]}',
        "3",
    ],
)
def test_png_with_a_damaged_text_is_a_user_error(tmp_path, text):
    info = PngImagePlugin.PngInfo()
    info.add_text("urgt_jax", text)
    path = tmp_path / "map.png"
    Image.fromarray((DEPTH * 1000).astype(np.uint16)).save(path, pnginfo=info)
    with pytest.raises(UserError, match="map.png: its text 'urgt_jax' is damaged"):
        read_map_file(path, "depth")


def test_png_whose_text_has_a_scale_alone_is_read(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("urgt_jax", '{"scale": 0.001, "unit": "metres", "note": 3}')
    path = tmp_path / "map.png"
    Image.fromarray((DEPTH * 1000).round().astype(np.uint16)).save(path, pnginfo=info)
    values, unit, _ = read_map_file(path, "depth")
    np.testing.assert_allclose(values, DEPTH, atol=6e-4)
    assert unit == "metres"


@pytest.mark.parametrize("form", ["npz", "npz text", "png", "tif", "exr"])
def test_small_file_that_would_unpack_to_an_enormous_map_is_rejected(tmp_path, form, monkeypatch):
    monkeypatch.setattr(files, "ALWAYS_READ", 1e5)
    path = tmp_path / "map"
    zeros = np.zeros((300, 400), np.float32)
    if form == "npz":
        np.savez_compressed(path.with_suffix(".npz"), zeros)
        path.with_suffix(".npz").rename(path)
    elif form == "npz text":
        np.savez_compressed(path.with_suffix(".npz"), depth=DEPTH, unit=np.array("x" * 99999))
        path.with_suffix(".npz").rename(path)
    elif form == "png":
        Image.fromarray(zeros.astype(np.uint16)).save(path, "PNG")
    elif form == "tif":  # three channels of floats, which Pillow does not read
        deflate = (cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_ADOBE_DEFLATE)
        path.write_bytes(cv2.imencode(".tif", np.stack([zeros] * 3, -1), deflate)[1].tobytes())
    else:
        write_exr(path, {"Z": zeros})
    with pytest.raises(UserError, match="map would unpack to .* GB. Save the map as .npy"):
        read_map_file(path, "depth")
    monkeypatch.setattr(files, "ALWAYS_READ", 2e6)
    if form != "npz text":
        assert read_map_file(path, "depth").values.shape == zeros.shape
