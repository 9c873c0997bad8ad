"""Losses and metrics on maps whose scores are known, and against plain references."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference_metrics as slow

from urgt_jax.errors import UserError
from urgt_jax.evaluation import metrics
from urgt_jax.evaluation.metrics import Protocol, Truth, d3r, depth, normals, superpixels, tiled
from urgt_jax.images import grid
from urgt_jax.images.geometry import unit_vectors
from urgt_jax.training import loss_terms

TILE = (16, 24)  # does not divide the pictures
SIZE = (37, 53)
CAMERA = np.array([40, 42, 25, 19], np.float32)
RELATIVE = Protocol("disparity", "disparity")


def _maps(seed=0):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(2, 20, (2, 16, 20)).astype(np.float32)
    return depth, rng.random((2, 16, 20)) < 0.8


@pytest.fixture(scope="module")
def scene():
    """Boxes before a slanted plane with holes and sky, and a prediction in metres and normals."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    true = 6 + 0.1 * x + 0.05 * y
    true[5:17, 8:30], true[20:33, 25:50], true[:4, 40:] = 4 + 0.02 * x[5:17, 8:30], 5, np.inf
    true[rng.random(SIZE) < 0.05] = 0
    valid = (true > 0) & (true < 80)
    pred = np.roll(np.clip(true, 1, 80), 1, 1) * np.exp(rng.normal(0.02, 0.02, SIZE))
    normal = rng.normal((0, 0, -1), 0.4, (*SIZE, 3)).astype(np.float32)
    truth = Truth(true.astype(np.float32), valid, None, CAMERA, 30.0)
    return truth, pred.astype(np.float32), normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def _truth(values, **rest):
    values = np.array(values, np.float32)
    return Truth(values, values > 0, **rest)


def _scores(pred, truth, **how):
    how = {"tile": TILE, "devices": jax.devices()[:1]} | how
    return metrics.depth_scores(np.array(pred, np.float32), truth, **how)


# Worked out by hand.


def test_depth_errors_of_four_pixels():
    found = _scores([[2, 2], [3, 5]], _truth([[1, 2], [4, 5]]))
    a, b = math.log(2), math.log(3 / 4)  # the two logarithms that are not 0
    mean = (a + b) / 4
    expected = {
        "abs_rel": (1 / 1 + 1 / 4) / 4,
        "sq_rel": (1**2 / 1 + 1**2 / 4) / 4,
        "rmse": math.sqrt((1 + 1) / 4),
        "rmse_log": math.sqrt((a**2 + b**2) / 4),
        "log10": (math.log10(2) + math.log10(4 / 3)) / 4,
        "silog": 100 * math.sqrt((a**2 + b**2) / 4 - mean**2),
        "delta1": 2 / 4,  # ratios 2, 1, 4/3, 1 against 1.25
        "delta2": 3 / 4,  # against 1.5625
        "delta3": 3 / 4,  # against 1.953
    }
    assert {n: found[n] for n in expected} == pytest.approx(expected, rel=1e-6)
    assert "see" not in found  # nothing is known of the stereo camera


def test_boundary_f1_of_one_edge_that_is_too_weak_for_most_thresholds():
    # Truth doubles. The prediction grows by 1.1: above 1.05, 1.0722 and 1.0944, not above 1.1167.
    # One direction of four has an edge, found exactly: precision, recall and F1 are 1/4.
    first = 1.05 + np.arange(3) * 0.2 / 9
    expected = 0.25 * first.sum() / (10 * (1.05 + 1.25) / 2)
    assert _scores([[1, 1.1]], _truth([[1, 2]]))["boundary_f1"] == pytest.approx(expected)
    assert _scores([[1.1, 1]], _truth([[1, 2]]))["boundary_f1"] == 0  # the wrong way round


def test_soft_edge_error_of_one_edge():
    # Disparities 10 / depth: 2 2 5 5. The two in the middle are at an edge. The nearest true depth
    # to 3 among 5 5 2 is 2, off by 1; to 2.5 among 5 2 2 it is 2, off by 0.5.
    truth = _truth([[5, 5, 2, 2]], stereo=10.0)
    assert _scores([[9, 3, 2.5, 9]], truth)["see"] == pytest.approx((1 + 0.5) / 2)
    assert _scores([[9, 3, 2.5, 9]], truth._replace(stereo=3.0))["see"] == 0  # a step of 0.9


