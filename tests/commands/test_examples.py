"""The scripts in examples/ run, and do what they say."""

import importlib.util
import json
import re
from types import ModuleType

import cv2
import numpy as np
import pytest
from etils.epath import Path
from helpers.command import config_file
from helpers.miniature_sets import measured
from PIL import Image

from urgt_jax.commands import priors

FOLDER = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested_here_and_named_in_the_docs():
    names = {path.stem for path in FOLDER.glob("*.py")}
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert names <= tested
    table = (FOLDER.parent / "docs/api.md").read_text()
    assert names == set(re.findall(r"^\| `examples/(\w+).py` \|", table, re.MULTILINE))


def test_refine_folder(weights, scene, tmp_path, capsys):
    example("refine_folder").main(str(scene.parent), str(tmp_path / "out"), str(weights))
    assert np.load(tmp_path / "out/photo_depth.npy").shape == (41, 67)
    assert capsys.readouterr().out.startswith("photo.png: depth from ")


@pytest.mark.slow
def test_sensor_depth(weights, tmp_path, capsys):
    example("sensor_depth").main(str(tmp_path / "out"), str(weights), size=(48, 64))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("sensor: median error ")
    assert lines[-1].startswith("refined: median error ")
    assert Image.open(tmp_path / "out/sensor.png").size == (3 * 64, 48)


@pytest.mark.slow
def test_video_frames(weights, scene, tmp_path, capsys):
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (66, 40))
    coarse = tmp_path / "coarse"
    coarse.mkdir()
    depth = np.load(scene.with_name("photo_coarse_depth.npy"))[:40, :66]
    normal = np.load(scene.with_name("photo_coarse_normal.npy"))[:40, :66]
    for number in range(2):
        video.write(cv2.imread(str(scene))[:40, :66])
        np.save(coarse / f"{number}_depth.npy", depth)
        np.save(coarse / f"{number}_normal.npy", normal)
    video.release()
    out = tmp_path / "out"
    example("video_frames").main(str(tmp_path / "v.avi"), str(coarse), str(out), str(weights))
    assert capsys.readouterr().out.startswith("2 frames: ")
    assert {path.name for path in out.glob("*.png")} == {"00000.png", "00001.png"}


@pytest.mark.slow
def test_export_mesh(scene, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    truth = scene.with_name("photo_true_depth.npy")
    out = tmp_path / "x.glb"
    example("export_mesh").main(str(scene), str(truth), "60", str(out))
    mesh = trimesh.load(str(out), force="mesh")
    depth = np.load(truth)
    assert np.isfinite(mesh.vertices).all()
    assert -3 * np.median(depth) <= mesh.bounds[0, 2] <= mesh.bounds[1, 2] <= -depth.min() + 1e-5


@pytest.mark.slow
def test_own_loss(micro, tmp_path):
    example("own_loss").main(str(tmp_path / "run"), str(config_file(micro, tmp_path)), "2")
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert all(json.loads(line)["edge_error"] > 0 for line in lines)


@pytest.mark.slow
def test_finetune_folder(weights, tmp_path, capsys):
    folder = measured(tmp_path, 2, (48, 72))
    run = str(tmp_path / "run")
    priors.main(["--data", "folder", str(folder), "--degrade", "middle"])
    example("finetune_folder").main(str(folder), run, str(weights), "4")
    last = capsys.readouterr().out.splitlines()[-1]
    before, after = re.findall(r"\d\.\d+", last)
    assert float(after) < float(before)


@pytest.mark.slow
def test_python_api(weights, scene, capsys):
    example("python_api").main(str(scene), str(weights))
    first, second = capsys.readouterr().out.splitlines()
    assert float(first.removeprefix("largest difference: ")) < 1e-5
    assert second.count("%") == 4
