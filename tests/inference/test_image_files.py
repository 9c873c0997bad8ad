"""Finding images and coarse maps, and writing refined maps."""

import numpy as np
import pytest
from etils.epath import Path
from PIL import Image

from urgt_jax.errors import UserError
from urgt_jax.inference.image_files import (
    check_finite,
    find_coarse_map,
    find_images,
    naming_image,
    save_maps,
)
from urgt_jax.inference.refiner import Result


def strips(depth, normal, rows_at_once=4):
    """Maps as a refiner yields them."""
    for first in range(0, len(depth), rows_at_once):
        rows = slice(first, min(first + rows_at_once, len(depth)))
        yield rows, Result(depth[rows], normal[rows], None, None)


def maps(size=(9, 7)):
    """Depth that rises with the row, and normals towards the camera."""
    depth = np.linspace(0.5, 2, size[0], dtype=np.float32)[:, None].repeat(size[1], 1)
    normal = np.zeros((*size, 3), np.float32)
    normal[..., 2] = -1
    return depth, normal


def test_find_images_lists_folders_in_order_and_skips_what_is_drawn(tmp_path):
    for name in ("b.png", "a.JPG", "a_depth.png", "kitchen_depth.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "a_depth.npy").touch()
    found = [path.name for path in find_images([tmp_path])]
    assert found == ["a.JPG", "b.png", "kitchen_depth.png"]


def test_find_images_rejects_two_images_of_one_name(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match="two images are named a: refine them into different"):
        find_images([tmp_path])


def test_find_images_rejects_a_folder_without_images_and_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"contains no image \(.png, .jpg"):
        find_images([tmp_path])
    with pytest.raises(UserError, match="no image at .*x.png"):
        find_images([tmp_path / "x.png"])


def test_find_coarse_map_says_where_it_looked_and_what_to_do(tmp_path):
    (tmp_path / "photo_coarse_depth.npy").touch()
    image = tmp_path / "photo.jpg"
    assert find_coarse_map(image, "depth") == tmp_path / "photo_coarse_depth.npy"
    message = (
        r"photo.jpg: no coarse normal map found \(looked for photo_coarse_normal.npy\). Pass "
        "--coarse-normal FILE, or let a network make it with --normal-weights FILE."
    )
    with pytest.raises(UserError, match=message):
        find_coarse_map(image, "normal")


def test_save_maps_writes_arrays_and_pictures_row_by_row(tmp_path):
    depth, normal = maps()
    save_maps(strips(depth, normal), (9, 7), (9, 7), tmp_path / "photo", metric=False)
    np.testing.assert_array_equal(np.load(tmp_path / "photo_depth.npy"), depth)
    np.testing.assert_array_equal(np.load(tmp_path / "photo_normal.npy"), normal)
    assert len(list(tmp_path.iterdir())) == 4
    towards_camera = np.asarray(Image.open(tmp_path / "photo_normal.png"))
    assert (towards_camera == [128, 128, 255]).all()


@pytest.mark.parametrize("metric", [False, True])
def test_save_maps_draws_what_is_near_brightly(tmp_path, metric):
    """Large values are near in a map of disparity, and far in a map of metres."""
    depth, normal = maps()
    save_maps(strips(depth, normal), (9, 7), (9, 7), tmp_path / "photo", metric)
    picture = np.asarray(Image.open(tmp_path / "photo_depth.png"), int).sum(-1)
    top, bottom = picture[0, 0], picture[-1, 0]  # values rise from top to bottom
    assert bottom < top if metric else bottom > top


def test_save_maps_leaves_no_file_when_refining_fails_half_way(tmp_path):
    def failing():
        yield slice(0, 4), Result(np.ones((4, 9)), np.ones((4, 9, 3)), None, None)
        raise UserError("the weights are damaged")

    with pytest.raises(UserError, match="damaged"):
        save_maps(failing(), (8, 9), (8, 9), tmp_path / "photo", metric=False)
    assert not list(tmp_path.iterdir())


def test_check_finite_names_the_weights_of_a_result_with_nan():
    depth, normal = maps()
    assert len(list(check_finite(strips(depth, normal), "w"))) == 3
    normal[7, 3] = np.nan
    with pytest.raises(UserError, match="contain NaN: the weights runs/w are damaged"):
        list(check_finite(strips(depth, normal), "runs/w"))


def test_naming_image_puts_the_path_before_an_error():
    with pytest.raises(UserError, match="^a/photo.png: overlap 1.0 is out of range$"):
        with naming_image(Path("a/photo.png")):
            raise UserError("overlap 1.0 is out of range")