def test_soft_edges_stand_before_sky_but_not_beside_holes():
    truth = _truth([[np.inf, 5, 5, 0]], stereo=10.0)
    truth = truth._replace(valid=np.array([[False, True, True, False]]))
    assert _scores([[1, 4, 1, 1]], truth)["see"] == pytest.approx(1)  # of the second pixel alone


@pytest.mark.parametrize("near,far,expected", [(2, 4, 0), (3, 3.02, 1), (4, 2, 2)])
def test_order_kept_lost_and_turned_round(near, far, expected):
    left = np.arange(32) < 16
    truth = _truth(np.where(left, 2, 4) * np.ones((32, 1)))
    pred = np.where(left, near, far) * np.ones((32, 1))
    assert d3r.d3r(pred, truth) == expected
    flat = truth._replace(depth=np.where(left, 2, 2.1) * np.ones((32, 1)))
    assert math.isnan(d3r.d3r(pred, flat))  # no pair differs by more than 1.1


def test_a_seam_between_two_patches():
    halves = grid.cover_image(2, 4, 1, 2)
    found = _seams(np.array([[1, 1, 2, 2], [1, 1, 2, 2]]), halves)
    assert found == pytest.approx({"seam": math.log(2), "seam_elsewhere": 0})
    # Moved by a pixel, two of its pairs are among the eight that straddle no border.
    found = _seams(np.array([[1, 2, 2, 2], [1, 2, 2, 2]]), halves)
    assert found == pytest.approx({"seam": 0, "seam_elsewhere": 2 * math.log(2) / 8})


def test_a_map_of_one_patch_has_no_seam():
    found = _seams(np.array([[1, 2]]), grid.cover_image(1, 2, 1, 1))
    assert math.isnan(found["seam"]) and found["seam_elsewhere"] == pytest.approx(math.log(2))


def _seams(pred, patches):
    how = {"tile": TILE, "devices": jax.devices()[:1]}
    return metrics.seams(pred, _truth(np.ones_like(pred)), patches, **how)


def _turned(degrees):
    """Normals turned away from the camera's direction."""
    turn = np.radians(np.array(degrees))
    return np.stack([np.sin(turn), 0 * turn, -np.cos(turn)], -1).astype(np.float32)


def test_normals_turned_by_known_angles():
    truth = _truth([[1, 1, 1, 1]], normal=_turned([[0, 0, 0, 0]]))
    found, _ = metrics.normal_scores(_turned([[2, 6, 10, 40]]), truth, tile=TILE)
    half = 0.51 / normals.BINS  # half a bin, and float32
    assert found["mean"] == pytest.approx((2 + 6 + 10 + 40) / 4, abs=half)
    assert found["median"] == pytest.approx((6 + 10) / 2, abs=half)
    assert found["rmse"] == pytest.approx(math.sqrt((4 + 36 + 100 + 1600) / 4), abs=half)
    assert [found[f"below_{t}"] for t in ("5", "7.5", "11.25", "30")] == [25, 50, 75, 75]


def test_pooled_pixels_weigh_alike_whatever_picture_they_are_of():
    pooled = metrics.Pooled()
    assert math.isnan(pooled.scores()["median"])
    for degrees in ([[10]], [[20, 20, 20]]):
        facing = _turned(np.zeros_like(degrees, float))
        truth = _truth(np.ones_like(degrees), normal=facing)
        pooled.add(metrics.normal_scores(_turned(degrees), truth, tile=TILE)[1])
    assert pooled.scores()["mean"] == pytest.approx((10 + 3 * 20) / 4, abs=1e-3)
    assert pooled.scores()["median"] == pytest.approx(20, abs=1e-3)


def test_alignment_of_two_pixels():
    # 1/depth is 1/2 and 1 at disparities 0 and 1; at -1 it would be 0, which the limit forbids.
    fit = metrics.align(np.array([[0.0, 1.0]]), np.array([[2.0, 1.0]]), np.ones((1, 2), bool))
    assert fit == pytest.approx((0.5, 0.5))
    np.testing.assert_allclose(fit.depth(np.array([0.0, 1.0, -1.0]), 80.0), [2, 1, 80])


