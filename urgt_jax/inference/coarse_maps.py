"""From the coarse maps that a user gives, or that networks make, to those that a refiner takes."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from urgt_jax.config import Config
from urgt_jax.data.priors.fill_holes import fill_holes
from urgt_jax.data.priors.given import (
    DISPARITY,
    METRES,
    SEVERAL,
    DepthUnit,
    axis_signs,
    check_aspect,
    compare_slopes,
    convert_depth,
    convert_normal,
    describe_holes,
    fit_to_image,
    known_depth,
    normals_of_depth,
    parse_depth_unit,
    percent,
)
from urgt_jax.data.priors.sky import detect_sky, fit_mask, given_sky
from urgt_jax.errors import UserError, require
from urgt_jax.images.colour import RGB
from urgt_jax.images.files import ImageHeader
from urgt_jax.images.map_files import MapFile
from urgt_jax.inference.refiner import Strips

NO_NORMALS = (
    "no coarse normal map. Pass --coarse-normal FILE, let a network make it with --normal-weights "
    "FILE, or pass --fov DEGREES to make it from the depth (the image has no focal length)"
)
FARTHER = 2.0  # refined depth in metres is at most this multiple of the farthest coarse depth


@dataclass(frozen=True)
class Statement:
    """What the user says about coarse maps; an empty field stands for nothing."""

    depth_unit: DepthUnit | None = None
    normal_axes: str = ""
    fov: float | None = None  # horizontal field of view, degrees

    def __post_init__(self) -> None:
        if self.normal_axes:
            axis_signs(self.normal_axes)
        require(
            self.fov is None or 0 < self.fov < 180,
            f"the field of view {self.fov} is out of range: it is above 0 and below 180 degrees",
        )

    def focal_length(self, header: ImageHeader) -> float | None:
        """The focal length in pixels of the image; None if neither user nor image give it."""
        if self.fov is None:
            return header.focal
        return header.size[1] / 2 / np.tan(np.radians(self.fov) / 2)


class Masks(NamedTuple):
    """What the user says about the pixels of the coarse depth; None stands for nothing."""

    known: Bool[np.ndarray, "h w"] | None = None
    sky: Bool[np.ndarray, "k l"] | None = None


class CoarseMaps(NamedTuple):
    """The coarse maps of an image as its refiner takes them."""

    depth: Float[np.ndarray, "h w"]  # of the image's size, except in official mode
    normal: Float[np.ndarray, "k l 3"]
    known: Bool[np.ndarray, "H W"] | None  # pixels whose depth was given; None if all were
    unit: DepthUnit  # of the refined depth: METRES or DISPARITY
    scale: float  # the refiner's depth times this is in the unit of `depth`
    notes: list[str]  # what was decided and changed, for the user
    sky: Bool[np.ndarray, "H W"] | None = None  # None if there is none
    farthest: float = 0.0  # disparity of the farthest surface, in the unit of `depth`

    def restore(self, strips: Strips, wanted: str) -> Strips:
        """Refined maps with depth in `unit`; `wanted` is the unit of the weights.

        In the sky, depth is infinite, disparity is 0 (or the minimum of the coarse map, if that is
        negative), and normals are 0.
        """
        to_metres = self.unit == METRES and wanted == "disparity"
        if self.sky is None and not to_metres:
            yield from strips
            return
        far = np.float32(np.inf)
        if self.unit == DISPARITY:
            far = np.float32(min(0.0, self.farthest / self.scale))
        lowest = np.float32(self.farthest / FARTHER)
        for rows, result in strips:
            depth = result.depth
            if to_metres:
                depth = 1 / np.maximum(depth * np.float32(self.scale), lowest)
            normal = result.normal
            if self.sky is not None:
                sky = self.sky[rows]
                depth = np.where(sky, far, depth)
                normal = np.where(sky[..., None], np.float32(0), normal)
            yield rows, result._replace(depth=depth, normal=normal)


def prepare_coarse_maps(
    depth: MapFile,
    normal: MapFile | None,
    masks: Masks,
    header: ImageHeader,
    statement: Statement,
    config: Config,
    image: RGB | None = None,
) -> CoarseMaps:
    """Bring coarse maps of any unit, axes and size to what the weights of `config` expect.

    Without normals, they are made from depth and the focal length. With `image`, the sky is looked
    for where neither map nor masks have one. A UserError says what the user has to state, where a
    guess could be wrong.
    """
    wanted = config.prior.kind
    notes = []
    check_map_sizes(depth, normal, header)
    for values, what in ((masks.known, "the mask"), (masks.sky, "the mask of the sky")):
        if values is not None:
            check_aspect(values.shape, header.size, what, header.orientation)
    normals = None
    if normal is not None:
        normals, notes = convert_normal(normal.values, statement.normal_axes or normal.axes)
    unit = statement.depth_unit
    if unit is None:
        unit = _find_unit(depth, _without_sky(normals, masks.sky), wanted)
    sky = _find_sky(depth.values, unit, masks, image)
    sky_of_map = None if sky is None else fit_mask(sky, depth.values.shape)
    coarse = convert_depth(depth.values, unit, wanted, masks.known, sky_of_map)
    if normals is None:
        focal = statement.focal_length(header)
        require(focal is not None, NO_NORMALS)
        disparity = 1 / coarse.values if wanted == "depth" else coarse.values
        normals = normals_of_depth(disparity, focal * disparity.shape[1] / header.size[1])
        fov = 2 * np.degrees(np.arctan(header.size[1] / 2 / focal))
        notes.append(f"normals from depth, with a field of view of {fov:.1f} degrees")
        if unit == DISPARITY:
            notes.append("they are right only if a disparity of 0 is infinitely far")
    elif not (statement.normal_axes or normal.axes):
        _check_y_axis(coarse.values, _without_sky(normals, sky))

    height, width = depth.values.shape
    words = [f"{height} x {width} pixels", _name_unit(unit)]
    words.append(describe_holes(coarse.known))
    notes.insert(0, "coarse depth: " + ", ".join(word for word in words if word))
    values = coarse.values
    known = coarse.known
    if known is not None:
        known = fit_to_image(known, header.size, "coarse depth")
    scale = 1.0
    if config.eval.fidelity == "exact":
        values = fit_to_image(values, header.size, "coarse depth")
        normals = fit_to_image(normals, header.size, "coarse normal")
    else:
        scale = float(values.max())  # official mode divides by it
    farthest = 0.0
    if wanted == "disparity" and (coarse.unit == METRES or sky is not None):
        farthest = float(values.min())
    maps = CoarseMaps(values, normals, known, coarse.unit, scale, notes, None, farthest)
    if sky is not None:
        maps = _put_sky_far(maps, sky, header.size, config)
    elif masks.sky is not None or image is not None:
        notes.append("sky: none")
    return maps


def _find_sky(
    values: Shaped[np.ndarray, "h w"], unit: DepthUnit, masks: Masks, image: RGB | None
) -> Bool[np.ndarray, "k l"] | None:
    """The sky of the coarse depth: as the map has it, as the user says, or looked for.

    It has the size of the map, of the user's mask, or of the image that was looked at.
    """
    sky = given_sky(values, unit)
    if sky is not None and masks.known is not None:
        sky &= fit_mask(masks.known, values.shape)
    if masks.sky is not None:
        size = values.shape
        if masks.sky.shape[0] > size[0]:  # the finer of the two, which have one aspect ratio
            size = masks.sky.shape
        stated = fit_mask(masks.sky, size)
        sky = stated if sky is None else fit_mask(sky, size) | stated
    if sky is None and image is not None:
        known = known_depth(values, unit, masks.known)
        disparity = np.where(known, values, 0).astype(np.float32)
        if unit.kind == "depth":
            disparity = 1 / np.where(known, disparity, 1)
        sky = detect_sky(fill_holes(disparity, known), image)
    return sky if sky is not None and sky.any() else None


def _put_sky_far(
    maps: CoarseMaps, sky: Bool[np.ndarray, "k l"], size: tuple[int, int], config: Config
) -> CoarseMaps:
    """Set the coarse depth of the sky to what training sets it to, or farther.

    This comes after resizing, which would mix the sky with what is in front of it.
    """
    if config.prior.kind == "depth":
        far = max(config.data.max_depth, float(maps.depth.max()))
    else:
        far = min(0.0, maps.farthest)
    depth = np.where(fit_mask(sky, maps.depth.shape), np.float32(far), maps.depth)
    sky = fit_mask(sky, size)
    maps.notes.append(f"sky: {percent(~sky)} of the image")
    return maps._replace(depth=depth, sky=sky)


def check_map_sizes(depth: MapFile | None, normal: MapFile | None, header: ImageHeader) -> None:
    """Fail unless coarse maps have about the aspect of their image."""
    if depth is not None:
        check_aspect(depth.values.shape, header.size, "coarse depth", header.orientation)
    if normal is not None:
        check_aspect(normal.values.shape[:2], header.size, "coarse normal", header.orientation)


def _find_unit(depth: MapFile, normals: np.ndarray | None, wanted: str) -> DepthUnit:
    """The unit of depth that nobody has stated: from the file, or as the weights expect.

    Floats beside normals count as what the weights expect, unless the normals contradict.
    """
    if depth.unit:
        return parse_depth_unit(depth.unit)
    require(
        depth.values.dtype.kind == "f",
        f"coarse depth holds {depth.values.dtype}, whose unit is not known. Pass --depth-unit: "
        f"{SEVERAL}",
    )
    require(
        normals is not None,
        "the unit of the coarse depth is not known, and there are no coarse normals to infer it "
        f"from. Pass --depth-unit: {SEVERAL}",
    )
    agreement = compare_slopes(depth.values, normals)
    if agreement.grows_with_distance is True and wanted == "disparity":
        raise UserError(
            "coarse depth grows with the distance, as the normals show, but these weights expect "
            f"disparity (1 / depth). Pass --depth-unit: {SEVERAL}"
        )
    if agreement.grows_with_distance is False and wanted == "depth":
        raise UserError(
            "coarse depth falls with the distance, as the normals show, but these weights expect "
            "metres. If it is 1/metres, pass --depth-unit inverse"
        )
    return DISPARITY if wanted == "disparity" else METRES


def _check_y_axis(values: np.ndarray, normals: np.ndarray) -> None:
    """Fail if normals fit the depth along x, and its opposite along y."""
    agreement = compare_slopes(values, normals)
    require(
        not agreement.contradicts_itself,
        "coarse normals fit the depth only with one of x and y reversed: they have other axes. "
        "Pass --normal-axes RUF if y points up, or opencv if they are right",
    )


def _without_sky(
    normals: Float[np.ndarray, "k l 3"] | None, sky: Bool[np.ndarray, "H W"] | None
) -> Float[np.ndarray, "k l 3"] | None:
    """Normals that are 0 in the sky, where their slopes mean nothing."""
    if normals is None or sky is None:
        return normals
    return np.where(fit_mask(sky, normals.shape[:2])[..., None], np.float32(0), normals)


def _name_unit(unit: DepthUnit) -> str:
    if unit.kind == "inverse":
        return "1/metres"
    if unit.kind == "disparity":
        return "disparity"
    return "metres" if unit == METRES else f"units of {unit.metres:g} metres"
