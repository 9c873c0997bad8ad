"""Where the results of an evaluation come from: for the report and for provenance.json."""

import dataclasses
import json
import platform
import shlex
from datetime import UTC, datetime

import jax
from etils.epath import Path

import urgt_jax
from urgt_jax.commit import commit
from urgt_jax.config import Config
from urgt_jax.config_files import command_line_options, flatten
from urgt_jax.errors import import_extra
from urgt_jax.evaluation.figures import svg_bytes
from urgt_jax.evaluation.report.layers import HOME
from urgt_jax.evaluation.report.pages import TRAINING_CURVE
from urgt_jax.files import atomic_write, make_folder

# What an evaluation's identity says about the weights or the predictions, and its titles.
SCORED = {
    "weights": "checksum of the weights",
    "predictions": "predictions",
    "maps": "checksum of names, sizes and times",
}


def provenance_of(identity: dict, config: Config) -> dict[str, str]:
    """The checksum of what was scored, the configuration, the program, the date, the machine.

    `identity` is that of the evaluation.
    """
    facts = {}
    for key, title in SCORED.items():
        if key in identity:
            facts[title] = str(identity[key])
    facts["configuration"] = changed_fields(config)
    facts["program"] = f"urgt_jax {urgt_jax.__version__}, {commit()}, jax {jax.__version__}"
    facts["date"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    device = jax.devices()[0]
    facts["machine"] = (
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"{jax.device_count()} x {device.device_kind}"
    )
    return facts


def changed_fields(config: Config) -> str:
    """The fields of the configuration that differ from the defaults, as options."""
    default = flatten(dataclasses.asdict(Config()))
    fields = flatten(dataclasses.asdict(config))
    changed = {name: x for name, x in fields.items() if default.get(name) != x}
    return shlex.join(command_line_options(changed)) or "the defaults"


def write_training_curve(log: Path | None, out: Path) -> None:
    """Draw the loss in the metrics.jsonl of a run; without one, remove an earlier curve."""
    path = make_folder(out / HOME) / TRAINING_CURVE
    points = read_losses(log) if log is not None else []
    if len(points) < 2:
        path.unlink(missing_ok=True)
        return
    figure = import_extra("matplotlib.figure", "eval").Figure(figsize=(9, 3))
    axes = figure.subplots()
    steps, losses = zip(*points, strict=True)
    axes.plot(steps, losses, color="#2456d6")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_yscale("log" if min(losses) > 0 else "linear")
    axes.grid(alpha=0.3)
    with atomic_write(path) as file:
        file.write(svg_bytes(figure))


def read_losses(log: Path) -> list[tuple[int, float]]:
    """Step and loss of each line of a log that has both; damaged lines are left out."""
    if not log.is_file():
        return []
    points = []
    for line in log.read_bytes().decode("utf-8", "replace").splitlines():
        try:
            values = json.loads(line)
            points.append((int(values["step"]), float(values["loss"])))
        except (ValueError, TypeError, KeyError):
            continue
    return points
