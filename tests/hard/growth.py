"""Watches the memory of long work."""

import os
import subprocess
import tempfile
import time

from etils.epath import Path
from helpers import miniature_sets
from helpers.command import config_file
from helpers.processes import start_python

from tests.hard.kills import CONFIG
from urgt_jax.config_files import with_changes

MAX_GROWTH = 0.05  # of the memory in the second quarter, until the last
INTERVAL = 0.5  # seconds between two readings


def resident_bytes(process: int) -> float:
    """The memory of a process; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")]
    return float(sum(sizes))


def watch(words: list, first: Path) -> tuple[list[float], str]:
    """Run a command; its memory since the file `first` has content, and how it failed, if so."""
    sizes = []
    with tempfile.TemporaryFile("w+") as errors:
        streams = {"stdout": subprocess.DEVNULL, "stderr": errors}
        process = start_python("-m", "urgt_jax", *words, **streams)
        while process.poll() is None:
            # Once the work has begun: what was compiled before counts as no growth.
            if sizes or (first.exists() and first.stat().length > 0):
                sizes.append(resident_bytes(process.pid))
            time.sleep(INTERVAL)
        errors.seek(0)
        text = errors.read()
    failure = ""
    if process.returncode:
        failure = f"ended with status {process.returncode}: {text[-300:]}"
    return [size for size in sizes if size], failure


def row(name: str, words: list, first: Path) -> tuple[tuple[str, str, str], list[str]]:
    """The row of a command, and what is wrong with it."""
    sizes, failure = watch(words, first)
    if failure or not sizes:
        return ("memory", name, "failed"), [f"{name}: {failure or 'its memory was never read'}"]
    quarter = max(len(sizes) // 4, 1)
    early = sum(sizes[quarter : 2 * quarter]) / quarter
    late = sum(sizes[-quarter:]) / quarter
    text = f"{early / 1e6:.0f} MB in the second quarter, {late / 1e6:.0f} MB in the last"
    problems = [f"{name}: {text}"] if late > early * (1 + MAX_GROWTH) else []
    return ("memory", name, text), problems


def run(folder: Path, steps: int, images: int) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Rows for the table, and what went wrong."""
    config = with_changes(CONFIG, {"optim.steps": steps, "train.save_every": 500})
    photos = folder / "photos"
    photos.mkdir()
    miniature_sets.measured(photos, 1, (120, 160))
    for number in range(1, images):
        for ending in (".png", "_depth.npy"):
            os.link(photos / f"view0{ending}", photos / f"view{number}{ending}")
    maps = miniature_sets.perfect_predictions(photos, folder / "maps")
    train = ["train", config_file(config, folder), "--workdir", folder / "run"]
    data = ["--data", "folder", photos]
    score = ["eval", "--predictions", maps, "--kind", "depth", *data, "--out", folder / "scores"]
    rows = []
    problems = []
    trained = (f"train, {steps} steps", train, folder / "run" / "metrics.jsonl")
    scored = (f"eval, {images} images", score, folder / "scores" / "scored.jsonl")
    for name, words, first in (trained, scored):
        own_row, own_problems = row(name, words, first)
        rows.append(own_row)
        problems += own_problems
    return rows, problems
