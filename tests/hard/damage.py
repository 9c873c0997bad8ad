"""Changes every kind of file that is read back, and looks at what the program makes of it."""

import contextlib
import dataclasses
import io
import traceback
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from etils.epath import Path
from helpers import miniature_sets, torch_archive
from helpers.mutations import mutations

from urgt_jax.config import Config
from urgt_jax.config_files import flatten, from_json, to_json
from urgt_jax.data.priors.stored import StoredPriors, claim_folder
from urgt_jax.errors import UserError
from urgt_jax.evaluation.comparison import read_results
from urgt_jax.evaluation.report.layers import Layers, image_folder, read_contents, write_layers
from urgt_jax.evaluation.results import write_results
from urgt_jax.evaluation.resume import JournalEntry, ScoreJournal, pack_counts
from urgt_jax.files import read_text
from urgt_jax.training.log import MetricsLog
from urgt_jax.training.workdir import CHANGEABLE_FIELDS, claim
from urgt_jax.weights.tensor_files import open_tensors, write_safetensors
from urgt_jax.weights.tensors import tensor_of

SIZE = (24, 32)
OUTCOMES = ("rejected", "reported", "same result", "silent", "traceback")


class Kind(NamedTuple):
    """A kind of file, and how the program reads it."""

    name: str
    path: Path
    read: Callable[[], object]  # what it makes of the file, comparable


def kinds(folder: Path) -> list[Kind]:
    """All kinds, each with a sound file in the folder."""
    return [
        *weight_kinds(folder),
        *prior_kinds(folder),
        *run_kinds(folder),
        *prepared_kinds(folder),
    ]


def weight_kinds(folder: Path) -> list[Kind]:
    """Weight files, and PyTorch checkpoints."""
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(size=(16, 8)).astype(np.float32), "b": np.arange(64, dtype=np.int32)}
    tensors = {name: tensor_of(array) for name, array in arrays.items()}
    weights = folder / "weights.safetensors"
    write_safetensors(weights, tensors, {"urgt_jax": to_json(Config())})
    archive = torch_archive.write_state_dict(folder / "model.pth", arrays)

    def read(path: Path) -> object:
        file = open_tensors(path)
        contents = {name: tensor.read().tobytes() for name, tensor in file.tensors.items()}
        return contents, dict(file.metadata)

    return [
        Kind("weights.safetensors", weights, lambda: read(weights)),
        Kind(".pth", archive, lambda: read(archive)),
    ]


def prior_kinds(folder: Path) -> list[Kind]:
    """Stored coarse maps and their descriptions."""
    home = folder / "priors"
    home.mkdir()
    maps = {"model": "maps", "geometry": "centres"}
    origin = {"kind": "disparity", "max_depth": 80.0, "depth": maps, "normal": maps}
    stored = claim_folder(home, origin)
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 9, SIZE).astype(np.float32)
    normal = rng.normal(size=(*SIZE, 3)).astype(np.float32)
    stored.write("a", 1 / depth, normal, depth, depth > 0)

    def read() -> object:
        priors = StoredPriors(home)
        maps = [values.tobytes() for values in priors.read("a", SIZE)]
        return maps, priors.fit("a"), priors.kind, priors.max_depth

    names = ("a_depth.npy", "a_normal.npy", "a_fit.json", "priors.json")
    return [Kind(f"stored {name}", home / name, read) for name in names]


