"""The layers of the report: their pixels, and the files on disk."""

import pathlib

import numpy as np
import pytest
from helpers.report_layers import (
    CANDIDATES,
    SHAPE,
    layers_with_known_errors,
    scores_of_both,
)
from PIL import Image

from urgt_jax.errors import UserError
from urgt_jax.evaluation import report
from urgt_jax.evaluation.report.layers import UNKNOWN, image_folder
from urgt_jax.images.colour import RAMP

FAR = RAMP[0]
NEAR = RAMP[-1]


def read_layer(folder, name, file):
    return np.asarray(Image.open(image_folder(folder, name) / file).convert("RGB"))


def test_layers_have_the_size_and_pixels_of_the_image(tmp_path):
    layers = layers_with_known_errors()
    report.write_layers(tmp_path, "one", layers)
    files = {path.name for path in image_folder(tmp_path, "one").glob("*.png")}
    expected = {"image.png"}
    for kind in ("depth", "normal"):
        expected |= {f"{kind}_{name}.png" for name in (*CANDIDATES, "truth")}
        expected |= {f"{kind}_error_{name}.png" for name in CANDIDATES}
    assert files == expected
    for file in files:
        assert read_layer(tmp_path, "one", file).shape == (*SHAPE, 3)
    np.testing.assert_array_equal(read_layer(tmp_path, "one", "image.png"), layers.image)
    np.testing.assert_array_equal(
        read_layer(tmp_path, "one", "depth_refined.png"),
        read_layer(tmp_path, "one", "depth_truth.png"),
    )


@pytest.mark.parametrize("kind", ["depth", "normal"])
def test_error_layers_have_the_middle_colour_at_half_the_limit_and_the_darkest_at_none(
    tmp_path, kind
):
    report.write_layers(tmp_path, "one", layers_with_known_errors())
    coarse = read_layer(tmp_path, "one", f"{kind}_error_coarse.png")
    refined = read_layer(tmp_path, "one", f"{kind}_error_refined.png")
    assert np.abs(coarse - RAMP[3]).max() <= 2
    np.testing.assert_array_equal(refined, np.broadcast_to(FAR, refined.shape))


@pytest.mark.filterwarnings("error")
def test_depth_layers_are_dark_far_away_and_grey_where_unknown(tmp_path):
    depth = np.full(SHAPE, 0.5, np.float32)
    depth[:, :20] = 0.1
    depth[:, 40:] = 1
    holes = depth.copy()
    holes[0, :3] = np.nan, np.inf, 0
    valid = np.ones(SHAPE, bool)
    valid[5] = False
    layers = layers_with_known_errors()
    layers = layers._replace(depth={"coarse": holes, "truth": depth}, valid=valid)
    report.write_layers(tmp_path, "one", layers)
    coarse = read_layer(tmp_path, "one", "depth_coarse.png")
    np.testing.assert_array_equal(coarse[0, :3], [UNKNOWN, NEAR, UNKNOWN])
    np.testing.assert_array_equal(coarse[9, [0, -1]], [FAR, NEAR])
    error = read_layer(tmp_path, "one", "depth_error_coarse.png")
    np.testing.assert_array_equal(error[0, :4], [UNKNOWN, NEAR, NEAR, FAR])
    np.testing.assert_array_equal(error[5], np.broadcast_to(UNKNOWN, error[5].shape))


NAMES = ["<b>&\"'.png", "../../up", "a" * 300, "con", "", "snow ☃", "\udcff", ".hidden", "a\nb\0"]


@pytest.mark.parametrize("name", NAMES)
def test_image_folder_is_inside_the_report_for_any_name(tmp_path, name):
    report.write_layers(tmp_path, name, layers_with_known_errors())
    (inside,) = (tmp_path / "report").iterdir()
    assert inside == image_folder(tmp_path, name)
    assert (inside / "image.png").is_file()


def test_image_folder_differs_for_names_that_look_alike(tmp_path):
    names = ["a b", "a_b", "a?b", "A_b"]
    assert len({image_folder(tmp_path, name).name.lower() for name in names}) == len(names)


def test_remove_layers_leaves_the_thumbnail(tmp_path):
    report.write_layers(tmp_path, "one", layers_with_known_errors())
    assert report.is_written(tmp_path, "one", with_page=True)
    report.remove_layers(tmp_path, "one")
    report.remove_layers(tmp_path, "never written")
    assert [path.name for path in image_folder(tmp_path, "one").iterdir()] == ["thumbnail.jpg"]
    assert report.is_written(tmp_path, "one", with_page=False)
    assert not report.is_written(tmp_path, "one", with_page=True)


def test_clear_removes_the_report_and_no_file_of_the_user(tmp_path):
    scored = [("one", scores_of_both(0.1, 0.2)), ("two", scores_of_both(0.1, 0.1))]
    for name, _ in scored:
        report.write_layers(tmp_path, name, layers_with_known_errors())
    report.write_pages(tmp_path, dict(scored[0][1]), scored)
    user_files = [
        tmp_path / "notes.html",
        tmp_path / "report" / "mine.txt",
        image_folder(tmp_path, "two") / "notes.txt",
    ]
    for path in user_files:
        path.write_text("mine")
    report.clear(tmp_path)
    left = {path for path in pathlib.Path(tmp_path).rglob("*") if path.is_file()} - set(user_files)
    assert {path.name for path in left} <= {"page.css", "table.js", "slider.js", "before_after.js"}
    assert all(path.read_text() == "mine" for path in user_files)
    assert not image_folder(tmp_path, "one").exists()


def test_clear_keeps_thumbnails_of_listed_images_and_layers_of_paged_ones(tmp_path):
    for name in ("listed", "paged", "old"):
        report.write_layers(tmp_path, name, layers_with_known_errors())
    report.clear(tmp_path, listed=["listed", "paged"], paged=["paged"])
    assert report.is_written(tmp_path, "paged", with_page=True)
    assert report.is_written(tmp_path, "listed", with_page=False)
    assert not report.is_written(tmp_path, "listed", with_page=True)
    assert not image_folder(tmp_path, "old").exists()


def test_write_layers_rejects_a_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "report").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        report.write_layers(tmp_path, "one", layers_with_known_errors())


def test_sheet_has_a_row_of_depth_and_one_of_normals_and_white_beyond():
    large = layers_with_known_errors((10, 20))
    sheet = report.sheet([large, layers_with_known_errors((6, 8), normals=False)])
    assert sheet.shape == (3 * 4 + 10 + 10 + 6, 6 * 24, 3)
    np.testing.assert_array_equal(sheet[:10, :20], sheet[14:24, :20])
    np.testing.assert_array_equal(sheet[:10, :20], large.image)
    assert (sheet[28:, 6 * 12 :] == 255).all()
    assert (sheet[10:14] == 255).all()
