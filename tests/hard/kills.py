"""Kills commands at random moments, and compares their files in the end with a run left alone."""

import contextlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import jax
from etils.epath import Path
from helpers import miniature_sets
from helpers.command import config_file
from helpers.micro import MICRO
from helpers.processes import connecting_options, start_python

from urgt_jax.commands import priors
from urgt_jax.config import Prior
from urgt_jax.config_files import with_changes
from urgt_jax.data.scenes.export import write_scene
from urgt_jax.progress import Progress
from urgt_jax.training.step import initial_params
from urgt_jax.weights.weight_file import save_weights

TWO_PROCESSES = 5  # every fifth kill of training is one of two processes
AT_ONCE = 2  # commands that are tried side by side
COLD = 0.2  # of the starts compile: the others read what the first run has compiled
TIMEOUT = 600  # seconds that a command may take
SHORTER = 0.8  # of the expected time, after a run that ended before it was killed
MOST_PROBLEMS = 10  # of a command, which is not tried further then
# One output compiles faster than two. Logs and checkpoints are of different steps.
CHANGES = {
    "model.outputs": ("depth",),
    "data.batch": 2,
    "data.mix": (0.0, 1.0, 0.0, 0.0),
    "optim.steps": 20,
    "train.save_every": 2,
    "train.log_every": 3,
}
CONFIG = with_changes(MICRO, CHANGES)
# Files that differ between two runs left alone: they hold times, or belong to a process.
VOLATILE = ("goodput.json", ".lock", "compiled", "checkpoints", "provenance")
# Of a line of metrics.jsonl: what was measured, and the checksum that covers it.
MEASURED = re.compile(r"\w+_(per_second|wait|gb)|mfu|checksum")
STACK_TRACE = re.compile("@ +0x")  # of JAX's own libraries
DATE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC")  # of a report


class Command(NamedTuple):
    """A command that is killed, and where it writes."""

    name: str
    words: list  # of the command line, without the folder
    option: str  # that names the folder
    processes: int = 1
    programs: Path | None = None  # folder of its compiled programs


class Outcome(NamedTuple):
    """How often a command was killed, and how often inside a write."""

    name: str
    kills: int
    inside_writes: int
    problems: list[str]

    def tried(self) -> str:
        """The cell of the table."""
        return f"{self.kills} of {self.name}, {self.inside_writes} inside a write"


def commands(folder: Path) -> list[Command]:
    """All commands, with their data."""
    source = miniature_sets.unreal4k(folder / "source", (135, 240), frames=9)
    photos = folder / "photos"
    photos.mkdir()
    miniature_sets.measured(photos, 16, (120, 160))
    with contextlib.redirect_stderr(io.StringIO()):
        priors.main(["--data", "folder", str(photos), "--degrade", "middle"])
    # Files, since the renderer of scenes would take most of the time of a short run.
    data = replace(CONFIG.data, source="folder", path=str(photos))
    train = ["train", config_file(replace(CONFIG, data=data), folder)]
    maps = miniature_sets.perfect_predictions(photos, folder / "maps")
    weights = folder / "weights.safetensors"
    save_weights(weights, jax.device_get(initial_params(CONFIG.model, 0)), CONFIG)
    images = folder / "images"
    images.mkdir()
    for number in range(8):
        write_scene(images, f"photo{number}", number, "test", (96, 140), Prior())
    data = ["--data", "folder", photos]
    return [
        Command("prepare", ["prepare", "unreal4k", "--workers", 2, "--source", source], "--out"),
        Command("priors", ["priors", *data, "--degrade", "middle"], "--out"),
        Command("eval", ["eval", "--predictions", maps, "--kind", "depth", *data], "--out"),
        Command("refine", ["refine", images, "--weights", weights], "--out"),
        Command("train", train, "--workdir", programs=folder / "programs"),
        Command(
            "train, two processes",
            [*train, "--mesh.data", 2],
            "--workdir",
            processes=2,
            programs=folder / "programs_of_two",
        ),
    ]


def start(command: Command, out: Path, cold: bool = False) -> list[subprocess.Popen]:
    """The processes of a command; one that is killed does not take its workers with it."""
    words = ["-m", "urgt_jax", *command.words, command.option, out]
    if command.programs and not cold:
        words += ["--cache", command.programs]
    return [start_python(*words, *options) for options in connecting_options(command.processes)]


def finish(command: Command, out: Path) -> tuple[str, float]:
    """Run a command to its end; returns what it printed if it failed, and the seconds it took."""
    begin = time.monotonic()
    processes = start(command, out)
    outputs = [wait(process) for process in processes]
    failed = any(process.returncode for process in processes)
    return "".join(outputs) if failed else "", time.monotonic() - begin


def wait(process: subprocess.Popen) -> str:
    """What a process has printed until its end; one that hangs is killed, and the text says so."""
    try:
        return process.communicate(timeout=TIMEOUT)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return f"{process.communicate()[0]} Traceback: none, it hangs"


