"""Refined maps in files, opened again by other programs."""

import json

import cv2
import numpy as np
import pytest
from etils.epath import Path
from PIL import Image

from urgt_jax.data.priors.given import DISPARITY, METRES
from urgt_jax.errors import UserError
from urgt_jax.images.map_files import read_map_file
from urgt_jax.inference import outputs
from urgt_jax.inference.coarse_maps import CoarseMaps
from urgt_jax.inference.outputs import FORMATS, Target, result_names, save_coarse, save_result
from urgt_jax.inference.refiner import Result

HEIGHT, WIDTH = 9, 12
RNG = np.random.default_rng(0)
# Values rise from top to bottom.
DEPTH = np.linspace(1, 1.3, HEIGHT, dtype=np.float32)[:, None].repeat(WIDTH, 1)
NORMAL = np.broadcast_to(np.float32([0.48, 0.6, -0.64]), (HEIGHT, WIDTH, 3))
CONFIDENCE = RNG.uniform(1, 3, (HEIGHT, WIDTH)).astype(np.float32)
IMAGE = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
KNOWN = RNG.random((HEIGHT, WIDTH)) > 0.3


def strips(confidence=CONFIDENCE, rows_at_once=4):
    """Maps as a refiner yields them."""
    for first in range(0, HEIGHT, rows_at_once):
        rows = slice(first, min(first + rows_at_once, HEIGHT))
        part = None if confidence is None else confidence[rows]
        yield rows, Result(DEPTH[rows], NORMAL[rows], part, part)


def target(
    folder: Path, *formats: str, unit=METRES, known=None, name="photo", axes="opencv", sky=None
) -> Target:
    """What to save about the image, whose coarse maps are the refined ones."""
    coarse = CoarseMaps(DEPTH, NORMAL, known, unit, 1.0, [], sky)
    return Target(folder / name, formats, IMAGE, coarse, "disparity", 10.0, axes)


def names(folder: Path) -> set[str]:
    return {path.name.removeprefix("photo") for path in folder.iterdir()}


def test_save_result_writes_arrays_and_pictures_by_default(tmp_path):
    save_result(strips(), target(tmp_path, "npy", "png"))
    np.testing.assert_array_equal(np.load(tmp_path / "photo_depth.npy"), DEPTH)
    np.testing.assert_array_equal(np.load(tmp_path / "photo_normal.npy"), NORMAL)
    assert names(tmp_path) == {"_depth.npy", "_depth.png", "_normal.npy", "_normal.png"}
    colour = np.asarray(Image.open(tmp_path / "photo_normal.png"))[0, 0]
    np.testing.assert_allclose(colour, [188.7, 51, 209.1], atol=1)  # right, up, to the camera


@pytest.mark.parametrize("unit", [METRES, DISPARITY])
def test_save_result_draws_what_is_near_brightly(tmp_path, unit):
    """Large values are near in a map of disparity, and far in a map of metres."""
    save_result(strips(), target(tmp_path, "png", unit=unit))
    picture = np.asarray(Image.open(tmp_path / "photo_depth.png"), int).sum(-1)
    top, bottom = picture[0, 0], picture[-1, 0]
    assert bottom < top if unit == METRES else bottom > top
    assert names(tmp_path) == {"_depth.png", "_normal.png"}


def test_save_result_leaves_no_file_when_refining_fails_half_way(tmp_path):
    def failing():
        yield slice(0, 4), Result(DEPTH[:4], NORMAL[:4], None, None)
        raise UserError("the weights are damaged")

    with pytest.raises(UserError, match="damaged"):
        save_result(failing(), target(tmp_path, *FORMATS))
    assert not list(tmp_path.iterdir())


def test_save_result_leaves_nothing_behind_if_it_is_killed(tmp_path):
    folders = []

    def watched():
        for strip in strips():
            yield strip
            folders.append(list(tmp_path.iterdir()))  # what a kill would leave

    save_result(watched(), target(tmp_path, "png"))
    assert folders and not any(folders)


