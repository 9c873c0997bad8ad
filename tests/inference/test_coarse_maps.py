"""Coarse maps as their refiner takes them, and refined depth in the unit of the user."""

from dataclasses import replace

import numpy as np
import pytest

from urgt_jax.config import Prior
from urgt_jax.data.priors.given import DISPARITY, METRES, parse_depth_unit
from urgt_jax.errors import UserError
from urgt_jax.images.files import ImageHeader
from urgt_jax.images.map_files import MapFile
from urgt_jax.inference.coarse_maps import Masks, Statement, prepare_coarse_maps
from urgt_jax.inference.refiner import Result

RNG = np.random.default_rng(0)
HEADER = ImageHeader((48, 64), 1, None)
NORMAL = MapFile(np.broadcast_to(np.float32([0, 0, -1]), (48, 64, 3)))
MILLIMETRES = RNG.integers(500, 4000, (24, 32)).astype(np.uint16)


def weights_for(kind: str, config):
    """A configuration of weights for disparity, or for metric depth."""
    return replace(config, prior=Prior(kind=kind))


@pytest.mark.parametrize("wanted", ["disparity", "depth"])
def test_prepare_converts_resizes_and_describes(micro, wanted):
    depth = MILLIMETRES.copy()
    depth[:12] = 0
    statement = Statement(parse_depth_unit("mm"))
    coarse = prepare_coarse_maps(
        MapFile(depth), NORMAL, Masks(), HEADER, statement, weights_for(wanted, micro)
    )
    assert coarse.depth.shape == (48, 64) and coarse.unit == METRES
    np.testing.assert_array_equal(coarse.known, np.arange(48)[:, None].repeat(64, 1) >= 24)
    assert coarse.notes == [
        "coarse depth: 24 x 32 pixels, units of 0.001 metres, 50 % unknown and filled"
    ]
    metres = coarse.depth if wanted == "depth" else 1 / coarse.depth
    assert 0.5 <= metres.min() and metres.max() <= 4


def test_restore_returns_metres_and_bounds_what_is_far(micro):
    depth = MapFile(MILLIMETRES.astype(np.float32))
    statement = Statement(parse_depth_unit("millimetres"))
    coarse = prepare_coarse_maps(depth, NORMAL, Masks(), HEADER, statement, micro)
    refined = Result(np.float32([[0.5, 0.25, 0.0, -1.0]]), None, None, None)
    [(_, result)] = coarse.restore(iter([(slice(0, 1), refined)]), "disparity")
    farthest = 2 / coarse.depth.min()
    np.testing.assert_allclose(result.depth, [[2, 4, farthest, farthest]], rtol=1e-6)


def test_restore_leaves_disparity_alone(micro):
    depth = MapFile(RNG.random((48, 64), np.float32))
    coarse = prepare_coarse_maps(depth, NORMAL, Masks(), HEADER, Statement(), micro)
    assert coarse.unit == DISPARITY and coarse.depth is depth.values
    strips = [(slice(0, 1), Result(np.float32([[-1, 3]]), None, None, None))]
    assert list(coarse.restore(iter(strips), "disparity")) == strips


def test_prepare_makes_normals_with_the_field_of_view_or_the_focal_length(micro):
    ramp = np.linspace(1, 2, 32, dtype=np.float32)[None].repeat(24, 0)
    depth = MapFile(1 / ramp, unit="metres")
    stated = prepare_coarse_maps(depth, None, Masks(), HEADER, Statement(fov=90), micro)
    assert stated.notes[1] == "normals from depth, with a field of view of 90.0 degrees"
    header = HEADER._replace(focal=32.0)
    known = prepare_coarse_maps(depth, None, Masks(), header, Statement(), micro)
    np.testing.assert_array_equal(stated.normal, known.normal)
    assert stated.normal.shape == (48, 64, 3)
    assert (stated.normal[..., 0] < -0.1).all()  # nearer to the right: the surface faces left
    with pytest.raises(UserError, match="no coarse normal map. .*--fov DEGREES"):
        prepare_coarse_maps(depth, None, Masks(), HEADER, Statement(), micro)


def test_prepare_asks_for_a_unit_that_nothing_shows(micro):
    floats = MapFile(MILLIMETRES.astype(np.float32))
    header = HEADER._replace(focal=60.0)
    with pytest.raises(UserError, match="unit of the coarse depth is not known.*--depth-unit: met"):
        prepare_coarse_maps(floats, None, Masks(), header, Statement(), micro)
    with pytest.raises(UserError, match="holds uint16, whose unit is not known. Pass --depth-unit"):
        prepare_coarse_maps(MapFile(MILLIMETRES), NORMAL, Masks(), HEADER, Statement(), micro)


@pytest.mark.parametrize("kind", ["disparity", "depth"])
def test_prepare_notices_the_other_unit_by_the_normals(micro, kind):
    x = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(48, 0)
    normal = np.broadcast_to(np.float32([0.6, 0, -0.8]), (48, 64, 3))  # farther to the right
    values = {"depth": 1 + x, "disparity": 2 - x}
    config = weights_for(kind, micro)
    right = prepare_coarse_maps(
        MapFile(values[kind]), MapFile(normal), Masks(), HEADER, Statement(), config
    )
    assert right.unit.kind == kind
    [other] = set(values) - {kind}
    with pytest.raises(UserError, match="as the normals show.* --depth-unit"):
        prepare_coarse_maps(
            MapFile(values[other]), MapFile(normal), Masks(), HEADER, Statement(), config
        )