def test_metres_from_maps_of_another_size_are_bilinear():
    truth = _truth([[1, 1, 1, 1]])
    found = metrics.to_metres(np.array([[1.0, 2.0]]), truth, Protocol("depth", "none"))
    np.testing.assert_allclose(found, [[1, 1.25, 1.75, 2]])
    # Smaller, the two nearest pixels count and no others: no antialias.
    wide = np.array([[1.0, 9, 3, 5, 9, 9, 9, 9, 9, 9, 9, 9]])
    found = metrics.to_metres(wide, truth, Protocol("depth", "none"))
    np.testing.assert_allclose(found[0, :2], [9, 9])


# Against plain references.


def test_depth_scores_are_those_of_the_plain_reference(scene):
    truth, pred, _ = scene
    found = _scores(pred, truth)
    expected = slow.depth_errors(pred, truth.depth, truth.valid)
    expected["boundary_f1"] = slow.boundary_f1(pred, truth.depth, truth.valid)
    expected["see"] = slow.soft_edge_error(pred, truth.depth, truth.valid, truth.stereo)
    points, pairs = d3r.ordinal_pairs(truth)
    expected["d3r"] = slow.d3r(pred, truth.depth, truth.valid, points, pairs)
    assert found == pytest.approx(expected, rel=1e-6)
    assert 0 < found["boundary_f1"] < 1 and found["see"] > 0 and 0 < found["d3r"] < 2


@pytest.mark.parametrize("overlap", [0.0, 0.3])
def test_seams_are_those_of_the_plain_reference(scene, overlap):
    truth, pred, _ = scene
    patches = grid.cover_image(*SIZE, 3, 4, overlap)
    found = metrics.seams(pred, truth, patches, tile=TILE, devices=jax.devices()[:1])
    expected = slow.seams(pred, truth.depth, truth.valid, patches)
    assert found == pytest.approx(expected, rel=2e-6)


def test_normal_scores_are_those_of_the_plain_reference(scene):
    truth, pred, normal = scene
    target = slow.pseudo_normals(truth.depth, truth.valid, CAMERA)
    known = target.any(-1)
    assert 0.5 < known.mean() < 1
    found, counts = metrics.normal_scores(normal, truth, tile=TILE)
    assert counts.sum() == known.sum()
    expected = slow.normal_scores(slow.angles(normal, target, known))
    assert found == pytest.approx(expected, abs=2e-3)
    own = slow.pseudo_normals(pred, truth.valid, CAMERA)
    expected = slow.angles(normal, own, own.any(-1)).mean()
    found = metrics.agreement(pred, normal, truth, tile=TILE)
    assert found == pytest.approx(expected, abs=2e-3)


def test_alignment_is_a_line_through_the_valid_pixels(scene):
    truth, pred, _ = scene
    disparity = 3 / pred + np.float32(1000)  # the spread is far smaller than the mean
    fit = metrics.align(disparity, truth.depth, truth.valid)
    x, y = disparity[truth.valid].astype(float), 1 / truth.depth[truth.valid].astype(float)
    line = np.polyfit(x - 1000, y, 1)
    assert fit.scale == pytest.approx(line[0], rel=1e-6)
    assert fit.scale * 1000 + fit.shift == pytest.approx(line[1], rel=1e-6)


# How pictures are cut and shared out changes nothing.


def _all(scene, **how):
    truth, pred, normal = scene
    scores, counts = metrics.normal_scores(normal, truth, **how)
    return (
        metrics.depth_scores(pred, truth, **how)
        | metrics.seams(pred, truth, grid.cover_image(*SIZE, 2, 3), **how)
        | scores
        | {"agreement": metrics.agreement(pred, normal, truth, **how)}
    ), counts


def test_one_device_and_eight_find_the_same_bits_and_any_tile_the_same_scores(scene):
    one, counts = _all(scene, tile=TILE, devices=jax.devices()[:1])
    eight, others = _all(scene, tile=TILE, devices=jax.devices())
    assert len(jax.devices()) == 8 and one == eight and (counts == others).all()
    whole, others = _all(scene, tile=(40, 56), devices=jax.devices()[:1])
    # Normals may move to the next bin with the last bit of a camera that is moved to the tile.
    assert whole == pytest.approx(one, rel=1e-6, abs=1e-3 / counts.sum())
    exact = ("boundary_f1", "delta1", "delta2", "delta3", "d3r")
    assert [whole[n] for n in exact] == [one[n] for n in exact]


