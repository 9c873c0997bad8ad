"""`make gpu-check`, on a CPU."""

import json
import subprocess
import sys

import gpu_check
import pytest
from etils.epath import Path
from gpu_check import Part, read_lines, run_part

ROOT = Path(__file__).parents[1]


def run_check(out, *options) -> list[dict]:
    """The results of the check on a CPU."""
    command = [sys.executable, ROOT / "tests/gpu_check.py", "--platform", "cpu", "--size", "tiny"]
    command += ["--out", out, *options]
    process = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return json.loads((out / "gpu-check.json").read_text())


def test_check_writes_the_figures_of_each_part(tmp_path):
    versions, scene, forward = run_check(tmp_path, "--only", "versions", "scene", "of 9, pool 2")
    assert versions["figures"][0]["platform"] == "cpu" and scene["status"] == "ok"
    (row,) = forward["figures"]
    assert row["patches"] == "9" and row["pool"] == "2" and float(row["attend_seconds"]) > 0
    assert "--pool 2" in forward["command"]
    table = (tmp_path / "gpu-check.md").read_text()
    assert len(table.splitlines()) == 5 and "| forward of 9, pool 2 | ok |" in table


@pytest.mark.slow
def test_every_part_of_the_check_works(tmp_path):
    results = run_check(tmp_path, "--minutes", "20")
    assert [result["part"] for result in results if not result["figures"]] == ["scene"]


def test_part_that_takes_too_long_is_stopped_and_keeps_its_figures(tmp_path):
    program = "import time; print('3.5 s', flush=True); time.sleep(99)"
    part = Part("slow part", [sys.executable, "-c", program], 60, read_lines(r"(?P<s>[\d.]+) s"))
    result = run_part(part, tmp_path, 3)
    assert result["status"] == "stopped after 3 s" and result["figures"] == [{"s": "3.5"}]


def test_without_the_device_the_check_says_so(tmp_path, monkeypatch, capsys):
    options = ["--platform", "nowhere", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *options])
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    assert gpu_check.main() == 2
    assert "error: there is no nowhere device here" in capsys.readouterr().out
