"""Booster: several images of a scene, and damaged files."""

import pytest
from helpers.public_sets import assert_rejected, replace_text, write_booster


def test_booster_has_every_image_of_a_scene(tmp_path):
    booster = write_booster(tmp_path).data_set
    assert [booster.name(i) for i in range(len(booster))] == ["Bathroom_im0", "Bathroom_im1"]
    first, second = booster.read(0), booster.read(1)
    assert (first.image != second.image).any()
    assert (first.depth == second.depth).all()


@pytest.mark.parametrize(
    "old, new, word", [("<data>", "", "cannot be read"), ("proj_matL", "x", "proj_matL")]
)
def test_booster_rejects_a_wrong_calibration(tmp_path, old, new, word):
    write_booster(tmp_path)
    file = tmp_path / "train/balanced/Bathroom/calib_00-02.xml"
    replace_text(file, old, new)
    assert_rejected("booster", tmp_path, str(file), word)


def test_booster_rejects_a_damaged_image(tmp_path):
    write_booster(tmp_path)
    file = tmp_path / "train/balanced/Bathroom/camera_00/im0.png"
    file.write_bytes(b"no")
    assert_rejected("booster", tmp_path, str(file), "cannot be read")
