"""Scores of one image."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from urgt_jax.config import Config
from urgt_jax.data.sources import PriorSample, usual_max_depth
from urgt_jax.errors import require
from urgt_jax.evaluation import metrics
from urgt_jax.evaluation.candidates import Candidate, WindowDepths
from urgt_jax.evaluation.metrics import DepthProtocol, GroundTruth
from urgt_jax.evaluation.metrics.normals import AngleCounts
from urgt_jax.evaluation.resume import JournalEntry, Scores, pack_counts
from urgt_jax.images.geometry import unit_normals
from urgt_jax.images.grid import Grid, choose_grid, cover_image
from urgt_jax.images.resize import resize_map


@dataclass(frozen=True)
class Scoring:
    """How candidates are scored: the depth protocol, and the patches whose seams are measured."""

    protocol: DepthProtocol
    grid: tuple[int, int]  # rows and columns of patches; (0, 0) fits them to each image
    overlap: float  # share of a patch that its neighbour covers too
    patch_size: tuple[int, int]  # height and width of the patches of a fitted grid, pixels
    max_patches: int  # of a fitted grid
    boundaries: bool = False  # whether MoGe's F1 and the distances of edges are scored too
    edges: bool = False  # whether edges, drift and the parts of AbsRel are scored too

    def windows(self, size: tuple[int, int]) -> Grid:
        """The patches of an image of that height and width."""
        rows, columns = choose_grid(size, self.grid, self.patch_size, self.max_patches)
        return cover_image(*size, rows, columns, self.overlap)


def scoring_for(config: Config) -> Scoring:
    """How the configuration scores candidates; fails if prior.kind and eval.align conflict."""
    return Scoring(
        protocol=depth_protocol(config),
        grid=config.eval.grid,
        overlap=config.eval.overlap,
        patch_size=config.model.patch_size,
        max_patches=config.eval.max_patches,
        boundaries=config.eval.boundaries,
        edges=config.eval.edges,
    )


def depth_protocol(config: Config) -> DepthProtocol:
    """How the configuration compares depth; fails if its fields conflict."""
    options = config.eval
    align = options.align
    if align == "prior":
        align = "disparity" if config.prior.kind == "disparity" else "none"
    require(
        options.max_depth <= config.data.max_depth,
        f"eval.max_depth {options.max_depth:g} is above data.max_depth {config.data.max_depth:g}, "
        "beyond which no pixel is valid: set --data.max_depth too",
    )
    require(
        options.clamp == "range" or align == "disparity",
        "eval.clamp image clamps aligned disparity: it needs eval.align disparity",
    )
    usual = usual_max_depth(config.data.source)
    return DepthProtocol(
        kind=config.prior.kind,
        align=align,
        max_depth=options.max_depth or min(usual, config.data.max_depth),
        pixels=options.align_pixels,
        truncate=options.align_truncate,
        holes=options.holes,
        clamp=options.clamp,
        corners=options.corners,
        cap_consistency=options.cap_consistency,
    )


class CandidateScores(NamedTuple):
    """The scores of one candidate, and its maps at the size of the ground truth."""

    scores: Scores
    angle_counts: AngleCounts | None  # pixels by the error of their normals
    depth: Float[np.ndarray, "H W"] | None  # metres
    normal: Float[np.ndarray, "H W 3"] | None


class ScoredImage(NamedTuple):
    """An image with its ground truth and the scores and maps of its candidates."""

    entry: JournalEntry
    image: UInt8[np.ndarray, "H W 3"]
    truth: GroundTruth
    candidates: dict[str, CandidateScores]


def journal_entry(
    name: str, truth: GroundTruth, candidates: dict[str, CandidateScores], scene: str = ""
) -> JournalEntry:
    """The scores of an image without its maps."""
    scores = {}
    angle_counts = {}
    for candidate_name, candidate in candidates.items():
        scores[candidate_name] = candidate.scores
        if candidate.angle_counts is not None:
            angle_counts[candidate_name] = pack_counts(candidate.angle_counts)
    truth_of_normals = ""
    if angle_counts:
        truth_of_normals = "pseudo" if truth.pseudo_normals else "true"
    return JournalEntry(name, truth.depth.shape, scores, angle_counts, scene, truth_of_normals)


def ground_truth(sample: PriorSample, protocol: DepthProtocol) -> GroundTruth:
    """The ground truth of an image, limited to the depth range of the protocol.

    If normals are unknown, they are computed from depth; without intrinsics there are none.
    """
    truth = GroundTruth(
        sample.depth,
        sample.valid,
        sample.normal,
        sample.intrinsics,
        sample.stereo,
        annotations=sample.annotations,
    )
    truth = protocol.limit(truth)
    if truth.normal is None and truth.intrinsics is not None:
        normal, _ = metrics.true_normals(truth)
        truth = truth._replace(normal=normal, pseudo_normals=True)
    return truth


def score(candidate: Candidate, truth: GroundTruth, scoring: Scoring) -> CandidateScores:
    """All metrics of one candidate."""
    scores: Scores = {"depth": {}, "normal": {}}
    depth = None
    normal = None
    angle_counts = None
    size = truth.depth.shape
    if candidate.depth is not None and truth.annotations is not None:
        scores["depth"] |= matte_scores(candidate.depth, truth, scoring.protocol)
    if candidate.depth is not None and truth.measured.any():
        pred = metrics.resize_prediction(candidate.depth, size, scoring.protocol)
        holes = metrics.without_estimate(pred, size, scoring.protocol)
        scores["depth"]["holes"] = share_of_holes(holes, truth)
        seen = truth.without(holes) if scoring.protocol.holes == "left_out" else truth
        depth = metrics.to_metres(pred, seen, scoring.protocol)
        scores["depth"] |= metrics.depth_scores(depth, seen)
        scores["depth"] |= metrics.seams(depth, seen, scoring.windows(size))
        scores["depth"] |= metrics.plane_scores(depth, seen)
        if scoring.boundaries:
            scores["depth"] |= metrics.boundary_scores(depth, seen)
        if scoring.edges:
            scores["depth"] |= metrics.edge_scores(depth, seen)
        if candidate.patches is not None:
            scores["depth"] |= consistency_scores(pred, candidate.patches, seen, scoring.protocol)
    if candidate.normal is not None and truth.normal is not None:
        normal = unit_normals(resize_map(candidate.normal, size))
        scores["normal"], angle_counts = metrics.normal_scores(normal, truth)
        if depth is not None and truth.intrinsics is not None:
            scores["depth"]["agreement"] = metrics.agreement(depth, normal, seen)
    return CandidateScores(scores, angle_counts, depth, normal)


def matte_scores(
    depth: Float[np.ndarray, "h w"], truth: GroundTruth, protocol: DepthProtocol
) -> dict[str, float]:
    """The recall of the boundary of a matte, which needs no depth; empty without a matte."""
    matte = truth.annotations.matte
    if matte is None:
        return {}
    pred = metrics.resize_prediction(depth, matte.shape, protocol)
    far = np.float32(np.inf if protocol.kind == "depth" else 0)  # where there is no estimate
    disparity = protocol.disparity(np.where(np.isfinite(pred), pred, far))
    return {"boundary_recall": metrics.boundary_recall(disparity, matte)}


def share_of_holes(holes: Bool[np.ndarray, "H W"], truth: GroundTruth) -> float:
    """The share of the scored pixels for which a prediction has no estimate, percent."""
    known = truth.known
    count = int(known.sum())
    return 100 * int((holes & known).sum()) / count if count else float("nan")


def consistency_scores(
    pred: Float[np.ndarray, "H W"],
    patches: WindowDepths,
    truth: GroundTruth,
    protocol: DepthProtocol,
) -> dict[str, float]:
    """How much overlapping windows differ: `ce` in metres, `ce_disparity` in the model's unit.

    The windows are brought to metres by the alignment of the whole prediction.
    """
    scores = {}
    values = patches.depth
    largest = protocol.largest_depth(truth)
    origins = patches.windows.origins
    if protocol.kind == "disparity":
        scores["ce_disparity"] = metrics.consistency(values, origins, np.inf)
    if protocol.align != "none":
        fit = protocol.fit(pred, truth)
        values = np.stack([protocol.apply(fit, window, largest) for window in values])
    cap = protocol.max_depth if protocol.cap_consistency else np.inf
    scores["ce"] = metrics.consistency(values, origins, cap)
    return scores
