"""The scripts in examples/ run, and do what they say."""

import importlib.util
from types import ModuleType

import cv2
import numpy as np
import pytest
from etils.epath import Path
from PIL import Image

FOLDER = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_five_examples():
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert names == {
        "refine_folder",
        "sensor_depth",
        "video_frames",
        "export_mesh",
        "python_api",
    }


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
def test_python_api(weights, scene, capsys):
    example("python_api").main(str(scene), str(weights))
    first, second = capsys.readouterr().out.splitlines()
    assert float(first.removeprefix("largest difference: ")) < 1e-5
    assert second.count("%") == 4
