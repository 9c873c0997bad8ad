"""Coarse maps of any unit, axes and size become what a refiner takes."""

import numpy as np
import pytest

from urgt_jax.data.priors import given
from urgt_jax.data.priors.given import (
    DISPARITY,
    METRES,
    DepthUnit,
    compare_slopes,
    convert_depth,
    convert_normal,
    fit_to_image,
    normals_of_depth,
    parse_depth_unit,
)
from urgt_jax.errors import UserError

RNG = np.random.default_rng(0)
SIZE = (48, 64)
FOCAL = 50.0
FACING = np.array([0, 0, -1], np.float32)


def plane(normal: tuple[float, float, float]) -> np.ndarray:
    """Depth in metres of a plane that is 3 metres away at the centre."""
    height, width = SIZE
    x = (np.arange(width) + 0.5 - width / 2) / FOCAL
    y = (np.arange(height)[:, None] + 0.5 - height / 2) / FOCAL
    nx, ny, nz = normal
    return (3 * nz / (nx * x + ny * y + nz)).astype(np.float32)


def unit(vector) -> np.ndarray:
    """The vector with length one."""
    return (np.array(vector) / np.linalg.norm(vector)).astype(np.float32)


TILTED = unit((0.4, 0.3, -1))


@pytest.mark.parametrize(
    "text,expected",
    [
        ("metres", METRES),
        ("mm", DepthUnit("depth", 0.001)),
        ("0.00025", DepthUnit("depth", 0.00025)),
        ("disparity", DISPARITY),
        ("inverse", DepthUnit("inverse")),
    ],
)
def test_parse_depth_unit(text, expected):
    assert parse_depth_unit(text) == expected


@pytest.mark.parametrize("text", ["feet", "0", "-1", "nan", "inf", ""])
def test_parse_depth_unit_names_the_units_that_exist(text):
    with pytest.raises(UserError, match=f"the depth unit '{text}' is none of metres, millimetres"):
        parse_depth_unit(text)


