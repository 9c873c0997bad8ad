"""What an evaluation has scored so far, on disk, so that it goes on where it was stopped."""

import base64
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from urgt_jax.config import Config
from urgt_jax.config_files import flatten
from urgt_jax.data.priors import stored
from urgt_jax.data.sources import default_split, priors_folder
from urgt_jax.evaluation.candidates import RefinerCandidates, SavedPredictions
from urgt_jax.files import reporting_write_errors
from urgt_jax.weights.weight_file import flatten_params

FILE = "scored.jsonl"
COUNTS = np.dtype("<i8")  # on disk
Scores = dict[str, dict[str, float]]  # "depth" and "normal" -> metric -> value


class Entry(NamedTuple):
    """What is noted of a scored picture; its maps are not."""

    name: str
    size: tuple[int, int]  # of the truth, pixels
    scores: dict[str, Scores]  # by side
    angles: dict[str, str]  # by side, how many pixels' normals err by how much, packed


def pack_counts(counts: np.ndarray) -> str:
    """Whole numbers, most of them 0, as a short text."""
    return base64.b64encode(zlib.compress(counts.astype(COUNTS).tobytes(), 1)).decode()


def unpack_counts(text: str) -> np.ndarray:
    """The numbers of such a text."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), COUNTS)


class ScoreJournal:
    """A file of lines: the first tells what is scored, each other one is an entry.

    What an evaluation of something else has begun is of no use, and is removed.
    """

    def __init__(self, folder: Path, told: dict):
        self.path, self.head = folder / FILE, _line(told)
        self.entries: dict[str, Entry] = {}
        self.end = 0  # bytes of the file that are of use
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        with self.path.open("rb") as file:
            head = file.readline()
            if head != self.head:
                why = _difference(head, self.head)
                print(f"{self.path} is of another evaluation ({why}): starting anew")
                self.remove()
                return
            self.end = len(head)
            for line in file:
                try:
                    entry = _entry(line)
                except (ValueError, TypeError, zlib.error):  # cut off in the middle of a write
                    return
                self.entries[entry.name] = entry
                self.end += len(line)

    def add(self, entry: Entry) -> None:
        """Notes a picture, over whatever is of no use in the file."""
        text = (b"" if self.end else self.head) + _line(entry._asdict())
        with reporting_write_errors(self.path), self.path.open("ab") as file:
            file.truncate(self.end)
            file.write(text)
        self.end += len(text)

    def remove(self) -> None:
        """Ends the journal of what is finished, so that the next evaluation measures anew."""
        with reporting_write_errors(self.path):
            self.path.unlink(missing_ok=True)


def _line(told: dict) -> bytes:
    return json.dumps(told).encode() + b"\n"


def _entry(line: bytes) -> Entry:
    """The entry of a line; fails where a part of it is missing or damaged."""
    if not line.endswith(b"\n"):
        raise ValueError("a line without an end")
    entry = Entry(**json.loads(line))
    for text in entry.angles.values():
        unpack_counts(text)
    return entry._replace(size=tuple(entry.size))


def _difference(head: bytes, own: bytes) -> str:
    """In which of the things that scores depend on two first lines differ."""
    try:
        theirs, ours = (flatten(json.loads(line)) for line in (head, own))
    except (ValueError, AttributeError):
        return "its first line is damaged"
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return f"differs in {', '.join(names)}"


def evaluation_identity(subject: RefinerCandidates | SavedPredictions, config: Config) -> dict:
    """All that scores depend on: the program, the maps, the data, and how they are compared.

    Of the data it knows the files in their folder itself, not in folders inside it.
    """
    told = {name: dataclasses.asdict(getattr(config, name)) for name in ("model", "prior", "data")}
    how = dataclasses.asdict(config.eval)
    told["eval"] = {name: x for name, x in how.items() if name not in ("images", "examples")}
    for name in ("path", "priors_path"):
        told["data"][name] = told["data"][name] and str(Path(told["data"][name]).absolute())
    told["data"]["files"] = _times(Path(config.data.path).glob("*")) if config.data.path else ""
    program = {"program": _program(), "jax": jax.__version__, "backend": jax.default_backend()}
    return program | _maps(subject, config) | told


def _maps(subject: RefinerCandidates | SavedPredictions, config: Config) -> dict[str, object]:
    """Who made the maps that are scored."""
    if isinstance(subject, SavedPredictions):
        folder = subject.folder.absolute()
        files = (folder / name for name in subject.files)
        return {"predictions": str(folder), "maps": _times(files), "scale": subject.scale}
    found, data = {"weights": _parameters(subject.refiner.params)}, config.data
    if data.path:
        folder = priors_folder(data.path, default_split(data.source, data.split), data.priors_path)
        found["coarse maps"] = _digest((folder / stored.ORIGIN_FILE).read_bytes())
    return found


@cache
def _program() -> str:
    """A digest of this package's text: scores of two versions of a metric are not to be mixed."""
    return _digest(*(path.read_bytes() for path in sorted(Path(__file__).parents[1].rglob("*.py"))))


def _times(paths: Iterable[Path]) -> str:
    """A digest of names, sizes and times of files in a folder, without the journal itself."""
    files = sorted(path for path in paths if path.is_file() and path.name != FILE)
    stats = [(path.name, path.stat()) for path in files]
    return _digest(*(f"{name!r} {x.st_size} {x.st_mtime_ns}\n".encode() for name, x in stats))


def _parameters(params: dict) -> str:
    """A digest of all weights, one after the other, so that a large model is not held twice."""
    digest = hashlib.blake2b(digest_size=16)
    for name, x in flatten_params(params).items():
        x = np.ascontiguousarray(x)
        digest.update(f"{name} {x.dtype} {x.shape}\n".encode())
        digest.update(x.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _digest(*parts: bytes) -> str:
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()