def test_16_bit_png_has_its_scale_in_a_json_file_and_reads_back(tmp_path):
    save_result(strips(), target(tmp_path, "png16"))
    stored = np.asarray(Image.open(tmp_path / "photo_depth16.png"))
    assert stored.dtype == np.uint16
    meaning = json.loads((tmp_path / "photo_depth16.json").read_text())
    depth = stored * meaning["scale"] + meaning["offset"]
    np.testing.assert_allclose(depth, DEPTH, atol=2e-5)
    assert meaning["unit"] == "metres" and meaning["meaning"] == "value * scale + offset"
    colours = cv2.imread(str(tmp_path / "photo_normal16.png"), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert colours.dtype == np.uint16
    np.testing.assert_allclose(colours / 32767.5 - 1, NORMAL, atol=2e-5)
    # As a coarse map, the file says itself what it holds.
    again = read_map_file(tmp_path / "photo_depth16.png", "depth")
    assert again.unit == "metres"
    np.testing.assert_allclose(again.values, DEPTH, atol=2e-5)
    again = read_map_file(tmp_path / "photo_normal16.png", "normal")
    assert again.axes == "RDF"
    np.testing.assert_allclose(again.values, NORMAL, atol=2e-5)


@pytest.mark.parametrize("form", ["npz", "exr"])
def test_one_file_with_everything_reads_back(tmp_path, form):
    if form == "exr":
        pytest.importorskip("OpenEXR")
    save_result(strips(), target(tmp_path, form, known=KNOWN, axes="opengl"))
    assert names(tmp_path) == {f".{form}", "_mask.png"}
    path = tmp_path / f"photo.{form}"
    depth = read_map_file(path, "depth")
    normal = read_map_file(path, "normal")
    assert depth.unit == "metres" and normal.axes == "RUB"
    np.testing.assert_array_equal(depth.values, DEPTH)
    np.testing.assert_array_equal(normal.values, NORMAL * np.float32([1, -1, -1]))


def test_npz_holds_confidences_mask_and_camera(tmp_path):
    save_result(strips(), target(tmp_path, "npz", known=KNOWN))
    with np.load(tmp_path / "photo.npz") as archive:
        np.testing.assert_array_equal(archive["depth_confidence"], CONFIDENCE)
        np.testing.assert_array_equal(archive["mask"], KNOWN)
        assert archive["intrinsics"].tolist() == [[10, 0, 6], [0, 10, 4.5], [0, 0, 1]]


def test_exr_has_named_channels(tmp_path):
    openexr = pytest.importorskip("OpenEXR")
    save_result(strips(None), target(tmp_path, "exr", unit=DISPARITY))
    with openexr.File(str(tmp_path / "photo.exr"), separate_channels=True) as file:
        assert set(file.channels()) == {"disparity", "normal.X", "normal.Y", "normal.Z"}
        np.testing.assert_array_equal(file.channels()["disparity"].pixels, DEPTH)


def test_confidence_mask_and_camera(tmp_path):
    save_result(strips(), target(tmp_path, "confidence", "mask", "camera"))
    assert names(tmp_path) == {
        "_depth_confidence.npy",
        "_normal_confidence.npy",
        "_mask.png",
        "_camera.json",
    }
    np.testing.assert_array_equal(np.load(tmp_path / "photo_depth_confidence.npy"), CONFIDENCE)
    assert np.asarray(Image.open(tmp_path / "photo_mask.png")).all()
    camera = json.loads((tmp_path / "photo_camera.json").read_text())
    assert (camera["fx"], camera["cx"], camera["cy"]) == (10, 6, 4.5)


def test_compare_page_stands_alone(tmp_path):
    save_result(strips(), target(tmp_path, "compare", name="a <b>"))
    [path] = tmp_path.iterdir()
    page = path.read_text()
    assert "<title>a &lt;b&gt;: coarse and refined</title>" in page
    assert page.count("data:image/jpeg;base64,") == 5
    assert "http:" not in page and "https:" not in page and "@@" not in page


def test_save_result_writes_geometry_at_the_depth_of_the_maps(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    save_result(strips(), target(tmp_path, "glb", "ply"))
    cloud = trimesh.load(str(tmp_path / "photo.ply"))
    np.testing.assert_allclose(cloud.bounds[:, 2], [1, 1.3], rtol=1e-6)
    mesh = trimesh.load(str(tmp_path / "photo.glb"), force="mesh")
    np.testing.assert_allclose(mesh.bounds[:, 2], [-1.3, -1], rtol=1e-6)


@pytest.mark.parametrize("form", FORMATS)
def test_result_names_are_those_of_the_files(tmp_path, form):
    if form == "exr":
        pytest.importorskip("OpenEXR")
    sky = np.zeros((HEIGHT, WIDTH), bool)
    save_result(strips(), target(tmp_path, form, known=KNOWN, sky=sky))
    save_coarse(DEPTH, NORMAL, tmp_path / "photo_coarse", metric=True)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == result_names("photo", (form,), with_coarse=True)


def test_save_coarse_writes_maps_of_any_size(tmp_path):
    save_coarse(DEPTH[:4], NORMAL, tmp_path / "x_coarse", metric=True)
    np.testing.assert_array_equal(np.load(tmp_path / "x_coarse_depth.npy"), DEPTH[:4])
    assert Image.open(tmp_path / "x_coarse_normal.png").size == (WIDTH, HEIGHT)


SKY = np.arange(HEIGHT)[:, None].repeat(WIDTH, 1) < 3


def sky_strips():
    """Maps with an infinitely far sky."""
    depth = np.where(SKY, np.float32(np.inf), DEPTH)
    yield slice(0, HEIGHT), Result(depth, np.where(SKY[..., None], 0, NORMAL), None, None)


def test_sky_is_written_as_a_mask_and_reads_back(tmp_path):
    save_result(sky_strips(), target(tmp_path, "npz", "png16", "png", sky=SKY))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "photo_sky.png")), SKY)
    with np.load(tmp_path / "photo.npz") as archive:
        np.testing.assert_array_equal(archive["sky"], SKY)
    again = read_map_file(tmp_path / "photo_depth16.png", "depth").values
    np.testing.assert_array_equal(np.isposinf(again), SKY)
    np.testing.assert_allclose(again[~SKY], DEPTH[~SKY], atol=1e-5)
    colours = np.asarray(Image.open(tmp_path / "photo_depth.png"))
    assert (colours[SKY] == colours[0, 0]).all() and colours[0, 0].sum() < colours[-1, 0].sum()


