"""Scores a trained refiner on held-out scenes against its coarse priors."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from urgt_jax import config as configs
from urgt_jax import grid, metrics, report
from urgt_jax.config import Config
from urgt_jax.data.priors import blur
from urgt_jax.data.sources import Picture, Scenes
from urgt_jax.fidelity import Maps
from urgt_jax.files import folder, write_text
from urgt_jax.inference import Refiner, Result, load
from urgt_jax.log import Progress
from urgt_jax.pictures import unit, write_image

Scores = dict[str, dict[str, float]]  # "depth" and "normal" -> metric -> value


SMOOTH = 1 / 56  # deviation of the blur that refinement has to beat, as a share of the height


class Scored(NamedTuple):
    """What is known about one held-out picture."""

    picture: Picture
    result: Result  # depth in the network's unit
    scores: dict[str, Scores]  # by the side in report.SIDES


def evaluate(refiner: Refiner, config: Config) -> Iterator[Scored]:
    """Refines and scores held-out pictures, one by one."""
    source = Scenes(config, "test")
    progress = Progress("evaluate", len(source))
    for index in range(len(source)):
        yield score(refiner, source[index], config)
        progress.tell(index + 1)


def score(refiner: Refiner, picture: Picture, config: Config) -> Scored:
    """One picture, coarse and refined."""
    c = config.eval
    windows = grid.cover(*picture.depth.shape, *c.grid, c.overlap)
    result = refiner.refine(_priors(picture), windows)
    maps = {
        "coarse": (picture.coarse_depth, picture.coarse_normal),
        "smoothed": smoothed(picture),
        "refined": (result.depth, result.normal),
    }
    scores = {side: score_maps(picture, *maps[side], config) for side in report.SIDES}
    for side in report.SIDES[:2]:
        scores[side]["depth"]["ce"] = float("nan")  # one map of the whole picture has no seams
    scores["refined"]["depth"]["ce"] = consistency_error(refiner, picture, result, config)
    return Scored(picture, result, scores)


def smoothed(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """Coarse depth and normals after a Gaussian blur: what can be had without looking."""
    sigma = SMOOTH * picture.depth.shape[0]
    normal = np.stack([blur(picture.coarse_normal[..., i], sigma) for i in range(3)], -1)
    return blur(picture.coarse_depth, sigma), unit(normal)


def _priors(picture: Picture) -> Maps:
    return Maps(picture.image, picture.coarse_depth, picture.coarse_normal)


@partial(jax.jit, static_argnames=("config",))
def _scores(depth, normal, true_depth, true_normal, valid, config: Config):
    depth, true_depth, valid = depth[None], true_depth[None], valid[None]
    metric = _to_metres(depth, true_depth, valid, config)
    of_depth = metrics.depth_metrics(metric, true_depth, valid)
    of_depth["boundary_f1"] = metrics.boundary_f1(metric, true_depth, valid)
    of_normal = metrics.normal_metrics(normal[None], true_normal[None], valid)
    return jax.tree.map(lambda x: x[0], {"depth": of_depth, "normal": of_normal})


def score_maps(picture: Picture, depth, normal, config: Config) -> Scores:
    """Metrics of maps in the network's unit against the picture's truth."""
    found = _scores(depth, normal, picture.depth, picture.normal, picture.valid, config)
    return jax.tree.map(float, found)


def _to_metres(depth, true_depth, valid, config: Config):
    """Metric priors are a share of max_depth; disparity is aligned to the truth."""
    limit = config.data.max_depth
    if config.prior.kind == "depth":
        return depth * limit
    return metrics.align(depth, true_depth, valid).depth(depth, limit)


def consistency_error(refiner: Refiner, picture: Picture, result: Result, config: Config) -> float:
    """Metres by which overlapping patches of one forward pass differ, under the map's alignment."""
    windows = metrics.consistency_windows(*picture.depth.shape)
    patches = refiner.patches(_priors(picture), windows)
    if patches is None:
        return float("nan")
    limit = config.data.max_depth
    if config.prior.kind == "depth":
        return metrics.consistency(patches * limit, windows.origins, limit)
    known = (x[None] for x in (result.depth, picture.depth, picture.valid))
    metric = metrics.align(*known).depth(patches[None], limit)
    return metrics.consistency(np.asarray(metric[0]), windows.origins, limit)


def average(scores: list[Scores]) -> Scores:
    """The mean over pictures of each metric, without pictures where it is not defined."""
    return {
        kind: {
            name: float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
            for name in scores[0][kind]
            for values in [np.array([s[kind][name] for s in scores])]
        }
        for kind in scores[0]
    }


def main() -> None:
    """The command line of eval.py."""
    parser = configs.FieldsParser(
        prog="eval.py",
        description="Scores a trained refiner on held-out pictures.",
        epilog="Any field of the run's configuration can be set: --eval.images 8",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="of the run to score")
    told, rest = parser.parse_known_args()
    refiner = load(told.workdir)
    config = configs.override(refiner.config, rest)
    configs.require(
        config.model == refiner.config.model,
        "--model fields belong to the trained weights and cannot be set for eval.py",
    )
    folder(told.workdir)
    scored, examples = [], []
    for item in evaluate(refiner, config):
        scored.append(item.scores)
        if len(examples) < config.eval.examples:
            examples.append(item)
    means = {side: average([scores[side] for scores in scored]) for side in report.SIDES}
    summary = {
        "pictures": len(scored),
        "data": "scenes, split test",
        "alignment": _alignment(config),
        **means,
    }
    print(report.table(means))
    print(f"mean over {len(scored)} held-out scenes; {summary['alignment']}")
    write_text(told.workdir / "metrics.json", _json(summary))
    shown = [report.rows(*_maps(item, config)) for item in examples]
    write_text(told.workdir / "report.html", report.page(summary, shown))
    write_image(told.workdir / "examples.png", report.sheet(shown[:3]))
    print(f"wrote metrics.json, report.html and examples.png in {told.workdir}")


def _alignment(config: Config) -> str:
    if config.prior.kind == "depth":
        return "metric depth, not aligned"
    return "disparity aligned to 1/depth by least squares per picture"


def _json(summary: dict) -> str:
    """Numbers that are not defined become null: NaN is no JSON."""
    known = jax.tree.map(
        lambda x: None if isinstance(x, float) and not np.isfinite(x) else x, summary
    )
    return json.dumps(known, indent=1) + "\n"


def _maps(item: Scored, config: Config):
    """Image, then coarse, refined and true maps, depth as 1/metres."""
    p, limit = item.picture, config.data.max_depth
    inverse = [
        np.asarray(1 / _to_metres(x[None], p.depth[None], p.valid[None], config)[0])
        for x in (p.coarse_depth, item.result.depth)
    ]
    truth = np.where(p.valid, 1 / np.maximum(p.depth, 1e-3), 1 / limit)
    return p.image, (*inverse, truth), (p.coarse_normal, item.result.normal, p.normal), p.valid
