"""metrics.jsonl, the log of a run."""

import json
from typing import TextIO

from etils.epath import Path

from urgt_jax.distributed import report
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
            write_text(path, "".join(line + "\n" for line in _lines_until(path, step)))
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


def _lines_until(path: Path, step: int) -> list[str]:
    """The lines of the log up to a step. Damaged ones among them are left out and reported."""
    lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    steps = [_step_of(line) for line in lines]
    # The run may have been killed while it wrote its last line.
    known = [i for i, number in enumerate(steps) if number is not None and number <= step]
    end = known[-1] + 1 if known else 0
    damaged = [str(i + 1) for i in range(end) if steps[i] is None]
    if damaged:
        report(f"{path}: removed damaged lines ({', '.join(damaged)}). The run is not affected")
    return [lines[i] for i in known]


def _step_of(line: str) -> float | None:
    """The step of a line; None if the line is damaged."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None