def contents(out: Path) -> dict[str, bytes]:
    """The files that a command has written, by name, without times."""
    found = {}
    for folder, folders, files in os.walk(out):
        folders[:] = [name for name in folders if not name.startswith(VOLATILE)]
        for name in files:
            if not name.startswith(VOLATILE):
                path = Path(folder) / name
                content = path.read_bytes()
                if name == "metrics.jsonl":
                    content = without_measurements(content)
                found[str(path.relative_to(out))] = DATE.sub(b"", content)
    return found


def without_measurements(log: bytes) -> bytes:
    """A metrics.jsonl without rates, waits and memory, which no two runs have in common."""
    lines = []
    for line in log.splitlines():
        values = json.loads(line)
        kept = {name: value for name, value in values.items() if not MEASURED.fullmatch(name)}
        lines.append(json.dumps(kept).encode())
    return b"\n".join(lines)


def is_writing(out: Path) -> bool:
    """Whether a file or a checkpoint is half-written now."""
    for folder, folders, files in os.walk(out):
        names = [*folders, *files]
        if any("tmp" in name for name in names) and not folder.endswith("compiled"):
            return True
    return False


def kill_once(
    command: Command, out: Path, seconds: float, draw: random.Random, inside: bool
) -> tuple[bool, bool, str]:
    """Start and kill a command: whether it was killed, inside a write, and what went wrong."""
    processes = start(command, out, cold=draw.random() < COLD)
    deadline = time.monotonic() + draw.uniform(0.3, 1.1) * seconds
    writing = False
    while time.monotonic() < deadline and processes[0].poll() is None:
        if inside and is_writing(out) and draw.random() < 0.2:
            writing = True
            break
        time.sleep(0.002)
    victim = draw.choice(processes)
    victim.kill()
    outputs = [wait(process) for process in processes]
    killed = victim.returncode == -signal.SIGKILL
    problem = ""
    if killed and len(processes) == 2:
        survivor = 1 - processes.index(victim)
        other = outputs[survivor]
        # It may have finished the run before it missed the victim.
        has_line = "error: " in other or processes[survivor].returncode == 0
        if not has_line or "Traceback" in other or STACK_TRACE.search(other):
            problem = f"the other process ended without one clear line: {other[-300:]}"
    for output in outputs:
        if "Traceback" in output:
            problem = f"a traceback: {output[-300:]}"
    return killed, writing, problem


def try_command(
    command: Command, folder: Path, kills: int, draw: random.Random, report_kill: Callable[[], None]
) -> Outcome:
    """Kill a command that often, let it end each time it has come far, and compare the files."""
    out = folder / command.name / "out"  # the same for all kills, since a report holds the command
    failure, seconds = finish(command, out)
    if failure:
        return Outcome(command.name, 0, 0, [f"{command.name} fails by itself: {failure[-300:]}"])
    expected = contents(out)
    shutil.rmtree(out)
    problems = []
    count = inside_writes = 0
    while count < kills and len(problems) < MOST_PROBLEMS:
        killed, writing, problem = kill_once(command, out, seconds, draw, inside=count % 2 == 0)
        if killed:
            count += 1
            report_kill()
        inside_writes += killed and writing
        if problem:
            problems.append(f"{command.name}: {problem}")
        if killed and count < kills and draw.random() < 0.7:
            continue  # kill what it resumes, too
        if not killed:
            seconds *= SHORTER
        failure, _ = finish(command, out)
        if failure:
            problems.append(f"{command.name} does not resume: {failure[-300:]}")
        found = contents(out)
        names = [name for name in expected | found if expected.get(name) != found.get(name)]
        if names:
            problems.append(f"{command.name}: these files differ: {names[:5]}")
        shutil.rmtree(out)
    return Outcome(command.name, count, inside_writes, problems)


def number_of_kills(command: Command, kills: int, others: int) -> int:
    """How often a command is killed: `kills` of training, `others` of each other command."""
    if not command.name.startswith("train"):
        return others
    share = kills // TWO_PROCESSES
    return share if command.processes > 1 else kills - share


def run(
    folder: Path, kills: int, others: int, names: list[str] | None, seed: int
) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Rows for the table, of all commands or of those with these names, and what went wrong."""
    rows = []
    problems = []
    chosen = [command for command in commands(folder) if not names or command.name in names]
    counts = [number_of_kills(command, kills, others) for command in chosen]
    progress = Progress("SIGKILLs", sum(counts))
    done = itertools.count(1)
    lock = threading.Lock()

    def report_kill() -> None:
        with lock:
            progress.update(next(done))

    jobs = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for command, count in reversed(list(zip(chosen, counts, strict=True))):  # the longest first
            draw = random.Random(seed)
            jobs.append(pool.submit(try_command, command, folder, count, draw, report_kill))
    for job in reversed(jobs):
        outcome = job.result()
        text = f"{len(outcome.problems)} problems" if outcome.problems else "all files the same"
        rows.append(("SIGKILL", outcome.tried(), text))
        problems += outcome.problems
    return rows, problems
