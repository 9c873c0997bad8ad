"""Preparing UnrealStereo4K: the same bytes however often it is stopped, bad frames listed."""

import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils.epath import Path
from helpers import miniature_sets
from PIL import Image

from urgt_jax.commands.main import run
from urgt_jax.data.unreal4k import prepare as prepare_module
from urgt_jax.data.unreal4k.prepare import prepare
from urgt_jax.data.unreal4k.records import Unreal4k
from urgt_jax.errors import UserError, exit_status
from urgt_jax.files import unseal
from urgt_jax.folder_lock import FolderLock

ROOT = Path(__file__).parents[3]


def contents(folder: Path) -> dict[str, bytes]:
    """The content of each file in a folder, but for temporary ones."""
    files = [
        file for file in pathlib.Path(folder).rglob("*") if file.is_file() and file.suffix != ".tmp"
    ]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_builder_prepares_the_same_records_as_the_command(source, prepared, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    builder = tfds.builder("unreal4k", data_dir=tmp_path / "data")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(source))
    )
    by_builder = contents(Path(builder.data_dir))
    by_command = contents(prepared)
    records = [name for name in by_command if "array_record-" in name]
    assert len(records) == 8
    assert all(by_builder[name] == by_command[name] for name in records)
    assert builder.info.splits["train"].num_examples == 48
    assert builder.as_data_source(split="train")[0]["frame"] == b"00000_00000"
    assert list(temporary.iterdir()) == []


def test_builder_needs_the_folder_of_the_scenes(tmp_path):
    with pytest.raises(UserError, match="manual_dir"):
        tfds.builder("unreal4k", data_dir=tmp_path).download_and_prepare()


def test_prepare_resumes_after_a_kill_with_the_same_bytes(tmp_path, capsys):
    source = miniature_sets.unreal4k(tmp_path / "source", (108, 192), frames=20)
    killed, uninterrupted = tmp_path / "killed", tmp_path / "uninterrupted"
    command = [sys.executable, "-m", "urgt_jax", "prepare", "unreal4k", "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--source", source, "--out", killed],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for _ in range(6000):
        if list(killed.glob(".*.json")):  # the first shard is complete
            break
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "frames.json").exists()
    prepare(source, killed)
    assert "of 80 frames are already prepared" in capsys.readouterr().out
    prepare(source, uninterrupted)
    first, second = contents(uninterrupted), contents(killed)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_prepare_lists_a_bad_frame_and_writes_the_others(source, tmp_path):
    spoilt, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, spoilt)
    (spoilt / "00000/Disp0/00000.npy").write_bytes(b"PK\x03\x04")  # numpy raises a zip error
    ((name, reason),) = prepare(spoilt, out).items()
    assert name == "train 00000_00000" and "00000.npy" in reason
    assert (out / "skipped.txt").read_text() == f"{name}: {reason}\n"
    frames = Unreal4k(out, "train")
    assert len(frames) == 2 and frames.name(0) == "00000_00001"
    image = np.asarray(Image.open(source / "00000/Image0/00001.png"))[..., :3]
    np.testing.assert_array_equal(frames.read(0).image, image)


def test_prepare_lists_a_frame_that_raises_an_unforeseen_error(source, tmp_path, monkeypatch):
    read_frame = prepare_module.read_frame

    def failing(files):
        if files.name == "00000_00000":
            raise ZeroDivisionError("of some\nlibrary")
        return read_frame(files)

    monkeypatch.setattr(prepare_module, "read_frame", failing)
    skipped = prepare(source, tmp_path)
    assert skipped == {"train 00000_00000": "ZeroDivisionError: of some library"}


def test_prepare_stops_at_the_limit_of_skipped_frames(source, tmp_path):
    spoilt, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, spoilt)
    for file in (spoilt / "00000/Disp0").iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"stopped: 3 were skipped, and --max-skipped allows 2\."):
        prepare(spoilt, out, max_skipped=2)
    assert len(prepare(spoilt, out, max_skipped=6)) == 6


def test_command_names_skipped_frames_and_ends_with_1(source, tmp_path, monkeypatch, capsys):
    spoilt, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, spoilt)
    (spoilt / "00000/Disp0/00000.npy").write_bytes(b"damaged")
    command = ["urgt", "prepare", "unreal4k", "--source", spoilt, "--out", out, "--workers", 1]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    assert exit_status(run) == 1
    output = capsys.readouterr()
    assert "skipped train 00000_00000: " in output.out
    assert output.err.splitlines()[-1].startswith("error: 1 frames were skipped (list: ")


