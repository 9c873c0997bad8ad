"""Weights & Biases without a network: what its offline files hold, over a resume."""

import json

import numpy as np
import pytest
from etils.epath import Path

from urgt_jax.training.trackers.delivery import open_trackers
from urgt_jax.training.trackers.protocol import find_tracker

wandb_internal_pb2 = pytest.importorskip("wandb.proto.wandb_internal_pb2")
IMAGE = np.full((4, 6, 3), 200, np.uint8)


BLOCK = 2**15  # of LevelDB's log format
HEADER = 7  # bytes of the file, and of every piece of a record


def _records(data: bytes) -> list[bytes]:
    """The records of an offline file, which has LevelDB's log format after a header."""
    records = []
    parts = []
    start = HEADER
    while start + HEADER <= len(data):
        left = BLOCK - start % BLOCK
        if left < HEADER:  # too short for a piece
            start += left
            continue
        length = int.from_bytes(data[start + 4 : start + 6], "little")
        kind = data[start + 6]  # 1: whole, 2: first, 3: middle, 4: last
        parts.append(data[start + HEADER : start + HEADER + length])
        start += HEADER + length
        if kind in (1, 4):
            records.append(b"".join(parts))
            parts = []
    return records


def _read_offline(folder: Path) -> tuple[list, list[dict], dict]:
    """The runs, the points and the configuration in the file of an offline run."""
    (path,) = folder.glob("*.wandb")
    runs = []
    points = []
    config = {}
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.HasField("run"):
            runs.append(record.run)
            config |= {x.key: json.loads(x.value_json) for x in record.run.config.update}
        if record.HasField("history"):
            point = {}
            for item in record.history.item:
                point["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
            points.append(point)
    return runs, points, config


@pytest.mark.slow
def test_offline_runs_have_one_id_and_all_points(micro, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    kinds = {"wandb": find_tracker("wandb")}
    for start in (0, 2):  # the second one resumes
        trackers = open_trackers(kinds, micro, tmp_path, start)
        for step in (start + 1, start + 2):
            trackers.write_scalars(step, {"loss": 0.5 * step})
        trackers.write_images(start + 2, {"depth": IMAGE})
        trackers.close()
    assert "failed" not in capsys.readouterr().out
    run_id = (tmp_path / "run_id").read_text()
    folders = sorted((tmp_path / "wandb").glob(f"offline-run-*-{run_id}*"))
    assert len(folders) == 2
    for folder, start in zip(folders, (0, 2), strict=True):
        runs, points, config = _read_offline(folder)
        assert {(run.run_id, run.project) for run in runs} == {(run_id, "urgt")}
        assert config["data.scenes"] == 6 and "commit" in config
        losses = {point["_step"]: point["loss"] for point in points if "loss" in point}
        assert losses == {start + 1: 0.5 * (start + 1), start + 2: 0.5 * (start + 2)}
        assert any("depth" in name for point in points for name in point)
