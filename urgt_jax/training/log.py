"""metrics.jsonl, the log of a run.

Every line holds its number and a checksum, so that missing and changed lines are noticed.
"""

import json
from typing import BinaryIO

from etils.epath import Path

from urgt_jax.distributed import report
from urgt_jax.files import open_to_append, parse_json, seal, unseal, write_text


class MetricsLog:
    """Appends lines to metrics.jsonl.

    When a run is resumed at `step`, the lines of later steps are removed first: they will be
    written again. `logged` is the last step that must have a line by then. Only one process of a
    run writes.
    """

    def __init__(self, workdir: Path, step: int, writes: bool = True, logged: int = 0):
        self.file: BinaryIO | None = None
        self.lines = 0
        if not writes:
            return
        path = workdir / "metrics.jsonl"
        contents = _read(path, step, logged) if path.exists() else []
        if path.exists():
            write_text(path, "".join([self._seal(values) for values in contents]))
        self.file = open_to_append(path)

    def write(self, step: int, values: dict[str, float | list[int]]) -> None:
        """Append a line with the values of a step."""
        if self.file is None:
            return
        self.file.write(self._seal({"step": step, **values}).encode())
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
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
    # Whatever follows the last line of an earlier step is written again.
    kept = [i for i, values in enumerate(lines) if values is not None and values["step"] <= step]
    end = kept[-1] + 1 if kept else 0
    numbers = [str(i + 1) for i in range(end) if lines[i] is None]
    contents = [lines[i] for i in kept]
    problems = []
    if numbers:
        problems.append(f"damaged lines ({', '.join(numbers)}) were removed")
    count = contents[-1]["line"] if contents else 0
    last = contents[-1]["step"] if contents else 0
    if count != len(contents) + len(numbers):
        problems.append(
            f"{abs(count - len(contents) - len(numbers))} lines are missing or duplicated"
        )
    if last < logged:
        problems.append(f"the lines of steps {last + 1} to {logged} are missing")
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
