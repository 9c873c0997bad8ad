"""metrics.jsonl, the log of a run."""

import json
import math
from typing import TextIO

from etils.epath import Path

from urgt_jax.files import write_text


class MetricsLog:
    """Appends lines to metrics.jsonl.

    When a run is resumed at `step`, the lines of later steps are removed first: they will be
    written again. Only one process of a run writes.
    """

    def __init__(self, workdir: Path, step: int, writes: bool = True):
        self.file: TextIO | None = None
        if not writes:
            return
        path = workdir / "metrics.jsonl"
        if path.exists():
            lines = path.read_text().splitlines()
            write_text(path, "".join(line + "\n" for line in lines if _step_of(line) <= step))
        self.file = path.open("a")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append a line with the values of a step."""
        if self.file is None:
            return
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf  # the run was killed while it wrote this line