def run_kinds(folder: Path) -> list[Kind]:
    """Files of a training run and of an evaluation."""
    log = MetricsLog(folder, 0)
    for step in range(1, 31):
        log.write(step, {"loss": 1 / step, "depth": 0.1 * step})
    log.close()

    def read_log() -> object:
        MetricsLog(folder, 30, logged=30).close()
        return (folder / "metrics.jsonl").read_bytes()

    identity = {"program": "x"}
    journal = ScoreJournal(folder, identity)
    counts = pack_counts(np.arange(1000) % 7)
    for number in range(6):
        scores = {"refined": {"depth": {"rmse": 0.1 * number}, "normal": {}}}
        journal.add(JournalEntry(f"image{number}", SIZE, scores, {"refined": counts}))

    def read_journal() -> object:
        return ScoreJournal(folder, identity).entries

    claim(folder, Config())

    def read_config() -> object:
        claim(folder, Config())
        path = folder / "config.json"
        saved = from_json(Config, read_text(path, "configuration"), str(path))
        fields = flatten(dataclasses.asdict(saved))
        return {name: value for name, value in fields.items() if name not in CHANGEABLE_FIELDS}

    scores = {"depth": {"abs_rel": 0.1, "delta1": 0.9}, "normal": {"mean": 9.5}}
    rows = [{"name": f"image{number}", "refined": scores} for number in range(4)]
    write_results(folder, {"data": "x", "candidates": ["refined"], "per_image": rows})
    image = np.zeros((*SIZE, 3), np.uint8)
    valid = np.ones(SIZE, bool)
    write_layers(folder, "image0", Layers(image, {"refined": np.ones(SIZE)}, {}, valid, valid))

    def read_scores() -> object:
        results = read_results(folder)
        return results.settings, results.images

    return [
        Kind("metrics.json", folder / "metrics.json", read_scores),
        Kind(
            "layers.json",
            image_folder(folder, "image0") / "layers.json",
            lambda: read_contents(folder, "image0"),
        ),
        Kind("metrics.jsonl", folder / "metrics.jsonl", read_log),
        Kind("scored.jsonl", folder / "scored.jsonl", read_journal),
        Kind("config.json", folder / "config.json", read_config),
    ]


def prepared_kinds(folder: Path) -> list[Kind]:
    """A data set that `urgt prepare` wrote."""
    from urgt_jax.data.unreal4k.prepare import prepare
    from urgt_jax.data.unreal4k.records import Unreal4k

    home = folder / "u4k"
    with contextlib.redirect_stderr(io.StringIO()):
        prepare(miniature_sets.unreal4k(folder / "source", (36, 64), frames=1), home)

    def read() -> object:
        frames = Unreal4k(home, "train")
        samples = [frames.read(index) for index in range(len(frames))]
        return [(sample.image.tobytes(), sample.depth.tobytes()) for sample in samples]

    names = ["frames.json", "features.json", "dataset_info.json"]
    names += [path.name for path in home.glob("unreal4k-train*")]
    return [Kind(f"prepared {name}", home / name, read) for name in names]


def outcome(kind: Kind, expected: object) -> tuple[str, str]:
    """What the program makes of the file as it is now, and the error or what was printed."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            value = kind.read()
    except UserError as error:
        text = str(error)
        return "rejected" if "\n" not in text else "traceback", text
    except Exception:
        return "traceback", traceback.format_exc()
    if value == expected:
        return "same result", ""
    if printed.getvalue():
        return "reported", printed.getvalue()
    if kind.path.name == "scored.jsonl" and value.items() <= expected.items():
        return "same result", ""  # an unfinished last line, which is scored again
    return "silent", ""


def try_kind(kind: Kind, count: int, seed: int) -> tuple[Counter, list[str]]:
    """The outcomes of `count` changes of a file, and a line for each that must not be."""
    content = kind.path.read_bytes()
    expected = kind.read()
    outcomes = Counter()
    problems = []
    for what, changed in mutations(content, count, seed):
        kind.path.write_bytes(changed)
        name, text = outcome(kind, expected)
        outcomes[name] += 1
        if name in ("silent", "traceback"):
            problems.append(f"{kind.name}, {what}: {name} {text.strip()[-300:]}")
    kind.path.write_bytes(content)
    return outcomes, problems


def run(folder: Path, count: int, seed: int = 0) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Rows for the table, about `count` changes in all, and what went wrong."""
    rows = []
    problems = []
    every = kinds(folder)
    for number, kind in enumerate(every):
        share = (count + number) // len(every)
        outcomes, own_problems = try_kind(kind, share, seed)
        problems += own_problems
        text = ", ".join(f"{outcomes[name]} {name}" for name in OUTCOMES if outcomes[name])
        rows.append(("changed files", f"{sum(outcomes.values())} of {kind.name}", text))
    return rows, problems