@pytest.mark.parametrize("unit", [METRES, DISPARITY])
def test_sky_is_no_part_of_geometry(tmp_path, unit):
    trimesh = pytest.importorskip("trimesh")
    parts = sky_strips() if unit == METRES else strips()
    save_result(parts, target(tmp_path, "glb", "ply", sky=SKY, unit=unit))
    whole = (HEIGHT - 3) * WIDTH
    assert len(trimesh.load(str(tmp_path / "photo.glb"), force="mesh").vertices) == whole
    cloud = trimesh.load(str(tmp_path / "photo.ply"))
    assert np.isfinite(cloud.vertices).all() and len(cloud.vertices) == whole - WIDTH


def pictures_of_the_page(monkeypatch, tmp_path, coarse: CoarseMaps, *, weights_unit: str) -> dict:
    """What compare.html shows of a refined map that is DEPTH."""
    pages = []
    monkeypatch.setattr(outputs, "write_compare_page", lambda *page: pages.append(page))
    saved = Target(tmp_path / "photo", ("compare",), IMAGE, coarse, weights_unit, 10.0)
    save_result(strips(), saved)
    return pages[0][2]


@pytest.mark.parametrize(
    ("weights_unit", "coarse_depth", "scale", "unit"),
    [
        ("disparity", DEPTH, 1.0, DISPARITY),
        ("disparity", DEPTH * 5, 5.0, DISPARITY),  # official mode divides by the maximum
        ("disparity", 1 / DEPTH, 1.0, METRES),
        ("depth", DEPTH, 1.0, METRES),
    ],
)
def test_compare_page_draws_both_depths_with_the_same_colours(
    monkeypatch, tmp_path, weights_unit, coarse_depth, scale, unit
):
    """Where coarse and refined depth agree, so do the colours, whatever a map holds elsewhere."""
    coarse_depth = coarse_depth.astype(np.float32)
    coarse_depth[-3:] *= np.float32(1.5)
    coarse = CoarseMaps(coarse_depth, NORMAL, None, unit, scale, [])
    pictures = pictures_of_the_page(monkeypatch, tmp_path, coarse, weights_unit=weights_unit)
    difference = np.abs(pictures["depth"][:-3].astype(int) - pictures["coarse_depth"][:-3])
    assert difference.max() <= 1
    assert np.abs(pictures["depth"][-1].astype(int) - pictures["coarse_depth"][-1]).max() > 20