def test_pictures_of_all_sizes_share_one_program_that_needs_little_memory(scene):
    truth, pred, _ = scene
    devices = tuple(jax.devices()[:1])
    run, sharding = tiled._compiled(depth._tile, devices)
    _scores(pred, truth)
    before = run._cache_size()
    _scores(pred[:20, :50], Truth(*(x[:20, :50] for x in truth[:2])))
    _scores(np.tile(pred, (3, 2)), Truth(*(np.tile(x, (3, 2)) for x in truth[:2])))
    assert run._cache_size() == before
    shape = (1, TILE[0] + 2, TILE[1] + 2)
    batch = [jax.ShapeDtypeStruct(shape, t) for t in (np.float32, np.float32, bool)]
    batch += [jax.ShapeDtypeStruct((1, n), np.float32) for n in (2, 1)]
    memory = run.lower(*batch).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 40 * 4 * shape[1] * shape[2]


# What is not as it should be.


def test_predictions_that_are_no_numbers_are_clamped():
    truth = _truth([[1, 2, 4, 5, 8]])
    values = np.array([[np.nan, np.inf, -np.inf, -3, 500]])
    found = metrics.to_metres(values, truth, Protocol("depth", "none", 80.0))
    np.testing.assert_allclose(found, [[1e-3, 80, 1e-3, 1e-3, 80]])
    values = np.array([[np.nan, 0.5, 0.25, np.inf, 0.125]])  # the rest is 1/depth itself
    found = metrics.to_metres(values, truth, RELATIVE)
    np.testing.assert_allclose(found, [[1e-3, 2, 4, 1e-3, 8]])


def test_metres_can_be_aligned_as_disparity():
    truth = _truth([[1, 2, 4, 5]])
    found = metrics.to_metres(7 * truth.depth, truth, Protocol("depth", "disparity"))
    np.testing.assert_allclose(found, truth.depth, rtol=1e-5)


def test_the_limits_of_depth_are_no_depths():
    truth = Truth(np.array([[1e-3, 2, 80, np.nan]]), np.ones((1, 4), bool))
    kept = Protocol("depth", "none", 80.0).limit(truth)
    assert kept.valid.tolist() == [[False, True, False, False]]


def test_pixels_beyond_the_range_do_not_steer_the_alignment():
    truth = _truth([[1, 2, 4, 100]])
    found = metrics.to_metres(np.array([[1, 0.5, 0.25, 3]]), truth, RELATIVE)
    np.testing.assert_allclose(found[0, :3], [1, 2, 4], rtol=1e-6)


def test_a_constant_prediction_is_put_at_the_mean_disparity():
    truth = _truth([[1, 2], [1, 2]])
    found = metrics.to_metres(np.full((2, 2), 0.3), truth, RELATIVE)
    np.testing.assert_allclose(found, 1 / 0.75, rtol=1e-6)


def test_a_picture_without_valid_pixels_has_no_score(scene):
    truth, pred, normal = scene
    none = truth._replace(valid=truth.valid & False)
    found, counts = _all((none, pred, normal), tile=TILE, devices=jax.devices()[:1])
    assert all(math.isnan(x) for x in found.values()) and counts.sum() == 0
    fit = metrics.align(pred, none.depth, none.valid)
    assert math.isnan(fit.scale) and math.isnan(fit.shift)
    assert (metrics.to_metres(pred, none, RELATIVE) == np.float32(1e-3)).all()


def test_predicted_normals_of_any_length_count_by_their_direction_and_none_by_90_degrees():
    truth = _truth([[1, 1, 1, 1]], normal=_turned([[0, 0, 0, 0]]))
    truth.normal[0, 3] = 0  # unknown
    pred = 5 * _turned([[10, 10, 10, 10]])
    pred[0, 0], pred[0, 1] = 0, np.nan
    found, counts = metrics.normal_scores(pred, truth, tile=TILE)
    assert counts.sum() == 3
    assert found["mean"] == pytest.approx((90 + 90 + 10) / 3, abs=1e-3)


