"""Middlebury 2014: damaged files."""

import pytest
from helpers.public_sets import assert_rejected, replace_text, write_middlebury2014

BAD_CALIBRATION = {  # what is replaced in calib.txt, by what, a word of the error
    "no camera": ("cam0", "camera", "cam0"),
    "no baseline": ("baseline", "base", "baseline"),
    "baseline 0": ("=200", "=0", "above 0"),
    "focal length 0": ("[100.5", "[0", "cam0"),
    "NaN in a camera": ("8.25", "nan", "8 finite"),
    "short matrix": ("; 0 0 1", "", "6 finite"),
}


@pytest.mark.parametrize("name", ["disp0.pfm", "calib.txt"])
def test_middlebury2014_names_a_missing_file(tmp_path, name):
    write_middlebury2014(tmp_path)
    file = tmp_path / "Piano" / name
    file.unlink()
    assert_rejected("middlebury2014", tmp_path, str(file), "Unpack")


@pytest.mark.parametrize("kind", BAD_CALIBRATION)
def test_middlebury2014_rejects_a_wrong_calibration(tmp_path, kind):
    old, new, word = BAD_CALIBRATION[kind]
    write_middlebury2014(tmp_path)
    file = tmp_path / "Piano" / "calib.txt"
    replace_text(file, old, new)
    assert_rejected("middlebury2014", tmp_path, str(file), word)


def test_middlebury2014_rejects_a_calibration_of_words(tmp_path):
    write_middlebury2014(tmp_path)
    file = tmp_path / "Piano" / "calib.txt"
    file.write_text("notes: no\n")
    assert_rejected("middlebury2014", tmp_path, str(file), "cam0")