def test_prepare_doubts_the_axes_of_normals_only_where_nobody_has_said_what_they_are(micro):
    x = np.linspace(0, 1, 64, dtype=np.float32)
    y = np.linspace(0, 1, 48, dtype=np.float32)[:, None]
    depth = MapFile(3 - x - y, unit="disparity")  # farther to the right and downwards
    normal = np.broadcast_to(np.float32([0.48, -0.48, -0.73]), (48, 64, 3))  # y points up
    with pytest.raises(UserError, match="only with one of x and y reversed"):
        prepare_coarse_maps(depth, MapFile(normal), Masks(), HEADER, Statement(), micro)
    network = MapFile(normal, axes="opencv")
    prepare_coarse_maps(depth, network, Masks(), HEADER, Statement(), micro)
    stated = Statement(normal_axes="opencv")
    prepare_coarse_maps(depth, MapFile(normal), Masks(), HEADER, stated, micro)


@pytest.mark.parametrize("fov", [0, 180, -3])
def test_statement_rejects_a_field_of_view_that_does_not_exist(fov):
    with pytest.raises(UserError, match="field of view .* is out of range"):
        Statement(fov=fov)


SKY = np.arange(48)[:, None].repeat(64, 1) < 12


@pytest.mark.parametrize("wanted", ["disparity", "depth"])
def test_infinite_depth_is_sky_and_becomes_infinite_again(micro, wanted):
    """What is in front of the sky stays as near as without it."""
    metres = np.where(SKY, np.inf, 3).astype(np.float32)
    metres[30:34, 10:20] = np.nan
    coarse = prepare_coarse_maps(
        MapFile(metres),
        NORMAL,
        Masks(),
        HEADER,
        Statement(parse_depth_unit("metres")),
        weights_for(wanted, micro),
    )
    np.testing.assert_array_equal(coarse.sky, SKY)
    assert coarse.known[SKY].all() and not coarse.known[31, 15]
    assert coarse.notes[-1] == "sky: 25 % of the image"
    far = 80 if wanted == "depth" else 0
    assert (coarse.depth[SKY] == far).all()
    near = coarse.depth[~SKY] if wanted == "depth" else 1 / coarse.depth[~SKY]
    np.testing.assert_allclose(near, 3, rtol=1e-5)
    refined = Result(coarse.depth, NORMAL.values, None, None)
    [(_, result)] = coarse.restore(iter([(slice(0, 48), refined)]), wanted)
    assert (result.depth[SKY] == np.inf).all() and (result.normal[SKY] == 0).all()
    np.testing.assert_allclose(result.depth[~SKY], 3, rtol=1e-5)
    np.testing.assert_array_equal(result.normal[~SKY], NORMAL.values[~SKY])


def test_the_mask_of_a_user_says_where_the_sky_is_at_its_own_size(micro):
    """Disparity of the sky is 0 then, and the edges of the mask are not those of a smaller map."""
    depth = MapFile(RNG.random((24, 32), np.float32) + 0.5, unit="disparity")
    masks = Masks(sky=np.arange(96)[:, None].repeat(128, 1) < 25)
    coarse = prepare_coarse_maps(depth, NORMAL, masks, HEADER, Statement(), micro)
    assert coarse.sky.shape == (48, 64) and coarse.sky[:12].all() and not coarse.sky[13:].any()
    refined = Result(RNG.random((48, 64), np.float32), NORMAL.values, None, None)
    [(_, result)] = coarse.restore(iter([(slice(0, 48), refined)]), "disparity")
    assert (result.depth[coarse.sky] == 0).all()
    np.testing.assert_array_equal(result.depth[~coarse.sky], refined.depth[~coarse.sky])


def test_normals_in_the_sky_do_not_count_as_other_axes(micro):
    """There they contradict the slope along x, which nothing else has."""
    rows, columns = np.mgrid[:48, :64]
    depth = MapFile(np.float32(0.5 + 0.0025 * columns + 0.01 * rows), unit="disparity")
    normals = np.where(SKY[..., None], [0.6, -0.6, -0.53], [0, -0.8, -0.6]).astype(np.float32)
    with pytest.raises(UserError, match="one of x and y reversed"):
        prepare_coarse_maps(depth, MapFile(normals), Masks(), HEADER, Statement(), micro)
    prepare_coarse_maps(depth, MapFile(normals), Masks(sky=SKY), HEADER, Statement(), micro)


def test_a_masked_pixel_is_unknown_even_if_it_is_infinite(micro):
    metres = MapFile(np.where(SKY, np.inf, 3).astype(np.float32), unit="metres")
    coarse = prepare_coarse_maps(metres, NORMAL, Masks(known=~SKY), HEADER, Statement(), micro)
    assert coarse.sky is None
    np.testing.assert_array_equal(coarse.known, ~SKY)
