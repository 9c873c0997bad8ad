"""What a coarse map is like and a refiner should mend: edges, drift and broad errors of depth.

All of it is our own. Disparity (1 / metres) is fitted to the truth first. Lengths are in pixels of
an image of 480 lines, so that images of any size compare.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from urgt_jax.evaluation.metrics.alignment import align
from urgt_jax.evaluation.metrics.protocol import MIN_DEPTH, GroundTruth, check_size
from urgt_jax.images.resize import gaussian_blur

LINES = 480  # lines of the image that lengths refer to
REACH = 14  # pixels of a profile on either side of an edge
MAX_EDGES = 4000  # profiles along each axis; more are sampled
MIN_EDGES = 20  # fewer say nothing
STEP = 0.08  # relative step of true disparity between neighbours that is an edge
CONTRAST = 0.1  # relative step between the plateaus on both sides of an edge
FLATNESS = 0.03  # largest relative range of a plateau
LOST = 0.3  # a step with a smaller share of the true contrast is lost
BLOCK = 32  # side of the blocks whose errors drift, pixels
BROAD = 16  # standard deviation of the blur that leaves the broad part of an error, pixels
NAMES = (
    "edge_width",
    "edge_displacement",
    "edges_lost",
    "overshoot",
    "drift",
    "abs_rel_broad",
    "abs_rel_fine",
)


def edge_scores(depth: Float[np.ndarray, "H W"], truth: GroundTruth) -> dict[str, float]:
    """Scores of the edges and of the broad errors of a depth map in metres; NaN if undefined.

    At true steps of 10 % of disparity between flat surfaces: `edge_width` is the median distance
    between 10 and 90 % of the map's step, `edge_displacement` the median distance of its middle
    from the true one (pixels of 480 lines), `edges_lost` the share of steps with under 30 % of the
    true contrast. `overshoot` is how far the map leaves the span of both plateaus at its own edges,
    median, percent of the step. `drift` is the standard deviation of the relative error of
    disparity from block to block of 32 pixels, percent. `abs_rel_broad` is the mean relative error
    of depth after a blur of 16 pixels, `abs_rel_fine` that of the rest.
    """
    check_size(depth, truth)
    known = truth.known
    scores = dict.fromkeys(NAMES, float("nan"))
    if not known.any():
        return scores
    true_disparity = np.where(known, 1 / np.maximum(truth.depth, MIN_DEPTH), 0).astype(np.float32)
    disparity = 1 / np.maximum(depth, np.float32(MIN_DEPTH))
    fit = align(disparity, truth.depth, known)
    disparity = (fit.scale * disparity + fit.shift).astype(np.float32)
    scale = LINES / depth.shape[0]
    scores |= step_scores(disparity, true_disparity, known, scale)
    scores["overshoot"] = overshoot(disparity, scale)
    scores["drift"] = drift(disparity, true_disparity, known, scale)
    relative = np.where(known, depth / np.where(known, truth.depth, 1) - 1, 0).astype(np.float32)
    scores["abs_rel_broad"], scores["abs_rel_fine"] = split_error(relative, known, BROAD / scale)
    return scores


def split_error(
    error: Float[np.ndarray, "H W"], known: Bool[np.ndarray, "H W"], sigma: float
) -> tuple[float, float]:
    """Mean absolute error after a blur over known pixels, and of what the blur removes."""
    weight = gaussian_blur(known.astype(np.float32), sigma)
    broad = gaussian_blur(error, sigma) / np.maximum(weight, 1e-6)
    return float(np.abs(broad[known]).mean()), float(np.abs((error - broad)[known]).mean())


def drift(
    disparity: Float[np.ndarray, "H W"],
    true_disparity: Float[np.ndarray, "H W"],
    known: Bool[np.ndarray, "H W"],
    scale: float,
) -> float:
    """The deviation of the median relative errors of blocks that are at least half known, %."""
    side = max(round(BLOCK / scale), 1)
    height, width = disparity.shape
    relative = disparity / np.where(known, true_disparity, 1) - 1
    errors = []
    for top in range(0, height - side + 1, side):
        for left in range(0, width - side + 1, side):
            block = (slice(top, top + side), slice(left, left + side))
            inside = known[block]
            if inside.mean() > 0.5:
                errors.append(np.median(relative[block][inside]))
    return 100 * float(np.std(errors)) if len(errors) > 1 else float("nan")


def step_scores(
    disparity: Float[np.ndarray, "H W"],
    true_disparity: Float[np.ndarray, "H W"],
    known: Bool[np.ndarray, "H W"],
    scale: float,
) -> dict[str, float]:
    """Width, displacement and loss of the steps at true edges."""
    reach = max(round(REACH / scale), 4)
    parts = []
    for turn in (np.asarray, np.transpose):
        parts.append(true_profiles(turn(disparity), turn(true_disparity), turn(known), reach))
    profiles = np.concatenate(parts)
    if len(profiles) < MIN_EDGES:
        return {}
    left = profiles[:, :3].mean(1)
    right = profiles[:, -3:].mean(1)
    contrast = right - left
    lost = contrast < LOST
    scores = {"edges_lost": 100 * float(lost.mean())}
    steps = (profiles[~lost] - left[~lost, None]) / contrast[~lost, None]
    if len(steps):
        low, middle, high = (crossings(steps, level) for level in (0.1, 0.5, 0.9))
        width = (high - low) * scale
        width = width[np.isfinite(width) & (width > 0)]
        centre = profiles.shape[1] / 2 - 0.5
        displacement = np.abs(middle - centre) * scale
        displacement = displacement[np.isfinite(displacement)]
        if width.size:
            scores["edge_width"] = float(np.median(width))
        if displacement.size:
            scores["edge_displacement"] = float(np.median(displacement))
    return scores


def true_profiles(
    disparity: Float[np.ndarray, "H W"],
    true_disparity: Float[np.ndarray, "H W"],
    known: Bool[np.ndarray, "H W"],
    reach: int,
) -> Float[np.ndarray, "N L"]:
    """Rows of the map across true edges: 0 is the true plateau on the left, 1 on the right."""
    before = true_disparity[:, :-1]
    after = true_disparity[:, 1:]
    step = np.abs(after - before) / np.maximum(np.minimum(before, after), 1e-9)
    rows, columns = np.nonzero((step > STEP) & known[:, :-1] & known[:, 1:])
    rows, columns = _sample(rows, columns, known.shape[1], reach)
    true = _across(true_disparity, rows, columns, reach)
    # Near the step itself the truth may be mixed.
    left = true[:, : reach - 1]
    right = true[:, reach + 3 :]
    left_level = np.median(left, 1)
    right_level = np.median(right, 1)
    contrast = right_level - left_level
    good = _across(known, rows, columns, reach).all(1)
    good &= np.ptp(left, 1) <= FLATNESS * left_level
    good &= np.ptp(right, 1) <= FLATNESS * right_level
    good &= np.abs(contrast) >= CONTRAST * np.minimum(left_level, right_level)
    good = np.flatnonzero(good)[:MAX_EDGES]
    profile = _across(disparity, rows[good], columns[good], reach).astype(np.float64)
    return (profile - left_level[good, None]) / contrast[good, None]


def _sample(
    rows: Int[np.ndarray, "N"], columns: Int[np.ndarray, "N"], width: int, reach: int
) -> tuple[Int[np.ndarray, "M"], Int[np.ndarray, "M"]]:
    """Edges whose profile is inside the image, in random order and not too many."""
    inside = (columns >= reach) & (columns + reach + 1 < width)
    rows = rows[inside]
    columns = columns[inside]
    order = np.random.default_rng(0).permutation(len(rows))[: 10 * MAX_EDGES]
    return rows[order], columns[order]


def _across(
    x: np.ndarray, rows: Int[np.ndarray, "N"], columns: Int[np.ndarray, "N"], reach: int
) -> np.ndarray:
    """The pixels from `reach` before each edge to `reach` after it."""
    return x[rows[:, None], columns[:, None] + np.arange(-reach, reach + 2)]


def crossings(steps: Float[np.ndarray, "N L"], level: float) -> Float[np.ndarray, "N"]:
    """Where each step rises through a level, nearest to its middle; NaN where it does not."""
    rises = (steps[:, :-1] < level) & (steps[:, 1:] >= level)
    places = np.arange(steps.shape[1] - 1)
    distance = np.where(rises, np.abs(places - places.mean()), np.inf)
    nearest = distance.argmin(1)
    each = np.arange(len(steps))
    below = steps[each, nearest]
    above = steps[each, nearest + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        where = nearest + (level - below) / (above - below)
    return np.where(rises.any(1), where, np.nan)


def overshoot(disparity: Float[np.ndarray, "H W"], scale: float) -> float:
    """How far the map leaves the span of both plateaus at its own edges: median, % of the step."""
    reach = max(round(REACH / scale), 4)
    low, high = np.percentile(disparity, (1, 99))
    excess = []
    for turned in (disparity, disparity.T):
        excess.append(_excess(np.ascontiguousarray(turned), high - low, reach))
    both = np.concatenate(excess)
    return 100 * float(np.median(both)) if len(both) >= MIN_EDGES else float("nan")


def _excess(disparity: Float[np.ndarray, "H W"], span: float, reach: int) -> Float[np.ndarray, "N"]:
    """The excess of each of the map's own edges along rows, share of its step."""
    slope = np.abs(np.diff(disparity, axis=1))
    # An edge is where the map is steepest within reach.
    steepest = cv2.dilate(slope, np.ones((1, 2 * reach + 1), np.uint8))
    rows, columns = np.nonzero((slope == steepest) & (slope > 0.01 * span))
    rows, columns = _sample(rows, columns, disparity.shape[1], reach)
    profile = _across(disparity, rows, columns, reach).astype(np.float64)
    left = profile[:, :4].mean(1)
    right = profile[:, -4:].mean(1)
    contrast = np.abs(right - left)
    half = reach // 2
    good = contrast >= 0.08 * span
    good &= np.ptp(profile[:, :half], 1) <= 0.2 * contrast
    good &= np.ptp(profile[:, -half:], 1) <= 0.2 * contrast
    step = (profile[good] - left[good, None]) / (right - left)[good, None]
    return np.maximum(-step.min(1), 0) + np.maximum(step.max(1) - 1, 0)
