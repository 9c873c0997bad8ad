"""`urgt scene`."""

import numpy as np
import pytest
from helpers.command import call

from urgt_jax.commands import scene as scene_command
from urgt_jax.errors import UserError
from urgt_jax.images.files import read_image


def test_scene_writes_the_image_with_true_and_coarse_maps(tmp_path, capsys):
    call(scene_command.main, "--size", 40, 60, "--seed", 3, "--out", tmp_path)
    assert read_image(tmp_path / "scene3.png").shape == (40, 60, 3)
    for kind in ("true", "coarse"):
        assert np.load(tmp_path / f"scene3_{kind}_depth.npy").shape == (40, 60)
        assert np.load(tmp_path / f"scene3_{kind}_normal.npy").shape == (40, 60, 3)
    assert f"{tmp_path / 'scene3.png'}: 40 x 60 pixels" in capsys.readouterr().out


def test_scene_writes_to_the_folder_scenes_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(scene_command.main, "--size", 40, 60)
    assert (tmp_path / "scenes" / "scene0.png").is_file()


def test_scene_degrades_as_strongly_as_it_is_told(tmp_path):
    errors = []
    for strength in ("weak", "strong"):
        out = tmp_path / strength
        call(scene_command.main, "--size", 60, 90, "--degrade", strength, "--out", out)
        true = np.load(out / "scene0_true_depth.npy")
        coarse = np.load(out / "scene0_coarse_depth.npy")
        known = true > 0
        errors.append(1 - np.corrcoef(1 / true[known], coarse[known])[0, 1])
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    "arguments, pattern",
    [
        (("--seed", -1), "--seed -1 is out of range"),
        (("--size", 4, 60), "--size 4 60 is too small: the least is 8 8"),
        (("--split", "tset"), "invalid choice: 'tset'"),
    ],
)
def test_scene_rejects_wrong_options(tmp_path, arguments, pattern):
    with pytest.raises(UserError, match=pattern):
        call(scene_command.main, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
