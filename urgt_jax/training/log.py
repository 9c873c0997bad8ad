"""metrics.jsonl, the log of a run."""

import json
import os
from pathlib import Path


class MetricsLog:
    """Appends to metrics.jsonl; lines later than `step`, of a run that was killed, are dropped."""

    def __init__(self, workdir: Path, step: int, writes: bool = True):
        self.path, self.file = workdir / "metrics.jsonl", None
        if not writes:
            return
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= step]
            part = self.path.with_suffix(".tmp")
            part.write_text("".join(line + "\n" for line in kept))
            os.replace(part, self.path)
        self.file = self.path.open("a")

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line of JSON; nothing in a process that does not write."""
        if self.file is None:
            return
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # cut off in the middle of a write
