"""Checks and measures everything on a GPU, in a few minutes: `make gpu-check`.

Each part is an ordinary command with a time limit of its own, the most telling first. What is known
is written after every part: gpu-check.json has all figures, gpu-check.md one table. Parts for which
no time is left are named.
"""

import argparse
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from etils.epath import Path

ROOT = Path(__file__).parents[1]
DEFAULT_OUT = ROOT / "runs/gpu-check"  # emptied first
URGT = [sys.executable, "-m", "urgt_jax"]
PYTEST = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
VERSIONS = """
import json, flax, jax, jaxlib
device = jax.devices()[0]
print(json.dumps({"jax": jax.__version__, "jaxlib": jaxlib.__version__, "flax": flax.__version__,
    "device": device.device_kind, "platform": device.platform, "devices": jax.device_count(),
    "backend": device.client.platform_version}))
"""


@dataclass
class Size:
    """What is measured: the full model on a GPU, or a small one that only tests the parts."""

    model: str
    dtypes: list[str]
    patches: list[int]
    many: int  # patches of a large image, measured twice and with pooled keys
    training_patches: list[int]
    image: tuple[int, int]  # height and width of the image that is refined, pixels
    steps: int  # of the training run


SIZES = {
    "large": Size(
        "large", ["bfloat16", "bfloat16-all"], [1, 16, 64], 121, [16, 4, 1], (2160, 3840), 100
    ),
    "tiny": Size("tiny", ["bfloat16"], [1, 4], 9, [1, 4], (270, 480), 4),
}


@dataclass
class Part:
    """A command, its time limit, and how its figures are read from its output and its files."""

    name: str
    command: list[str]
    seconds: int
    read: Callable[[str], list[dict]]


def read_tests(output: str) -> list[dict]:
    """The last line of pytest: what passed, failed and was skipped."""
    lines = [line for line in output.splitlines() if " in " in line and re.search(r"\d+ \w+", line)]
    return [{"tests": lines[-1].strip("= ")}] if lines else []


def read_json_line(output: str) -> list[dict]:
    """The last line, which is a JSON object."""
    return [json.loads(output.strip().splitlines()[-1])]


def read_table(path: Path, columns: tuple[str, ...]) -> Callable[[str], list[dict]]:
    """A reader of some columns of a CSV file."""

    def read(_: str) -> list[dict]:
        if not path.exists():
            return []
        with path.open() as file:
            rows = list(csv.DictReader(file))
        return [{name: row[name] for name in columns if row[name]} for row in rows]

    return read


def read_lines(pattern: str) -> Callable[[str], list[dict]]:
    """A reader of the named groups of every line that matches."""

    def read(output: str) -> list[dict]:
        return [match.groupdict() for match in re.finditer(pattern, output)]

    return read


def read_training(path: Path) -> Callable[[str], list[dict]]:
    """A reader of the last line of a run's metrics, and of how long its step was compiled."""

    def read(output: str) -> list[dict]:
        figures = {"compiled": re.findall(r"compiled in [^\n]*", output)}
        if path.exists() and path.read_text().strip():
            metrics = json.loads(path.read_text().strip().splitlines()[-1])
            for name in ("step", "images_per_second", "data_wait", "memory_gb", "mfu"):
                if name in metrics:
                    figures[name] = metrics[name]
        return [figures]

    return read


FORWARD = (
    "size",
    "dtype",
    "patches",
    "pool",
    "compile_seconds",
    "encode_seconds",
    "attend_seconds",
    "heads_seconds",
    "peak_gb",
    "note",
)
STEP = (
    "size",
    "dtype",
    "patches",
    "remat",
    "compile_seconds",
    "seconds",
    "peak_gb",
    "temporary_gb",
    "gflops",
    "matmul_gflops",
    "chip_gflops",
)


