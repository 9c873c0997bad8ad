"""Finding images and coarse maps, and writing refined maps."""

import pytest
from etils.epath import Path

from urgt_jax.errors import NegativeResult, UserError, require
from urgt_jax.inference.image_files import (
    Failures,
    ImageFile,
    find_coarse_map,
    find_images,
    naming_image,
)


def test_find_images_lists_folders_in_order_and_skips_what_is_drawn(tmp_path):
    names = ("b.png", "a.JPG", "a_depth.png", "a_coarse_depth.png", "kitchen_depth.png", "c.txt")
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "a_depth.npy").touch()
    (tmp_path / "._a.JPG").touch()
    found = [image.path.name for image in find_images([tmp_path])]
    assert found == ["a.JPG", "b.png", "kitchen_depth.png"]


def test_find_images_skips_pictures_of_results_next_to_their_image(tmp_path):
    for name in ("a.JPG", "a_depth.png", "a_normal.png", "b.png", "b_sky.png", "c_normal.png"):
        (tmp_path / name).touch()
    names = [image.path.name for image in find_images([tmp_path])]
    assert names == ["a.JPG", "b.png", "c_normal.png"]


def test_find_images_searches_folders_on_request_but_not_its_own_results(tmp_path):
    for name in ("a.png", "deep/a.png", "deep/er/b.heic", "out/c.png", ".hidden/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images([tmp_path]) == [ImageFile(tmp_path / "a.png")]
    images = find_images([tmp_path], recursive=True, skip=tmp_path / "out")
    assert images == [
        ImageFile(tmp_path / "a.png"),
        ImageFile(tmp_path / "deep/a.png", "deep/"),
        ImageFile(tmp_path / "deep/er/b.heic", "deep/er/"),
    ]


def test_failures_are_counted_and_listed_but_one_image_alone_raises(tmp_path, capsys):
    out = tmp_path / "new"
    failures = Failures(out, 3)
    for name in ("a.png", "b.png", "c.png"):
        with failures.collecting(Path(name)):
            require(name == "b.png", "too dark")
    with pytest.raises(NegativeResult, match=r"2 of 3 images were not refined \(list: .*/new/not_"):
        failures.report()
    assert (out / "not_refined.txt").read_text() == "a.png: too dark\nc.png: too dark\n"
    assert capsys.readouterr().err == "error: a.png: too dark\nerror: c.png: too dark\n"
    Failures(out, 3).report()
    assert not (out / "not_refined.txt").exists()
    with pytest.raises(UserError, match="^too dark$"):
        with Failures(out, 1).collecting(Path("a.png")):
            raise UserError("too dark")


def test_any_error_of_one_image_lets_the_others_go_on(tmp_path, capsys):
    failures = Failures(tmp_path, 2)
    with failures.collecting(Path("a.png")):
        raise MemoryError("RESOURCE_EXHAUSTED:\n1 GB")
    with pytest.raises(NegativeResult, match="1 of 2 images"):
        failures.report()
    assert capsys.readouterr().err == "error: a.png: MemoryError: RESOURCE_EXHAUSTED: 1 GB\n"
    with pytest.raises(MemoryError):
        with Failures(tmp_path, 1).collecting(Path("a.png")):
            raise MemoryError


def test_failures_are_listed_without_escape_sequences(tmp_path, capsys):
    failures = Failures(tmp_path, 2)
    path = Path("\x1b[2Ja.png")
    with failures.collecting(path), naming_image(path):
        raise UserError("too dark")
    with pytest.raises(NegativeResult):
        failures.report()
    assert (tmp_path / "not_refined.txt").read_text() == "?[2Ja.png: too dark\n"
    assert capsys.readouterr().err == "error: ?[2Ja.png: too dark\n"


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


def test_find_coarse_map_takes_any_format_but_only_one_file(tmp_path):
    image = tmp_path / "photo.jpg"
    assert find_coarse_map(image, "depth") is None
    (tmp_path / "photo_coarse_depth.png").touch()
    assert find_coarse_map(image, "depth") == tmp_path / "photo_coarse_depth.png"
    (tmp_path / "photo_coarse_depth.npy").touch()  # of which the .png is the picture
    assert find_coarse_map(image, "depth") == tmp_path / "photo_coarse_depth.npy"
    (tmp_path / "photo_coarse_depth.exr").touch()
    message = r"photo.jpg: there are several .* \(photo_coarse_depth.npy, photo_coarse_depth.exr\)"
    with pytest.raises(UserError, match=message):
        find_coarse_map(image, "depth")


def test_naming_image_puts_the_path_before_an_error():
    with pytest.raises(UserError, match="^a/photo.png: overlap 1.0 is out of range$"):
        with naming_image(Path("a/photo.png")):
            raise UserError("overlap 1.0 is out of range")
