"""NYU Depth v2: what TFDS prepared, and damaged files."""

import pytest
from helpers.public_sets import assert_rejected, prepare_nyu_depth_v2, replace_text

from urgt_jax.data.sets.nyu_depth_v2 import NyuDepthV2


def test_nyu_depth_v2_opens_its_own_folder_too(tmp_path):
    prepare_nyu_depth_v2(tmp_path)
    info = next(tmp_path.glob("nyu_depth_v2/*/dataset_info.json"))
    assert len(NyuDepthV2(info.parent)) == len(NyuDepthV2(tmp_path)) == 2


def test_nyu_depth_v2_must_be_prepared_as_array_record(tmp_path):
    prepare_nyu_depth_v2(tmp_path)
    info = next(tmp_path.glob("nyu_depth_v2/*/dataset_info.json"))
    replace_text(info, "array_record", "tfrecord")
    assert_rejected("nyu_depth_v2", tmp_path, "tfrecord", "--file_format=array_record")
    info.write_text("{")
    assert_rejected("nyu_depth_v2", tmp_path, "cannot be read by TFDS")


@pytest.mark.parametrize("length", [0, 1000])
def test_nyu_depth_v2_rejects_a_truncated_shard(tmp_path, length):
    prepare_nyu_depth_v2(tmp_path)
    shard = next(tmp_path.glob("nyu_depth_v2/*/*validation.array_record*"))
    shard.write_bytes(shard.read_bytes()[:length])
    assert_rejected("nyu_depth_v2", tmp_path, str(tmp_path))