def make_parts(size: Size, out: Path) -> list[Part]:
    """All parts, the most telling first."""
    forward = ["scale", "--what", "time", "--sizes", size.model, "--repeat", "5"]
    step = ["scale", "--train", "--sizes", size.model, "--repeat", "5"]
    counts = [str(count) for count in size.patches]
    training_counts = [str(count) for count in size.training_patches]
    scene = ["scene", "--seed", "0", "--degrade", "middle", "--size", *map(str, size.image)]
    refine = ["refine", str(out / "scene0.png"), "--out", str(out / "refined")]
    kernels = read_lines(
        r"(?P<kernel_ms>[\d.]+) ms +(?P<share>[\d.]+%) +(?P<calls>\d+) x (?P<kernel>.*)"
    )
    parts = [Part("versions", [sys.executable, "-c", VERSIONS], 60, read_json_line)]
    first, *others = training_counts
    for name, more in (("training step", [first]), ("smaller training steps", others)):
        table = out / f"{name.replace(' ', '-')}.csv"
        command = [*URGT, *step, "--patches", *more, "--dtype", size.dtypes[0]]
        command += ["--model.remat", "attention", "--out", str(table)]
        parts.append(Part(name, command, 120, read_table(table, STEP)))
    for dtype in size.dtypes:
        table = out / f"forward-{dtype}.csv"
        command = [*URGT, *forward, "--patches", *counts, "--dtype", dtype, "--out", str(table)]
        parts.append(Part(f"forward {dtype}", command, 100, read_table(table, FORWARD)))
    parts.append(Part("scene", [*URGT, *scene, "--out", str(out)], 60, read_lines("no figures")))
    times = read_lines(r"refined in (?P<refined>[^\n]*), \S+_\*")
    cache = ["--cache", str(out / "refine-cache")]
    for name in ("refine, cold", "refine again"):
        parts.append(Part(name, [*URGT, *refine, *cache], 90, times))
    tests = "tests/models/test_attention.py tests/training/test_step.py".split()
    command = [*PYTEST, *tests, "-k", "definition or accelerator"]
    parts.append(Part("attention and a step against the CPU", command, 90, read_tests))
    command = [*PYTEST, "tests/models", "tests/inference", "-k", "released and not small"]
    parts.append(Part("parity with golden arrays", command, 150, read_tests))
    for pool in ("1", "2"):
        table = out / f"forward-many-pool{pool}.csv"
        command = [*URGT, *forward[:-1], "2", "--patches", str(size.many), "--pool", pool]
        command += ["--dtype", size.dtypes[0], "--out", str(table)]
        name = f"forward of {size.many}, pool {pool}"
        parts.append(Part(name, command, 80, read_table(table, FORWARD)))
    run = out / "run"
    command = [*URGT, "train", "tiny", "--workdir", str(run), "--optim.steps", str(size.steps)]
    command += ["--train.log_every", str(max(size.steps // 4, 1)), "--model.dtype", "bfloat16"]
    parts.append(Part("train tiny", command, 90, read_training(run / "metrics.jsonl")))
    command = [*PYTEST, "tests/training/test_kill_and_resume.py"]
    parts.append(Part("same bits, killed and resumed", command, 150, read_tests))
    command = [*URGT, *forward[:-1], "1", "--patches", counts[-1], "--dtype", size.dtypes[0]]
    command += ["--out", str(out / "profiled.csv"), "--profile", str(out / "profile-of-a-pass")]
    parts.append(Part("profile of a pass", command, 90, kernels))
    command = [*URGT, *step[:-1], "1", "--patches", first, "--dtype", size.dtypes[0]]
    command += ["--model.remat", "attention", "--profile", str(out / "profile-of-a-step")]
    parts.append(Part("profile of a step", command, 90, kernels))
    return parts


def run_part(part: Part, out: Path, seconds: float) -> dict:
    """Runs a part for at most that long; its output goes into a log of its own."""
    log = out / f"{re.sub(r'[^a-z0-9]+', '-', part.name)}.log"
    start = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            part.command,
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = str(process.wait(timeout=seconds))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = f"stopped after {seconds:.0f} s"
    try:
        figures = part.read(log.read_bytes().decode(errors="replace"))
    except (ValueError, IndexError) as error:
        figures = [{"unreadable": str(error)}]
    return {
        "part": part.name,
        "command": " ".join(part.command).replace(sys.executable, "python"),
        "status": "ok" if status == "0" else status,
        "seconds": round(time.monotonic() - start, 1),
        "figures": figures,
        "log": log.name,
    }


def write_results(results: list[dict], out: Path) -> None:
    """All results so far, as JSON and as a table."""
    (out / "gpu-check.json").write_text(json.dumps(results, indent=2) + "\n")
    lines = ["| Part | Status | Seconds | Figures |", "|---|---|---|---|"]
    for result in results:
        figures = []
        for row in result["figures"]:
            figures.append(", ".join(f"{name} {shorten(value)}" for name, value in row.items()))
        text = "<br>".join(figures).replace("|", "\\|")
        lines.append(f"| {result['part']} | {result['status']} | {result['seconds']} | {text} |")
    (out / "gpu-check.md").write_text("\n".join(lines) + "\n")


def shorten(value: object) -> str:
    """A number with four digits; anything else as it is."""
    try:
        return f"{float(value):.4g}"
    except (TypeError, ValueError):
        return str(value)


def main() -> int:
    """Runs all parts; 0 if every one of them is well, and 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--platform", default="cuda", help="cuda, or cpu to try the parts")
    parser.add_argument("--size", choices=SIZES, default="large")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--minutes", type=float, default=8, help="time for all parts together")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="parts whose name has a word")
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = f"{args.platform},cpu" if args.platform != "cpu" else "cpu"
    out = args.out.absolute()
    if args.out == DEFAULT_OUT:
        shutil.rmtree(out, ignore_errors=True)
    if out.exists() and any(out.iterdir()):
        print(f"error: {out} is not empty: choose another --out")
        return 2
    out.mkdir(parents=True, exist_ok=True)
    # Cold: nothing that was compiled before counts. Parts share what is compiled here.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(out / "compiled")
    end = time.monotonic() + 60 * args.minutes
    results = []
    for part in make_parts(SIZES[args.size], out):
        if args.only and not any(word in part.name for word in args.only):
            continue
        left = end - time.monotonic()
        if left < 5:
            print(f"{part.name}: no time left", flush=True)
            results.append(
                {"part": part.name, "status": "no time left", "seconds": 0, "figures": []}
            )
            continue
        result = run_part(part, out, min(part.seconds, left))
        results.append(result)
        write_results(results, out)
        print(f"{part.name}: {result['status']}, {result['seconds']} s", flush=True)
        if part.name == "versions" and result["status"] != "ok":
            print(
                f"error: there is no {args.platform} device here, or JAX does not find it: see "
                f"{out / result['log']}. To try the parts: make gpu-check PLATFORM=cpu SIZE=tiny"
            )
            return 2
    write_results(results, out)
    print((out / "gpu-check.md").read_text())
    return 0 if all(result["status"] == "ok" for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
