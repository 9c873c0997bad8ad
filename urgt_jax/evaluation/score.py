"""Scores of one image."""

from typing import NamedTuple

import numpy as np

from urgt_jax.config import Config
from urgt_jax.data.sources import PriorSample
from urgt_jax.evaluation import metrics
from urgt_jax.evaluation.candidates import Candidate
from urgt_jax.evaluation.metrics import Protocol, Truth
from urgt_jax.evaluation.resume import Entry, Scores
from urgt_jax.images import grid
from urgt_jax.images.geometry import unit_normals
from urgt_jax.images.resize import resize_map
from urgt_jax.inference.refiner import choose_grid


class SideScores(NamedTuple):
    """One side of a scored picture, at the truth's size."""

    scores: Scores
    angles: np.ndarray | None  # how many pixels' normals err by how much
    metres: np.ndarray | None
    normal: np.ndarray | None


class ScoredImage(NamedTuple):
    """What is known about one held-out picture."""

    entry: Entry
    image: np.ndarray
    truth: Truth
    sides: dict[str, SideScores]


def protocol_for(config: Config) -> Protocol:
    """How depth is compared, as the configuration has it."""
    kind, align = config.prior.kind, config.eval.align
    if align == "prior":
        align = "disparity" if kind == "disparity" else "none"
    return Protocol(kind, align, config.data.max_depth)


def ground_truth(picture: PriorSample, config: Config) -> Truth:
    """What a picture's maps are compared with; normals are those of its depth where none are known.

    Without intrinsics there are none.
    """
    truth = Truth(picture.depth, picture.valid, picture.normal, picture.intrinsics, picture.stereo)
    truth = protocol_for(config).limit(truth)
    if truth.normal is None and truth.intrinsics is not None:
        truth = truth._replace(normal=metrics.true_normals(truth)[0])
    return truth


def score(candidate: Candidate, truth: Truth, config: Config) -> SideScores:
    """All metrics of one side of a picture."""
    scores: Scores = {"depth": {}, "normal": {}}
    metres, normal, angles = None, None, None
    if candidate.depth is not None:
        metres = metrics.to_metres(candidate.depth, truth, protocol_for(config))
        scores["depth"] = metrics.depth_scores(metres, truth)
        scores["depth"] |= metrics.seams(metres, truth, _windows(metres.shape, config))
        scores["depth"] |= _consistency(candidate, truth, config)
    if candidate.normal is not None and truth.normal is not None:
        normal = unit_normals(resize_map(candidate.normal, truth.depth.shape))
        scores["normal"], angles = metrics.normal_scores(normal, truth)
        if metres is not None and truth.intrinsics is not None:
            scores["depth"]["agreement"] = metrics.agreement(metres, normal, truth)
    return SideScores(scores, angles, metres, normal)


def _windows(size: tuple[int, int], config: Config) -> grid.Grid:
    return grid.cover_image(*size, *choose_grid(size, config), config.eval.overlap)


def _consistency(candidate: Candidate, truth: Truth, config: Config) -> dict[str, float]:
    """How overlapping windows differ: in metres under the whole map's alignment, and in units."""
    if candidate.patches is None:
        return {}
    (windows, patches), protocol = candidate.patches, protocol_for(config)
    limit, found = config.data.max_depth, {}
    if protocol.kind == "disparity":
        found["ce_disparity"] = metrics.consistency(patches, windows.origins, np.inf)
    if protocol.align == "disparity":
        fit = metrics.align(protocol.disparity(candidate.depth), truth.depth, truth.valid)
        patches = fit.depth(protocol.disparity(patches), limit)
    found["ce"] = metrics.consistency(patches, windows.origins, limit)
    return found
