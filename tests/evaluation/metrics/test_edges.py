"""Edges, drift and the parts of an error, on maps whose figures are known."""

import numpy as np
import pytest

from urgt_jax.evaluation.metrics import GroundTruth, edge_scores
from urgt_jax.evaluation.metrics.edges import NAMES, crossings, split_error
from urgt_jax.images.resize import gaussian_blur

SIZE = (480, 640)
NEAR, FAR = 1.0, 0.5  # disparity on both sides


def step_map(column: int = 320) -> np.ndarray:
    """Disparity that falls from one column to the next."""
    disparity = np.full(SIZE, NEAR, np.float32)
    disparity[:, column:] = FAR
    return disparity


def scores_of(disparity: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The scores of a map of disparity."""
    known = np.ones(true.shape, bool)
    return edge_scores(1 / disparity, GroundTruth(1 / true, known))


def test_perfect_map_is_sharp_in_place_and_without_error():
    scores = scores_of(step_map(), step_map())
    assert set(scores) == set(NAMES)
    assert scores["edge_width"] == pytest.approx(0.8, abs=0.01)  # within the step of one pixel
    for name in ("edge_displacement", "edges_lost", "overshoot", "drift", "abs_rel_broad"):
        assert scores[name] == pytest.approx(0, abs=1e-4), name


@pytest.mark.parametrize("sigma", [2.0, 4.0])
def test_edge_width_is_that_of_a_gaussian_edge(sigma):
    # The step is a sum of Gaussians of one-pixel steps: 10 to 90 % are 2.563 deviations.
    scores = scores_of(gaussian_blur(step_map(), sigma), step_map())
    assert scores["edge_width"] == pytest.approx(2.563 * sigma, rel=0.03)
    assert scores["edge_displacement"] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("shift", [-3, 2])
def test_edge_displacement_is_the_distance_of_a_moved_edge(shift):
    scores = scores_of(step_map(320 + shift), step_map())
    assert scores["edge_displacement"] == pytest.approx(abs(shift), abs=0.1)
    assert scores["edge_width"] == pytest.approx(0.8, abs=0.05)


def test_lengths_are_in_pixels_of_480_lines():
    def double(x):
        return x.repeat(2, 0).repeat(2, 1)

    scores = scores_of(double(step_map(324)), double(step_map()))
    assert scores["edge_displacement"] == pytest.approx(4, abs=0.1)


def test_edges_lost_are_those_without_a_step():
    """The upper third of the map has no step: only rows count, all of the same length."""
    disparity = step_map()
    disparity[:160] = 0.75
    assert scores_of(disparity, step_map())["edges_lost"] == pytest.approx(100 / 3, abs=3)


def test_overshoot_is_the_height_of_a_rim():
    disparity = step_map()
    disparity[:, 317:320] += 0.1 * (NEAR - FAR)
    scores = scores_of(disparity, step_map())
    assert scores["overshoot"] == pytest.approx(10, rel=0.02)
    assert scores_of(gaussian_blur(step_map(), 2), step_map())["overshoot"] < 0.1


def test_drift_is_the_deviation_of_the_errors_of_blocks():
    rng = np.random.default_rng(0)
    errors = 0.05 * rng.standard_normal((15, 20)).astype(np.float32)
    true = np.full(SIZE, NEAR, np.float32) + np.linspace(0, 1, 640, dtype=np.float32)
    disparity = true * (1 + errors.repeat(32, 0).repeat(32, 1))
    assert scores_of(disparity, true)["drift"] == pytest.approx(100 * errors.std(), rel=0.05)
    assert scores_of(2 * true + 1, true)["drift"] == pytest.approx(0, abs=1e-3)


def test_split_error_parts_waves_by_their_length():
    columns = np.arange(640)
    known = np.ones(SIZE, bool)
    known[100:200, 100:200] = False  # unknown pixels take no part
    for length, broad_share in ((8, 0.0), (400, 1.0)):
        error = np.broadcast_to(np.sin(2 * np.pi * columns / length), SIZE).astype(np.float32)
        broad, fine = split_error(np.where(known, error, 0), known, 16.0)
        expected = np.exp(-((2 * np.pi * 16 / length) ** 2) / 2)  # of a Gaussian
        assert broad / np.abs(error[known]).mean() == pytest.approx(expected, abs=0.05)
        assert (broad > fine) == (broad_share > 0.5)


def test_scores_are_undefined_without_truth_or_edges():
    nothing = edge_scores(
        np.ones(SIZE, np.float32), GroundTruth(np.ones(SIZE, np.float32), np.zeros(SIZE, bool))
    )
    assert all(np.isnan(value) for value in nothing.values())
    flat = scores_of(np.ones(SIZE, np.float32), np.ones(SIZE, np.float32))
    assert np.isnan(flat["edge_width"]) and np.isnan(flat["overshoot"])
    assert flat["abs_rel_broad"] == flat["abs_rel_fine"] == 0


def test_crossings_takes_the_one_nearest_to_the_middle():
    steps = np.array([[0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]], float)
    middle, none = crossings(steps, 0.5)
    assert middle == pytest.approx(3.5) and np.isnan(none)
