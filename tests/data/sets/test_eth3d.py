"""ETH3D: damaged files."""

import pytest
from helpers.public_sets import assert_rejected, replace_text, write_eth3d

BAD_CALIBRATION = {  # file, what is replaced in it, by what, a word of the error
    "unlisted image": ("images.txt", "0634", "0635", "does not list"),
    "no such camera": ("cameras.txt", "\n1 ", "\n2 ", "camera 1"),
    "another model": ("cameras.txt", "THIN_PRISM", "FOV", "PINHOLE"),
    "focal length 0": ("cameras.txt", " 34.5", " 0", "above 0"),
    "truncated camera": ("cameras.txt", " 8.5 6.5 0.2 0.4 0 0 0 0 0 0", "", "4 finite"),
    "camera of another size": ("cameras.txt", "17 12", "12 17", "12 x 17"),
}


@pytest.mark.parametrize("kind", BAD_CALIBRATION)
def test_eth3d_rejects_a_wrong_calibration(tmp_path, kind):
    name, old, new, word = BAD_CALIBRATION[kind]
    write_eth3d(tmp_path)
    file = tmp_path / "pipes/dslr_calibration_jpg" / name
    replace_text(file, old, new)
    assert_rejected("eth3d", tmp_path, str(file), word)


def test_eth3d_names_a_missing_list_of_images(tmp_path):
    write_eth3d(tmp_path)
    file = tmp_path / "pipes/dslr_calibration_jpg/images.txt"
    file.unlink()
    assert_rejected("eth3d", tmp_path, str(file), "list of COLMAP images is missing")


def test_eth3d_rejects_a_truncated_depth_map(tmp_path):
    write_eth3d(tmp_path)
    file = tmp_path / "pipes/ground_truth_depth/dslr_images/DSC_0634.JPG"
    file.write_bytes(file.read_bytes()[:-4])
    assert_rejected("eth3d", tmp_path, str(file), "812 bytes")
