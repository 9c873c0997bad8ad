"""metrics.jsonl, the log of a run.

Every line holds its number and a checksum, so that missing and changed lines are noticed.
"""

import contextlib
import json
from typing import BinaryIO

from etils.epath import Path

from urgt_jax.distributed import report
from urgt_jax.files import (
    open_to_append,
    parse_json,
    reporting_write_errors,
    seal,
    unseal,
    write_text,
)


class MetricsLog:
    """Appends lines to metrics.jsonl.

    When a run is resumed at `step`, the lines of later steps are removed first: they will be
    written again. `logged` is the last step that must have a line by then. Only one process of a
    run writes.
    """

    def __init__(self, workdir: Path, step: int, writes: bool = True, logged: int = 0):
        self.path = workdir / "metrics.jsonl"
        self.file: BinaryIO | None = None
        self.lines = 0
        if not writes:
            return
        contents = _read(self.path, step, logged) if self.path.exists() else []
        if self.path.exists():
            write_text(self.path, "".join([self._seal(values) for values in contents]))
        self.file = open_to_append(self.path)

    def write(self, step: int, values: dict[str, float | list[int]]) -> None:
        """Append a line with the values of a step."""
        if self.file is None:
            return
        with reporting_write_errors(self.path):
            self.file.write(self._seal({"step": step, **values}).encode())
            self.file.flush()

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            # An error was reported by `write` already.
            with contextlib.suppress(OSError):
                self.file.close()

    def _seal(self, values: dict) -> str:
        """The values as the next line."""
        self.lines += 1
        return json.dumps(seal(values | {"line": self.lines})) + "\n"


def _read(path: Path, step: int, logged: int) -> list[dict]:
    """The values of the lines up to a step, without damaged ones; reports what is wrong."""
    content = path.read_bytes()
    texts = content.split(b"\n")
    texts.pop()  # nothing, or a line that the run was killed in
    lines = [_parse(text) for text in texts]
    contents = []
    end = 0  # number of the last line that stays; what follows is written again
    for number, values in enumerate(lines, 1):
        if values is not None and values["step"] <= step:
            contents.append(values)
            end = number
    damaged = [str(number) for number, values in enumerate(lines[:end], 1) if values is None]
    last_line = contents[-1]["line"] if contents else 0
    last_step = contents[-1]["step"] if contents else 0
    missing = last_line - len(contents) - len(damaged)  # below 0 if lines are duplicated
    problems = []
    if damaged:
        problems.append(f"damaged lines ({', '.join(damaged)}) were removed")
    if missing:
        problems.append(f"{abs(missing)} lines are missing or duplicated")
    if last_step < logged:
        problems.append(f"the lines of steps {last_step + 1} to {logged} are missing")
    if problems:
        report(
            f"{path}: {'; '.join(problems)}. The run itself is not affected. For a complete log, "
            "restore a copy of the file, or train in another --workdir"
        )
    for values in contents:
        del values["line"]
    return contents


def _parse(text: bytes) -> dict | None:
    """The values of a line; None if it is damaged."""
    try:
        values = unseal(parse_json(text))
    except ValueError:  # also for bytes that are not UTF-8
        return None
    if isinstance(values.get("step"), int) and isinstance(values.get("line"), int):
        return values
    return None