METRIC = RNG.integers(500, 9000, SIZE).astype(np.float32) / 1000
FORMS = {
    "metres": (METRIC, METRES),
    "doubles": (METRIC.astype(np.float64), METRES),
    "millimetres": (np.round(METRIC * 1000).astype(np.uint16), DepthUnit("depth", 0.001)),
    "inverse": (1 / METRIC, DepthUnit("inverse")),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wanted", ["depth", "disparity"])
def test_convert_depth_gives_the_same_map_from_every_unit(form, wanted):
    depth = convert_depth(*FORMS[form], wanted)
    expected = METRIC if wanted == "depth" else 1 / METRIC
    np.testing.assert_allclose(depth.values, expected, rtol=1e-6)
    assert depth.values.dtype == np.float32
    assert depth.known is None and depth.unit == METRES


def test_convert_depth_keeps_disparity_and_its_zeros():
    disparity = RNG.random(SIZE, np.float32)
    disparity[:5] = 0  # sky
    depth = convert_depth(disparity, DISPARITY, "disparity")
    assert depth.values is disparity  # a file that is mapped into memory stays one
    assert depth.known is None and depth.unit == DISPARITY


@pytest.mark.parametrize("unknown", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("wanted", ["depth", "disparity"])
def test_convert_depth_fills_unknown_pixels_of_a_plane(unknown, wanted):
    truth = plane(TILTED)
    known = RNG.random(SIZE) > 0.5
    depth = convert_depth(np.where(known, truth, np.float32(unknown)), METRES, wanted)
    np.testing.assert_array_equal(depth.known, known)
    metres = depth.values if wanted == "depth" else 1 / depth.values
    np.testing.assert_allclose(metres[known], truth[known], rtol=1e-6)
    np.testing.assert_allclose(metres, truth, rtol=0.1)


def test_convert_depth_fills_what_a_mask_leaves_out():
    truth = plane(TILTED)
    mask = np.ones((24, 32), bool)  # half the size
    mask[:, :5] = False
    spoiled = truth.copy()
    spoiled[:, :10] = 900
    depth = convert_depth(spoiled, METRES, "depth", mask)
    np.testing.assert_array_equal(depth.known[:, 9:11], [[False, True]] * SIZE[0])
    assert depth.values.max() <= truth[:, 10:].max() + 0.5


def test_convert_depth_rejects_what_it_cannot_convert():
    with pytest.raises(UserError, match="no known pixel"):
        convert_depth(np.zeros(SIZE, np.uint16), METRES, "disparity")
    with pytest.raises(UserError, match="these weights expect metres, and disparity has no scale"):
        convert_depth(np.ones(SIZE, np.float32), DISPARITY, "depth")


NORMALS = np.stack([unit((x, y, -1)) for x in (-1, 0, 2) for y in (-2, 1, 3)]).reshape(3, 3, 3)


@pytest.mark.parametrize(
    "axes,signs",
    [
        ("", (1, 1, 1)),
        ("opencv", (1, 1, 1)),
        ("opengl", (1, -1, -1)),
        ("directx", (1, -1, 1)),
        ("rub", (1, -1, -1)),
        ("LDB", (-1, 1, -1)),
    ],
)
def test_convert_normal_turns_other_axes(axes, signs):
    values, notes = convert_normal(NORMALS * np.array(signs, np.float32), axes)
    np.testing.assert_array_equal(values, NORMALS)
    assert not notes


def test_convert_normal_recognises_0_to_1_and_whole_numbers():
    coded = (NORMALS + 1) / 2
    values, notes = convert_normal(coded, "")
    np.testing.assert_allclose(values, NORMALS, atol=1e-6)
    assert notes == ["normals in 0..1 read as (n + 1) / 2"]
    values, notes = convert_normal(np.round(coded * 65535).astype(np.uint16), "")
    np.testing.assert_allclose(values, NORMALS, atol=1e-4)
    assert notes == ["uint16 normals read as (n + 1) / 2"]


def test_convert_normal_names_another_convention():
    with pytest.raises(
        UserError, match=r"mean z 0.\d\d, but z is forward here.* opengl for x right"
    ):
        convert_normal(NORMALS * np.array([1, -1, -1], np.float32), "")


@pytest.mark.parametrize("unknown", [0, np.nan])
def test_convert_normal_fills_unknown_pixels(unknown):
    normals = np.tile(FACING, (8, 8, 1))
    normals[2:4, 2:4] = unknown
    values, [note] = convert_normal(normals, "")
    np.testing.assert_allclose(values, np.tile(FACING, (8, 8, 1)), atol=1e-6)
    assert note == "6.2 % of the normals are unknown and were filled"


@pytest.mark.parametrize("axes", ["", "RD", "RRR", "xyz"])
def test_axis_signs_rejects_other_letters(axes):
    with pytest.raises(UserError, match="neither opencv, opengl, nor three letters such as RUB"):
        given.axis_signs(axes)


def test_fit_to_image_resizes_maps_and_masks():
    ramp = np.arange(8, dtype=np.float32)[None].repeat(4, 0)
    large = fit_to_image(ramp, (8, 16), "x")
    np.testing.assert_allclose(large[0, 1:-1], np.arange(0.25, 7, 0.5), atol=1e-6)
    mask = np.arange(8)[None].repeat(4, 0) > 3
    np.testing.assert_array_equal(fit_to_image(mask, (8, 16), "x")[0], np.arange(16) > 7)
    assert fit_to_image(ramp, (4, 8), "x") is ramp


def test_fit_to_image_explains_a_map_that_is_on_its_side():
    sideways = np.ones((40, 30), np.float32)
    with pytest.raises(
        UserError, match=r"x is 40 x 30, .*EXIF orientation 6\). .* np.rot90\(map, -"
    ):
        fit_to_image(sideways, (300, 400), "x", orientation=6)
    with pytest.raises(UserError, match="x is 40 x 30, but its image is 300 x 400: the aspect"):
        fit_to_image(sideways, (300, 400), "x", orientation=1)


@pytest.mark.parametrize("scale", [1, 7])
def test_normals_of_depth_are_exact_on_a_plane(scale):
    normals = normals_of_depth(1 / plane(TILTED) / scale, FOCAL)
    np.testing.assert_allclose(normals, np.broadcast_to(TILTED, normals.shape), atol=1e-3)


@pytest.mark.parametrize("tilt", [(0.4, 0.3, -1), (-0.5, 0.2, -1), (0.3, -0.8, -1)])
def test_compare_slopes_tells_depth_from_disparity(tilt):
    depth = plane(unit(tilt))
    normals = np.broadcast_to(unit(tilt), (*SIZE, 3))
    assert compare_slopes(depth, normals).grows_with_distance is True
    assert compare_slopes(1 / depth, normals).grows_with_distance is False
    assert compare_slopes(depth, normals * np.float32([1, -1, 1])).contradicts_itself


def test_compare_slopes_leaves_the_sky_out():
    """What fills the sky slopes along x, and so do the normals that are made up there."""
    rows, columns = np.mgrid[:96, :128]
    depth = np.float32(1 / (1 + 0.02 * rows + 0.005 * columns))
    normals = np.broadcast_to(np.float32([0, -0.8, -0.6]), (96, 128, 3)).copy()
    normals[:48] = [0.8, 0, -0.6]
    depth[:48] = np.inf
    agreement = compare_slopes(depth, normals)
    assert abs(agreement.x) < 0.1 and agreement.grows_with_distance is True


def test_compare_slopes_says_nothing_where_nothing_is_to_be_seen():
    flat = np.full(SIZE, 2, np.float32)
    agreement = compare_slopes(flat, np.broadcast_to(FACING, (*SIZE, 3)))
    assert agreement.grows_with_distance is None and not agreement.contradicts_itself
    noise = RNG.random(SIZE, np.float32)
    normals = RNG.normal(size=(*SIZE, 3)).astype(np.float32)
    assert compare_slopes(noise, normals).grows_with_distance is None


def test_fit_to_image_allows_3_percent_of_another_aspect():
    assert fit_to_image(np.ones((100, 103), np.float32), (200, 200), "x").shape == (200, 200)
    with pytest.raises(UserError, match="aspect"):
        fit_to_image(np.ones((100, 104), np.float32), (200, 200), "x")
