"""The function behind the page of `urgt app`, without gradio and without a browser."""

from dataclasses import replace

import numpy as np
import pytest
from etils.epath import Path
from helpers.random_refiner import random_params

from urgt_jax.images.files import read_image, write_image
from urgt_jax.inference.app_request import Request, answer_request
from urgt_jax.inference.refine_file import Models
from urgt_jax.inference.refiner import Refiner

HEIGHT, WIDTH = 40, 60
RNG = np.random.default_rng(0)
DEPTH = np.linspace(0.2, 1, HEIGHT, dtype=np.float32)[:, None].repeat(WIDTH, 1)
NORMAL = np.broadcast_to(np.float32([0, -0.8, -0.6]), (HEIGHT, WIDTH, 3))


@pytest.fixture(scope="module")
def models(micro):
    """A refiner with random weights, and no networks for coarse maps."""
    return Models(Refiner(random_params(micro.model), micro), "random.safetensors")


@pytest.fixture
def request_(tmp_path):
    """What a user fills in: each file is in a folder of its own, as gradio stores it."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    image = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    write_image(Path(tmp_path / "a" / "photo.png"), image)
    np.save(tmp_path / "b" / "map.npy", DEPTH)
    np.save(tmp_path / "c" / "normal.npy", NORMAL)
    return Request(
        str(tmp_path / "a/photo.png"), str(tmp_path / "b/map.npy"), str(tmp_path / "c/normal.npy")
    )


def test_an_answer_has_the_files_of_the_refiner_and_the_slider(models, request_, tmp_path):
    steps = []
    answer = answer_request(models, request_, tmp_path / "out", lambda *step: steps.append(step))
    names = [path.name for path in answer.files]
    assert names == ["photo_depth.npy", "photo_depth.png", "photo_normal.npy", "photo_normal.png"]
    assert "<title>photo: coarse and refined</title>" in answer.page
    # The folders of the server do not show.
    grid = models.refiner.config.eval.grid
    assert answer.lines == [
        f"photo.png: 60 x 40 pixels, {grid[0] * grid[1]} patches",
        "  coarse depth: 40 x 60 pixels, disparity",
    ]
    result = models.refiner(read_image(Path(request_.image)), DEPTH, NORMAL)
    np.testing.assert_array_equal(np.load(answer.files[0]), result.depth)
    assert steps[-1] == (100, 100)


def test_an_answer_has_what_was_chosen_and_replaces_the_one_before(models, request_, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "other_depth.npy").write_text("of another image")
    chosen = replace(
        request_,
        coarse_normal=None,
        depth_unit="metres",
        fov=60.0,
        formats=["compare", "camera"],
    )
    answer = answer_request(models, chosen, tmp_path / "out")
    assert [path.name for path in answer.files] == ["photo_camera.json", "photo_compare.html"]
    assert answer.page == answer.files[1].read_text()
    assert "  normals from depth, with a field of view of 60.0 degrees" in answer.lines


def test_every_error_is_one_line_without_folders(models, request_, tmp_path, capsys):
    text = tmp_path / "a" / "text.png"
    text.write_text("no image")
    np.save(tmp_path / "b" / "wide.npy", DEPTH[:10])
    wrong = {
        "error: there is no image. Drop one into the first field": {"image": None},
        "error: text.png cannot be read. Save or download": {"image": str(text)},
        "error: photo.png: no coarse depth map. Add one, or start": {"coarse_depth": None},
        "error: photo.png: coarse depth is 10 x 60, but its image": {
            "coarse_depth": str(tmp_path / "b" / "wide.npy")
        },
        "error: photo.png: no coarse normal map. Pass --coarse-normal": {"coarse_normal": None},
        "error: the depth unit 'feet' is none of metres": {"depth_unit": "feet"},
        "error: the axes 'up' are neither opencv": {"normal_axes": "up"},
        "error: the field of view 200 is out of range": {"fov": 200},
        "error: photo.png: --save glb needs the camera": {"formats": ["glb"]},
        "error: no format is chosen (--save)": {"formats": []},
    }
    for message, change in wrong.items():
        answer = answer_request(models, replace(request_, **change), tmp_path / "out")
        assert answer.lines[-1].startswith(message), answer.lines
        assert str(tmp_path) not in "".join(answer.lines)
        assert not answer.page and not answer.files
        assert capsys.readouterr().err.splitlines() == [answer.lines[-1]]


def test_an_error_of_the_program_is_answered_too(models, request_, tmp_path, capsys):
    broken = models._replace(refiner=None)
    answer = answer_request(broken, request_, tmp_path / "out")
    assert answer.lines[-1].startswith("error: AttributeError: 'NoneType' object")
    assert "Traceback" in capsys.readouterr().err  # for whoever runs the server
