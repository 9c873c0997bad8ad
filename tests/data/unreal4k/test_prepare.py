"""UnrealStereo4K: what is stored is what was there, whatever happens on the way."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import miniature_sets as miniature
from PIL import Image

from urgt_jax.data.unreal4k import records as tiles
from urgt_jax.data.unreal4k.prepare import prepare
from urgt_jax.data.unreal4k.records import Unreal4k
from urgt_jax.errors import UserError

ROOT = Path(__file__).parents[3]
SIZE = (36, 64)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return miniature.unreal4k(tmp_path_factory.mktemp("u4k") / "source", SIZE)


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    assert prepare(source, out) == {}
    return out


def _contents(folder: Path) -> dict[str, bytes]:
    files = (f for f in folder.rglob("*") if f.is_file() and not f.name.endswith(".tmp"))
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def _measured(source: Path, scene: str, number: str):
    image = np.asarray(Image.open(source / scene / "Image0" / f"{number}.png"))[..., :3]
    return image, np.load(source / scene / "Disp0" / f"{number}.npy")


def test_frames_come_back_bit_for_bit_in_the_order_of_the_split(source, prepared):
    frames = Unreal4k(prepared, "test_out")
    assert [frames.name(i) for i in range(3)] == [f"00008_000{n}" for n in (30, 31, 32)]
    for i in range(3):
        image, disparity = _measured(source, "00008", f"0003{i}")
        sample = frames.read(i)
        assert frames.size(i) == SIZE == sample.depth.shape
        np.testing.assert_array_equal(sample.image, image)
        np.testing.assert_array_equal(sample.valid, disparity > 0)
        fx = sample.intrinsics[0]
        assert sample.stereo == pytest.approx(fx * miniature.BASELINE)
        seen = sample.valid
        np.testing.assert_allclose(sample.depth[seen], sample.stereo / disparity[seen], rtol=1e-6)
        assert np.isinf(sample.depth[~seen]).all()


@pytest.mark.parametrize("size", [SIZE, (37, 67)])
def test_a_window_is_the_crop_of_the_whole_and_reads_few_tiles(tmp_path, size, monkeypatch):
    prepare(miniature.unreal4k(tmp_path / "s", size, frames=1), tmp_path / "out")
    frames, rng = Unreal4k(tmp_path / "out", "train"), np.random.default_rng(0)
    whole, read = frames.read(0), []
    real = Unreal4k._read_tile
    monkeypatch.setattr(Unreal4k, "_read_tile", lambda *a: read.append(a[2]) or real(*a))
    for _ in range(30):
        (top, bottom), (left, right) = (np.sort(rng.choice(n + 1, 2, replace=False)) for n in size)
        part = frames.read(0, (slice(top, bottom), slice(left, right)))
        for name in ("image", "depth", "valid"):
            expected = getattr(whole, name)[top:bottom, left:right]
            np.testing.assert_array_equal(getattr(part, name), expected)
        np.testing.assert_allclose(part.intrinsics, whole.intrinsics - [0, 0, left, top])
    for m in (1, 2, 3, 4):  # a block of GridMix costs its own patches
        windows = tiles.grid.gridmix_block(*size, m, 4 - m, 0)
        read.clear()
        frames.read(0, windows.bounds)
        assert len(read) == len(set(read)) == m * m


def test_raw_pictures_are_blue_green_red(source, prepared, tmp_path):
    prepare(miniature.unreal4k(tmp_path / "s", SIZE, raw=True), tmp_path / "out")
    raw, png = Unreal4k(tmp_path / "out", "val"), Unreal4k(prepared, "val")
    np.testing.assert_array_equal(raw.read(1).image, png.read(1).image)


def test_tfds_opens_it_without_tensorflow_and_it_pickles(prepared):
    script = (
        "import sys, pickle, tensorflow_datasets as tfds\n"
        "from pathlib import Path\n"
        "from urgt_jax.data.unreal4k.records import Unreal4k\n"
        f"found = tfds.builder_from_directory({str(prepared)!r})\n"
        "print({s: i.num_examples for s, i in found.info.splits.items()})\n"
        "print(found.as_data_source(split='val')[17]['frame'].decode())\n"
        f"frames = pickle.loads(pickle.dumps(Unreal4k(Path({str(prepared)!r}), 'val')))\n"
        "print(frames.read(2).image.shape, 'tensorflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sizes, name, shape = done.stdout.splitlines()
    assert eval(sizes) == {"train": 48, "val": 48, "test_in": 48, "test_out": 48}
    assert name == "00001_00011" and shape == "(36, 64, 3) False"


def test_the_builder_prepares_what_the_command_prepares(source, prepared, tmp_path):
    builder = tfds.builder("unreal4k", data_dir=tmp_path)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(source))
    )
    made, other = _contents(Path(builder.data_dir)), _contents(prepared)
    records = [name for name in other if "array_record-" in name]
    assert len(records) == 8 and all(made[name] == other[name] for name in records)
    assert builder.info.splits["train"].num_examples == 48
    assert builder.as_data_source(split="train")[0]["frame"] == b"00000_00000"


def _start(source: Path, out: Path):
    command = [
        sys.executable,
        "-m",
        "urgt_jax",
        "prepare",
        "unreal4k",
        "--source",
        source,
        "--out",
        out,
    ]
    return subprocess.Popen([*command, "--workers", "2"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip


def test_a_killed_job_goes_on_to_the_same_bytes(tmp_path, capsys):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    many = miniature.unreal4k(tmp_path / "many", (108, 192), frames=20)
    process = _start(many, killed)
    for _ in range(3000):
        if list(killed.glob(".*.json")):  # the first file is whole
            break
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (killed / "frames.json").exists()
    prepare(many, killed)
    assert "of 80 frames are there already" in capsys.readouterr().out
    prepare(many, alone)
    one, two = _contents(alone), _contents(killed)
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


def _spoil(source: Path, kind: str) -> None:
    """Spoils the first frame of the split train."""
    scene = source / "00000"
    image, disparity = scene / "Image0/00000.png", scene / "Disp0/00000.npy"
    left, right = (scene / f"Extrinsics{i}/00000.txt" for i in (0, 1))
    values = np.load(disparity)
    if kind == "no image":
        image.unlink()
    elif kind == "cut image":
        image.write_bytes(image.read_bytes()[:500])
    elif kind == "small image":
        Image.fromarray(np.zeros((18, 32, 3), np.uint8)).save(image)
    elif kind == "raw":
        image.unlink()
        (scene / "Image0/00000.raw").write_bytes(b"0" * 77)
    elif kind == "no disparity":
        disparity.unlink()
    elif kind == "empty disparity":
        disparity.write_bytes(b"")
    elif kind == "no zip":  # numpy then raises an error of the module zipfile
        disparity.write_bytes(b"PK\x03\x04")
    elif kind in ("nan", "negative"):
        values[3, 4] = np.nan if kind == "nan" else -1
        np.save(disparity, values)
    elif kind == "dtype":
        np.save(disparity, values.astype(np.uint8))
    elif kind == "tiny":
        np.save(disparity, values[:3, :3])
    elif kind == "no extrinsics":
        right.unlink()
    elif kind == "baseline":
        shutil.copy(left, right)
    elif kind == "words":
        left.write_text("1 0 x\n")
    elif kind == "focal":
        left.write_text(left.read_text().replace(left.read_text().split()[0], "0", 1))


@pytest.mark.parametrize(
    "kind,told",
    [
        ("no image", "no picture at .*00000.png"),
        ("cut image", "00000.png cannot be read"),
        ("small image", r"00000.png is \(18, 32\) pixels, its disparity \(36, 64\)"),
        ("raw", "00000.raw has 77 bytes, not 36 x 64 x 3"),
        ("no disparity", "no disparity at .*00000.npy"),
        ("empty disparity", "00000.npy is not a whole .npy file"),
        ("no zip", "00000.npy is not a whole .npy file of numbers: File is not a zip file"),
        ("nan", "00000.npy has 1 values that are NaN"),
        ("negative", "00000.npy has 1 values that are NaN, infinite or negative"),
        ("dtype", "dtype uint8, not float"),
        ("no extrinsics", "no extrinsics at .*Extrinsics1"),
        ("baseline", "have no baseline"),
        ("words", "is not two lines of numbers"),
        ("focal", "focal lengths 0 and"),
        ("tiny", r"00000.npy is \(3, 3\) pixels: too small"),
    ],
)
def test_a_bad_frame_is_listed_and_the_rest_is_there(source, tmp_path, kind, told):
    spoilt, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, spoilt)
    _spoil(spoilt, kind)
    ((name, why),) = prepare(spoilt, out).items()
    assert name == "train 00000_00000"
    with pytest.raises(UserError, match=told):
        raise UserError(why)
    assert (out / "skipped.txt").read_text() == f"{name}: {why}\n"
    frames = Unreal4k(out, "train")
    assert len(frames) == 2 and frames.name(0) == "00000_00001"
    np.testing.assert_array_equal(frames.read(0).image, _measured(source, "00000", "00001")[0])


def test_what_was_skipped_is_tried_again_and_what_a_kill_left_is_removed(source, tmp_path):
    spoilt, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, spoilt)
    for file in (spoilt / "00008/Disp0").iterdir():
        file.rename(file.with_suffix(".away"))
    assert len(prepare(spoilt, out)) == 3
    with pytest.raises(UserError, match="split test_out of .* has no frame: skipped.txt"):
        Unreal4k(out, "test_out")
    for file in (spoilt / "00008/Disp0").iterdir():
        file.rename(file.with_suffix(".npy"))
    left = out / ".unreal4k-test_out.array_record-00000-of-00001.1234.tmp"
    left.write_bytes(b"half")
    assert prepare(spoilt, out) == {} and not left.exists()
    assert len(Unreal4k(out, "test_out")) == 3 and (out / "skipped.txt").read_text() == ""


@pytest.mark.parametrize(
    "name,content",
    [
        ("unreal4k-val.array_record-00000-of-00001", b"cut off"),
        (".unreal4k-val.array_record-00000-of-00001.json", b"{"),
        ("dataset_info.json", b"{"),
        ("features.json", b""),
        ("frames.json", b"{"),
    ],
)
def test_a_second_call_repairs_what_was_damaged(source, prepared, tmp_path, name, content):
    broken = shutil.copytree(prepared, tmp_path / "broken")
    (broken / name).write_bytes(content)
    if not name.startswith("."):
        with pytest.raises(UserError, match=r"prepare (it|the data set) again"):
            Unreal4k(broken, "val").read(0)
    assert prepare(source, broken) == {}
    assert _contents(broken) == _contents(prepared)


def test_a_full_disk_is_told_and_leaves_nothing_half_written(source, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(UserError, match="cannot write .*unreal4k-train.*File too large"):
            prepare(source, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["job.json"]


def test_one_split_file_is_enough(source, prepared, tmp_path):
    prepare(source, tmp_path / "out", source / "splits" / "val.txt")
    assert list(json.loads((tmp_path / "out/frames.json").read_text())) == ["val"]
    alone, among = Unreal4k(tmp_path / "out", "val"), Unreal4k(prepared, "val")
    np.testing.assert_array_equal(alone.read(2).image, among.read(2).image)


def test_an_empty_window_is_refused(prepared):
    with pytest.raises(UserError, match="is empty"):
        Unreal4k(prepared, "val").read(0, (slice(5, 5), slice(0, 9)))


@pytest.mark.parametrize(
    "line,told",
    [
        ("00000/Image0", "train.txt, line 4 is no 'S/Image0/N.png"),
        ("00000/Image1/00000.png x", "line 4 is no"),
        ("00000/Image0/00001.png x", "line 4 names a frame twice"),
    ],
)
def test_a_wrong_line_of_a_split_is_named(source, tmp_path, line, told):
    splits = shutil.copytree(source / "splits", tmp_path / "splits")
    (splits / "train.txt").open("a").write(line + "\n")
    with pytest.raises(UserError, match=told):
        prepare(source, tmp_path / "out", splits)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_prepared_is_told(source, prepared, tmp_path):
    with pytest.raises(UserError, match="no folder at"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match="is no split file, nor a folder"):
        prepare(source, tmp_path / "out", tmp_path)
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "val.txt").write_text("")
    with pytest.raises(UserError, match="val.txt is empty"):
        prepare(source, tmp_path / "out", splits)
    (splits / "val.txt").write_text("00001/Image0/99999.png\n")
    with pytest.raises(UserError, match="none of 1 frames could be read"):
        prepare(source, tmp_path / "out", splits)
    with pytest.raises(UserError, match="was begun with other split files"):
        prepare(source, prepared, splits)


def test_what_cannot_be_opened_is_told(prepared, tmp_path):
    with pytest.raises(UserError, match="no prepared data set at"):
        Unreal4k(tmp_path, "train")
    with pytest.raises(UserError, match="has no split 'tset': it has train, val, test_in"):
        Unreal4k(prepared, "tset")
    broken = shutil.copytree(prepared, tmp_path / "broken")
    (file,) = broken.glob("unreal4k-val*")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    with pytest.raises(UserError, match="00001_00012 cannot be read .*: delete .*unreal4k-val"):
        Unreal4k(broken, "val").read(2)
    (broken / "frames.json").write_text(json.dumps({"train": [["one", SIZE]]}))
    with pytest.raises(UserError, match="48 tiles of split train for 1 frames"):
        Unreal4k(broken, "train")
