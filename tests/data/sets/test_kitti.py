"""KITTI: both splits, and damaged files."""

import pytest
from helpers.public_sets import assert_rejected, replace_text, write_kitti, write_kitti_eigen


def test_kitti_rejects_short_intrinsics(tmp_path):
    name = write_kitti(tmp_path).name
    file = tmp_path / "depth_selection/val_selection_cropped/intrinsics" / f"{name}.txt"
    replace_text(file, " 1.0", "")
    assert_rejected("kitti", tmp_path, str(file), "8 finite")


def test_kitti_eigen_has_only_the_images_with_depth(tmp_path):
    eigen = write_kitti_eigen(tmp_path).data_set
    assert [eigen.name(i) for i in range(len(eigen))] == ["2011_09_26_drive_0002_sync_0000000069"]


def test_kitti_eigen_rejects_a_list_without_depth_maps(tmp_path):
    write_kitti_eigen(tmp_path)
    file = tmp_path / "eigen_test_files_with_gt.txt"
    replace_text(file, " ", "")
    assert_rejected("kitti", tmp_path, str(file), "IMAGE DEPTH FOCAL", split="eigen")
    file.write_text("a/b/image_02/data/1.png None 7\n")
    assert_rejected("kitti", tmp_path, str(file), "no image with depth", split="eigen")


@pytest.mark.parametrize(
    "line", ["../x.png a.png 721", "/etc/x.png a.png 1", "x.png ../../a.png 1"]
)
def test_kitti_eigen_rejects_a_list_that_leads_out_of_the_folder(tmp_path, line):
    write_kitti_eigen(tmp_path)
    (tmp_path / "eigen_test_files_with_gt.txt").write_text(line + "\n")
    assert_rejected("kitti", tmp_path, "leads out of", split="eigen")