@pytest.mark.parametrize(
    "make,told",
    [
        (lambda: Protocol("disparity", "none"), "align"),
        (lambda: Protocol("metres", "none"), "kind"),
        (lambda: Protocol("depth", "none", 1e-4), "range"),
        (lambda: Protocol("depth", "none", np.nan), "range"),
        (lambda: _metres(np.ones((2, 2, 1))), "shape"),
        (lambda: _metres(np.ones((0, 2))), "shape"),
        (lambda: _metres(np.ones((2, 2), complex)), "dtype"),
        (lambda: _scores(np.ones((3, 2)), _truth(np.ones((2, 2)))), "(3, 2)"),
        (lambda: metrics.normal_scores(np.ones((2, 2)), _truth(np.ones((2, 2)))), "(2, 2, 3)"),
        (lambda: metrics.true_normals(_truth(np.ones((2, 2)))), "intrinsics"),
        (lambda: _seams(np.ones((2, 2)), grid.cover_image(2, 3, 1, 1)), "(2, 3)"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(make, told):
    with pytest.raises(UserError) as caught:
        make()
    assert told in str(caught.value) and "\n" not in str(caught.value)


def _metres(pred):
    return metrics.to_metres(pred, _truth([[1, 2], [1, 2]]), Protocol("depth", "none"))


def test_a_protocol_says_how_numbers_were_made():
    assert str(Protocol("depth", "none")) == "depth in metres, no alignment, 0.001 to 80 m"
    assert "least squares" in str(RELATIVE)


# Superpixels.


def test_superpixels_are_connected_and_about_as_many_as_asked():
    rng = np.random.default_rng(1)
    values = np.clip(
        np.hypot(*np.mgrid[-1:1:48j, -1:1:60j]) + 0.1 * rng.normal(size=(48, 60)), 0, 1
    )
    labels = superpixels.superpixels(values, 80)
    count = labels.max() + 1
    assert 60 <= count <= 100 and set(np.unique(labels)) == set(range(count))
    assert all(slow.pieces(labels == k) == 1 for k in range(count))
    assert (labels == superpixels.superpixels(values, 80)).all()


def test_superpixels_of_a_flat_map_are_a_lattice_and_of_steps_keep_to_them():
    flat = superpixels.superpixels(np.zeros((40, 60)), 24)
    assert (flat == np.arange(40)[:, None] // 10 * 6 + np.arange(60) // 10).all()
    step = np.where(np.arange(60) < 33, 0.2, 0.8) * np.ones((40, 1))
    labels = superpixels.superpixels(step, 24)
    assert not set(labels[:, :33].ravel()) & set(labels[:, 33:].ravel())


def test_centres_and_neighbours_of_three_superpixels():
    labels = np.array([[0, 0, 1], [2, 2, 1]])
    assert superpixels.centres(labels).tolist() == [[0, 0], [0, 2], [1, 0]]
    assert superpixels.adjacent(labels).tolist() == [[0, 1], [0, 2], [1, 2]]


def test_points_of_large_pictures_lie_in_them(monkeypatch, scene):
    truth = scene[0]
    monkeypatch.setattr(d3r, "PIXELS", 300)  # every third pixel
    points, pairs = d3r.ordinal_pairs(truth)
    assert (points >= 0).all() and (points < SIZE).all() and (points % 3 == 1).all()
    assert len(pairs) > len(points) > 10 and pairs.max() < len(points)


@pytest.mark.slow
def test_a_large_picture_is_scored_to_six_digits():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:2160, :3840]
    true = (10 + 5 * np.sin(x / 300) + (y // 200 % 3) * 4).astype(np.float32)
    pred = (true * np.exp(rng.normal(0.02, 0.05, true.shape))).astype(np.float32)
    truth = Truth(true, rng.random(true.shape) < 0.9)
    expected = slow.depth_errors(pred, true, truth.valid)
    expected["boundary_f1"] = slow.boundary_f1(pred, true, truth.valid)
    found = metrics.depth_scores(pred, truth)
    worst = max(abs(found[n] / expected[n] - 1) for n in expected)
    print(f"largest relative difference {worst:.1e}")
    assert worst < 1e-6


# Consistency of overlapping patches.


def test_consistency_of_two_patches_that_share_a_pixel():
    patches, origins = np.array([[[1.0, 2]], [[5, 7]]]), np.array([[0, 0], [0, 1]])
    assert metrics.consistency(patches, origins, np.inf) == 5 - 2
    assert metrics.consistency(patches, origins, 4.0) == 4 - 2
    assert math.isnan(metrics.consistency(patches[:1], origins[:1], 4.0))  # nothing is shared


def test_consistency_is_that_of_the_plain_reference():
    windows = metrics.consistency_windows(48, 64)
    patches = np.random.default_rng(0).uniform(1, 9, (16, *windows.patch))
    expected = slow.consistency(patches, windows, 7.0)
    assert metrics.consistency(patches, windows.origins, 7.0) == pytest.approx(expected)


@pytest.mark.parametrize("height,width", [(224, 392), (2160, 3840), (61, 83)])
def test_consistency_is_zero_for_one_map_and_grows_with_seams(height, width):
    windows = metrics.consistency_windows(height, width)
    picture = np.random.default_rng(0).random((height, width)).astype(np.float32)
    cut = np.stack(list(grid.cut_windows(picture, windows)))
    assert metrics.consistency(cut, windows.origins, 80.0) == 0
    shifted = cut + np.arange(16, dtype=np.float32)[:, None, None] % 2
    assert metrics.consistency(shifted, windows.origins, 80.0) > 0.1


def test_published_consistency_windows():
    windows = metrics.consistency_windows(2160, 3840)
    assert windows.tops == (405, 675, 945, 1215) and windows.lefts == (405, 1095, 1785, 2475)
    assert windows.patch == (540, 960)


def test_gradient_matching_ignores_a_constant_and_sees_a_slope():
    depth, mask = _maps()
    matching = jax.jit(loss_terms.gradient_matching)
    assert matching(depth + 3, depth, mask) < 1e-5
    slope = depth + 0.1 * np.arange(20, dtype=np.float32)
    # Steps of 1, 2, 4 and 8 along one of two axes.
    assert matching(slope, depth, mask) == pytest.approx(0.1 * 15 / 8, rel=1e-3)


def test_the_relative_error_of_near_and_far_is_in_proportion_and_sees_no_mask():
    target = np.array([[0.9, 0.4, 0.0, 0.5]], np.float32)
    mask = np.array([[True, True, True, False]])
    off = np.array([[0.1, -0.05, 0.01, np.nan]], np.float32)
    assert loss_terms.mean_relative_error(target + off, target, mask) == pytest.approx(
        0.1, rel=1e-5
    )


def test_confidences_learn_one_over_the_error_and_leave_it_as_it_is():
    error, mask = np.array([0.5, 0.02, 0.1, 9.0], np.float32), np.array([True, True, True, False])
    of_sure, of_error = jax.grad(loss_terms.confidence_loss, (0, 1))(1 / error, error, mask)
    np.testing.assert_allclose(of_sure, 0, atol=1e-6)
    np.testing.assert_array_equal(of_error, 0)
    least = loss_terms.confidence_loss(1 / error, error, mask)
    assert all(loss_terms.confidence_loss(k / error, error, mask) > least for k in (0.9, 1.1))


def test_losses_are_finite_with_their_gradients_where_nothing_is_valid():
    depth, mask = _maps()
    none, normal = mask & False, jnp.zeros((2, 16, 20, 3))

    def total(d, n):
        return (
            loss_terms.mean_squared_error(d, depth, none)
            + loss_terms.mean_relative_error(d, depth, none)
            + loss_terms.gradient_matching(d, depth, none)
            + loss_terms.angular_loss(n, normal, none)
            + loss_terms.alignment_loss(n, normal, mask)
            + loss_terms.mean_normal_distance(n, normal, mask)
            + loss_terms.confidence_loss(d, loss_terms.relative_error(d, depth), none)
            + loss_terms.confidence_loss(d, loss_terms.normal_distance(n, normal), none)
        )

    for gradient in jax.jit(jax.grad(total, (0, 1)))(jnp.asarray(depth), normal):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("degrees", [0.1, 10, 90])
def test_unit_normals_are_apart_by_the_chord_of_their_angle(degrees):
    angle, size = math.radians(degrees), (4, 5)
    turned = np.broadcast_to([0, -math.sin(angle), -math.cos(angle)], (*size, 3))
    facing = np.broadcast_to(np.float32([0, 0, -1]), (*size, 3))
    found = loss_terms.mean_normal_distance(
        3 * turned.astype(np.float32), facing, np.ones(size, bool)
    )
    assert float(found) == pytest.approx(2 * math.sin(angle / 2), rel=1e-3)


def test_alignment_of_unit_normals_is_twice_the_angular_term():
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((1, 5, 5, 3)).astype(np.float32) for _ in range(2))
    mask, b = np.ones((1, 5, 5), bool), unit_vectors(b)
    twice = 2 * float(loss_terms.angular_loss(a, b, mask))
    assert float(loss_terms.alignment_loss(a, b, mask)) == pytest.approx(twice, rel=1e-5)