def test_prepare_rejects_a_split_file_that_names_other_folders(source, tmp_path):
    splits = tmp_path / "train.txt"
    splits.write_text("../Image0/00000.png\n")
    with pytest.raises(UserError, match="train.txt, line 1 is not 'SCENE/Image0/N.png"):
        prepare(source, tmp_path / "out", splits)


def test_prepare_tries_skipped_frames_again_and_removes_temporary_files(source, tmp_path):
    spoilt, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, spoilt)
    for file in (spoilt / "00008/Disp0").iterdir():
        file.rename(file.with_suffix(".away"))
    assert len(prepare(spoilt, out)) == 3
    with pytest.raises(UserError, match="split test_out of .* has no frames. skipped.txt"):
        Unreal4k(out, "test_out")
    for file in (spoilt / "00008/Disp0").iterdir():
        file.rename(file.with_suffix(".npy"))
    leftover = out / ".unreal4k-test_out.array_record-00000-of-00001.1234.tmp"
    leftover.write_bytes(b"half")
    metadata = out / ".metadata-killed"  # what TFDS had begun to write
    metadata.mkdir()
    (metadata / "features.json").write_bytes(b"")
    assert prepare(spoilt, out) == {}
    assert not leftover.exists() and not metadata.exists()
    assert len(Unreal4k(out, "test_out")) == 3 and (out / "skipped.txt").read_text() == ""


def test_folder_is_not_read_while_skipped_frames_get_records(source, tmp_path, monkeypatch):
    spoilt, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, spoilt)
    disparity = spoilt / "00000/Disp0/00000.npy"
    content = disparity.read_bytes()
    disparity.write_bytes(b"damaged")
    assert len(prepare(spoilt, out)) == 1
    disparity.write_bytes(content)
    # A kill after the records were written: there is one frame more than the index has.
    monkeypatch.setattr(prepare_module, "write_metadata", lambda *_: {})
    prepare(spoilt, out)
    with pytest.raises(UserError, match="frames.json is missing. Run urgt prepare"):
        Unreal4k(out, "train")


def test_two_commands_do_not_prepare_in_one_folder(source, tmp_path):
    with FolderLock(tmp_path / "out", "--out"):
        with pytest.raises(UserError, match="out is in use by process .* another --out"):
            prepare(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "name, content",
    [
        ("unreal4k-val.array_record-00000-of-00001", b"cut off"),
        (".unreal4k-val.array_record-00000-of-00001.json", b"{"),
        ("dataset_info.json", b"{"),
        ("features.json", b""),
        ("frames.json", b"{"),
    ],
)
def test_prepare_repairs_a_damaged_file(source, prepared, tmp_path, name, content):
    broken = shutil.copytree(prepared, tmp_path / "broken")
    (broken / name).write_bytes(content)
    if not name.startswith("."):
        with pytest.raises(UserError, match=r"prepare (it|the data set) again"):
            Unreal4k(broken, "val").read(0)
    assert prepare(source, broken) == {}
    assert contents(broken) == contents(prepared)


def test_prepare_leaves_no_half_written_file_on_a_full_disk(source, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(UserError, match="cannot write .*unreal4k-train.*File too large"):
            prepare(source, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["job.json"]


def test_prepare_checks_the_disk_before_it_writes(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage._replace(free=12 * 36 * 64 * 7 - 1)
    )
    with pytest.raises(UserError, match="for 12 frames, but only .* are free"):
        prepare(source, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["job.json"]


def test_prepare_takes_a_single_split_file(source, prepared, tmp_path):
    prepare(source, tmp_path / "out", source / "splits" / "val.txt")
    index = unseal(json.loads((tmp_path / "out/frames.json").read_text()))
    assert list(index) == ["val"]
    alone, together = Unreal4k(tmp_path / "out", "val"), Unreal4k(prepared, "val")
    np.testing.assert_array_equal(alone.read(2).image, together.read(2).image)


def test_prepare_rejects_a_missing_source_before_it_makes_the_folder(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_prepare_fails_if_no_frame_can_be_read(source, tmp_path):
    split = tmp_path / "val.txt"
    split.write_text("00001/Image0/99999.png\n")
    with pytest.raises(UserError, match="none of 1 frames could be read"):
        prepare(source, tmp_path / "out", split)


def test_prepare_rejects_a_folder_begun_with_other_splits(source, prepared):
    with pytest.raises(UserError, match="was begun with other split files"):
        prepare(source, prepared, source / "splits" / "val.txt")
