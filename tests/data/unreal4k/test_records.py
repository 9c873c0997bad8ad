"""The reader of tiles: frames come back exactly, at the cost of the tiles that a window touches."""

import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from etils.epath import Path
from helpers import miniature_sets
from helpers.mutations import mutations
from PIL import Image

from urgt_jax.data.unreal4k.prepare import prepare
from urgt_jax.data.unreal4k.records import Unreal4k
from urgt_jax.errors import UserError
from urgt_jax.files import seal
from urgt_jax.images.grid import gridmix_block

ROOT = Path(__file__).parents[3]
SIZE = (36, 64)


def test_unreal4k_reads_frames_exactly_in_the_order_of_the_split(source, prepared):
    frames = Unreal4k(prepared, "test_out")
    names = [frames.name(i) for i in range(len(frames))]
    assert names == ["00008_00030", "00008_00031", "00008_00032"]
    for i, number in enumerate(("00030", "00031", "00032")):
        image = np.asarray(Image.open(source / "00008/Image0" / f"{number}.png"))[..., :3]
        disparity = np.load(source / "00008/Disp0" / f"{number}.npy")
        sample = frames.read(i)
        assert frames.size(i) == sample.depth.shape == SIZE
        np.testing.assert_array_equal(sample.image, image)
        np.testing.assert_array_equal(sample.valid, disparity > 0)
        assert sample.stereo == pytest.approx(sample.intrinsics[0] * miniature_sets.BASELINE)
        valid = sample.valid
        depth = sample.stereo / disparity[valid]
        np.testing.assert_allclose(sample.depth[valid], depth, rtol=1e-6)
        assert np.isinf(sample.depth[~valid]).all()


@pytest.mark.parametrize("size", [SIZE, (37, 67)])
def test_unreal4k_reads_a_window_as_a_crop_of_the_frame(tmp_path, size):
    prepare(miniature_sets.unreal4k(tmp_path / "source", size, frames=1), tmp_path / "out")
    frames = Unreal4k(tmp_path / "out", "train")
    whole = frames.read(0)
    rng = np.random.default_rng(0)
    for _ in range(30):
        top, bottom = np.sort(rng.choice(size[0] + 1, 2, replace=False))
        left, right = np.sort(rng.choice(size[1] + 1, 2, replace=False))
        part = frames.read(0, (slice(top, bottom), slice(left, right)))
        for name in ("image", "depth", "valid"):
            expected = getattr(whole, name)[top:bottom, left:right]
            np.testing.assert_array_equal(getattr(part, name), expected)
        np.testing.assert_allclose(part.intrinsics, whole.intrinsics - [0, 0, left, top])


@pytest.mark.parametrize("size", [SIZE, (37, 67)])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_unreal4k_reads_only_the_tiles_of_a_gridmix_block(tmp_path, size, m, monkeypatch):
    prepare(miniature_sets.unreal4k(tmp_path / "source", size, frames=1), tmp_path / "out")
    read_tile = Unreal4k._read_tile
    numbers = []

    def recording(self, index, number):
        numbers.append(number)
        return read_tile(self, index, number)

    monkeypatch.setattr(Unreal4k, "_read_tile", recording)
    block = gridmix_block(*size, m, 4 - m, 0)
    Unreal4k(tmp_path / "out", "train").read(0, block.bounds)
    assert len(numbers) == len(set(numbers)) == m * m


def test_unreal4k_can_be_pickled_for_worker_processes(prepared):
    frames = Unreal4k(prepared, "val")
    copy = pickle.loads(pickle.dumps(frames))
    np.testing.assert_array_equal(copy.read(2).image, frames.read(2).image)


def test_tfds_opens_the_tiles_without_tensorflow(prepared):
    script = (
        "import sys, tensorflow_datasets as tfds\n"
        f"builder = tfds.builder_from_directory({str(prepared)!r})\n"
        "print(*(f'{name} {split.num_examples}' for name, split in builder.info.splits.items()))\n"
        "print(builder.as_data_source(split='val')[17]['frame'].decode())\n"
        "print('tensorflow' in sys.modules)\n"
    )
    command = [sys.executable, "-c", script]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    splits, frame, tensorflow = process.stdout.splitlines()
    assert splits == "train 48 val 48 test_in 48 test_out 48"
    assert frame == "00001_00011" and tensorflow == "False"


def test_unreal4k_rejects_an_empty_window(prepared):
    with pytest.raises(UserError, match="is empty"):
        Unreal4k(prepared, "val").read(0, (slice(5, 5), slice(0, 9)))


def test_unreal4k_rejects_a_folder_or_split_that_was_not_prepared(prepared, tmp_path):
    with pytest.raises(UserError, match="holds no prepared data set.*urgt prepare unreal4k"):
        Unreal4k(tmp_path, "train")
    with pytest.raises(UserError, match="has no split 'tset'. It has train, val, test_in"):
        Unreal4k(prepared, "tset")


def test_unreal4k_names_the_file_of_a_damaged_tile(prepared, tmp_path):
    broken = shutil.copytree(prepared, tmp_path / "broken")
    (file,) = broken.glob("unreal4k-val*")
    content = file.read_bytes()
    half = len(content) // 2
    file.write_bytes(content[:half] + bytes(len(content) - half))
    with pytest.raises(UserError, match="00001_00012 cannot be read .*: delete .*unreal4k-val"):
        Unreal4k(broken, "val").read(2)


def test_unreal4k_rejects_an_index_that_does_not_fit_the_tiles(prepared, tmp_path):
    broken = shutil.copytree(prepared, tmp_path / "broken")
    (broken / "frames.json").write_text(json.dumps(seal({"train": [["one", SIZE]]})))
    with pytest.raises(UserError, match="48 tiles in split train, but 1 frames need 16"):
        Unreal4k(broken, "train")


def test_unreal4k_notices_every_change_of_the_index(prepared, tmp_path):
    broken = shutil.copytree(prepared, tmp_path / "broken")
    index = broken / "frames.json"
    for what, content in mutations(index.read_bytes(), 60):
        index.write_bytes(content)
        with pytest.raises(UserError, match="frames.json .*prepare the data set again") as caught:
            Unreal4k(broken, "train")
        assert "\n" not in str(caught.value), what


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_unreal4k_rejects_names_that_lead_out_of_their_folder(prepared, tmp_path, name):
    broken = shutil.copytree(prepared, tmp_path / "broken")
    (broken / "frames.json").write_text(json.dumps(seal({"train": [[name, SIZE]]})))
    with pytest.raises(UserError, match="leads out of"):
        Unreal4k(broken, "train")


def test_unreal4k_reads_no_records_outside_its_folder(prepared, tmp_path):
    broken = shutil.copytree(prepared, tmp_path / "broken")
    info = json.loads((broken / "dataset_info.json").read_text())
    for split in info["splits"]:
        split["filepathTemplate"] = f"../{split['filepathTemplate']}"
    (broken / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="leads out of"):
        Unreal4k(broken, "train")
