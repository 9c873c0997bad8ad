"""The journal of an evaluation: what has been scored so far, so that it can resume."""

import base64
import dataclasses
import hashlib
import json
import os
import pathlib
import zlib
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import jax
import numpy as np
from etils.epath import Path
from jaxtyping import Int

from urgt_jax.config import Config
from urgt_jax.config_files import flatten
from urgt_jax.data.priors import stored
from urgt_jax.data.sources import default_split, priors_folder
from urgt_jax.errors import printable
from urgt_jax.evaluation.candidates import CandidateSource, RefinerCandidates, SavedPredictions
from urgt_jax.files import (
    find_paths,
    open_to_append,
    parse_json,
    reporting_write_errors,
    seal,
    unseal,
)
from urgt_jax.remote import absolute, is_remote
from urgt_jax.weights.weight_file import flatten_params

JOURNAL = "scored.jsonl"
PACKAGE = pathlib.Path(__file__).parents[1]
MAX_COUNT_BYTES = 1 << 24  # of the unpacked counts of an image, far more than there are angles
COUNT_DTYPE = np.dtype("<i8")  # of packed counts
Scores = dict[str, dict[str, float]]  # "depth" and "normal" -> metric -> value


class JournalEntry(NamedTuple):
    """The scores of one image, without its maps."""

    name: str
    size: tuple[int, int]  # of the ground truth, pixels
    scores: dict[str, Scores]  # by candidate
    angle_counts: dict[str, str]  # by candidate: pixels by the error of their normals, packed
    scene: str = ""  # that the image shows; empty: the data set has no scenes
    normals: str = ""  # what normals were compared with: "true" or "pseudo"; empty: nothing


def pack_counts(counts: Int[np.ndarray, "N"]) -> str:
    """Integers, most of them 0, as a short text."""
    compressed = zlib.compress(counts.astype(COUNT_DTYPE).tobytes(), 1)
    return base64.b64encode(compressed).decode()


def unpack_counts(text: str) -> Int[np.ndarray, "N"]:
    """The integers that `pack_counts` packed; a ValueError if there are absurdly many."""
    decompressor = zlib.decompressobj()
    content = decompressor.decompress(base64.b64decode(text), MAX_COUNT_BYTES)
    if decompressor.unconsumed_tail or not decompressor.eof:
        raise ValueError("the counts are damaged")
    return np.frombuffer(content, COUNT_DTYPE)


class ScoreJournal:
    """A file whose first line identifies the evaluation; every other line is an entry.

    The journal of another evaluation is removed.
    """

    def __init__(self, folder: Path, identity: dict):
        self.path = folder / JOURNAL
        self.header = json_line(identity)
        self.entries: dict[str, JournalEntry] = {}
        self.valid_bytes = 0  # length of the valid part of the file
        if self.path.exists():
            self.read()

    def read(self) -> None:
        """Read the entries up to the first damaged one."""
        with self.path.open("rb") as file:
            header = file.readline()
            if header != self.header:
                reason = header_difference(header, self.header)
                print(f"{self.path} belongs to another evaluation ({reason}): starting over")
                self.remove()
                return
            self.valid_bytes = len(header)
            for line in file:
                try:
                    entry = parse_entry(line)
                except (ValueError, TypeError, zlib.error):
                    if line.endswith(b"\n"):  # else its write was interrupted
                        print(
                            f"{self.path}: line {len(self.entries) + 2} is damaged; it and those "
                            "after it are scored again"
                        )
                    return
                self.entries[entry.name] = entry
                self.valid_bytes += len(line)

    def add(self, entry: JournalEntry) -> None:
        """Append an entry, replacing a damaged end of the file."""
        line = json_line(seal(entry._asdict()))
        if self.valid_bytes == 0:
            line = self.header + line
        with reporting_write_errors(self.path), open_to_append(self.path) as file:
            file.truncate(self.valid_bytes)
            file.write(line)
        self.valid_bytes += len(line)

    def remove(self) -> None:
        """Delete the file, so that the next evaluation starts from the beginning."""
        with reporting_write_errors(self.path):
            self.path.unlink(missing_ok=True)


def json_line(value: dict) -> bytes:
    """The value as one line of JSON."""
    return json.dumps(value).encode() + b"\n"


def parse_entry(line: bytes) -> JournalEntry:
    """The entry in a line; fails if a part of it is missing or damaged."""
    if not line.endswith(b"\n"):
        raise ValueError("the line has no end")
    entry = JournalEntry(**unseal(parse_json(line)))
    for text in entry.angle_counts.values():
        unpack_counts(text)
    return entry._replace(size=tuple(entry.size))


def header_difference(header: bytes, expected: bytes) -> str:
    """How the identity in a journal differs from the expected one, in words."""
    try:
        content = parse_json(header)
    except ValueError:
        return "its first line is damaged"
    if not isinstance(content, dict):
        return "its first line is damaged"
    theirs = flatten(content)
    ours = flatten(json.loads(expected))
    names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    return printable(f"differs in {', '.join(names)}")


def evaluation_identity(source: CandidateSource, config: Config) -> dict:
    """All that the scores depend on: the program, the candidates, the data and the protocol.

    Files of the data set are covered only directly in its folder, not in folders inside it.
    """
    identity: dict[str, object] = {
        "program": program_digest(),
        "jax": jax.__version__,
        "backend": jax.default_backend(),
    }
    if isinstance(source, SavedPredictions):
        identity |= predictions_identity(source)
    if isinstance(source, RefinerCandidates):
        identity |= refiner_identity(source, config)
    identity["model"] = dataclasses.asdict(config.model)
    identity["prior"] = dataclasses.asdict(config.prior)
    data = dataclasses.asdict(config.data)
    for name in ("path", "priors_path"):
        if data[name]:
            data[name] = str(absolute(Path(data[name])))
    data["files"] = (
        files_digest(find_paths(Path(config.data.path), "*")) if config.data.path else ""
    )
    identity["data"] = data
    protocol = dataclasses.asdict(config.eval)
    del protocol["images"]  # the journal stays valid for more or fewer images
    identity["eval"] = protocol
    return identity


def predictions_identity(source: SavedPredictions) -> dict[str, object]:
    """The identity of saved maps: their folder, sizes, times and scale."""
    folder = absolute(source.folder)
    files = [folder / name for name in source.files.values()]
    return {
        "predictions": str(folder),
        "maps": files_digest(files),
        "scale": source.scale,
        "axes": source.axes,
    }


def refiner_identity(source: RefinerCandidates, config: Config) -> dict[str, object]:
    """The identity of a refiner: its weights and, for a data set, the origin of its priors."""
    identity: dict[str, object] = {"weights": params_digest(source.refiner.params)}
    data = config.data
    if data.path:
        split = default_split(data.source, data.split)
        origin = priors_folder(data.path, split, data.priors_path) / stored.ORIGIN_FILE
        identity["coarse maps"] = digest(origin.read_bytes())
    return identity


@cache
def program_digest() -> str:
    """A digest of this package's code: scores of different versions must not be mixed."""
    return digest(*(path.read_bytes() for path in sorted(PACKAGE.rglob("*.py"))))


def files_digest(paths: Iterable[Path]) -> str:
    """A digest of the names, sizes and times of files, without the journal itself."""
    lines = []
    for path in sorted(paths):
        if path.is_file() and path.name != JOURNAL:
            if is_remote(path):
                status = path.stat()  # s3:// has no times for epath
                version = f"{status.length} {status.mtime}"
            else:
                status = os.stat(path)  # in nanoseconds; epath's are in seconds
                version = f"{status.st_size} {status.st_mtime_ns}"
            lines.append(f"{path.name!r} {version}\n".encode())
    return digest(*lines)


def params_digest(params: dict) -> str:
    """A digest of all weights, one at a time, so that a large model is not copied whole."""
    hasher = hashlib.blake2b(digest_size=16)
    for name, x in flatten_params(params).items():
        x = np.ascontiguousarray(x)
        hasher.update(f"{name} {x.dtype} {x.shape}\n".encode())
        hasher.update(x.reshape(-1).view(np.uint8))
    return hasher.hexdigest()


def digest(*parts: bytes) -> str:
    """A short digest of bytes."""
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()
