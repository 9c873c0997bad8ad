"""Coarse maps as people have them: any unit, size and axes, with unknown pixels.

They become what a refiner takes: disparity or metres without holes, and unit normals with x right,
y down, z forward.
"""

import re
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from urgt_jax.data.priors.fill_holes import fill_channels, fill_holes
from urgt_jax.errors import UserError, require
from urgt_jax.images.geometry import normals_from_depth, unit_normals
from urgt_jax.images.resize import gaussian_blur, resize_map
from urgt_jax.images.rows import row_slices

MAX_ASPECT_ERROR = 0.03  # relative; networks and sensors round the sides of their maps
MAX_LENGTH_ERROR = 0.05  # of normals that are read from 0..1
COMPARED = 128  # pixels of the longer side at which depth is compared with normals
CLEAR = 0.3  # agreement of slopes and normals, from -1 to 1, that is not an accident
SEVERAL = "metres, millimetres, disparity, inverse (1/metres), or one unit in metres"


class DepthUnit(NamedTuple):
    """What the numbers of a depth map mean."""

    kind: Literal["depth", "disparity", "inverse"]  # inverse: 1 / depth with a known scale
    metres: float = 1.0  # of a depth of one

    @property
    def is_metric(self) -> bool:
        """Whether the map tells metres; disparity is 1 / depth at any scale and offset."""
        return self.kind != "disparity"


METRES = DepthUnit("depth")
DISPARITY = DepthUnit("disparity")
DEPTH_UNITS = {
    "metres": METRES,
    "meters": METRES,
    "m": METRES,
    "centimetres": DepthUnit("depth", 0.01),
    "centimeters": DepthUnit("depth", 0.01),
    "cm": DepthUnit("depth", 0.01),
    "millimetres": DepthUnit("depth", 0.001),
    "millimeters": DepthUnit("depth", 0.001),
    "mm": DepthUnit("depth", 0.001),
    "disparity": DISPARITY,
    "inverse": DepthUnit("inverse"),
}
AXES_NAMES = {"opencv": "RDF", "opengl": "RUB", "directx": "RUF"}


def parse_depth_unit(text: str) -> DepthUnit:
    """A unit by its name, or as the metres of a depth of one; a UserError for anything else."""
    if text in DEPTH_UNITS:
        return DEPTH_UNITS[text]
    try:
        metres = float(text)
    except ValueError:
        metres = 0.0
    require(
        0 < metres < float("inf"), f"the depth unit {text!r} is none of {SEVERAL}, such as 0.001"
    )
    return DepthUnit("depth", metres)


def axis_signs(axes: str) -> np.ndarray:
    """The factors that turn normals with these axes into ours (RDF), and ours into them.

    Axes are three letters for the directions of x, y and z: right or left, up or down, forward or
    backward. opencv is RDF, opengl is RUB, directx is RUF.
    """
    letters = AXES_NAMES.get(axes.lower(), axes.upper())
    require(
        re.fullmatch("[RL][DU][FB]", letters),
        f"the axes {axes!r} are neither opencv, opengl, nor three letters such as RUB: right or "
        "left, up or down, forward or backward",
    )
    signs = [1 if letter == ours else -1 for letter, ours in zip(letters, "RDF", strict=True)]
    return np.array(signs, np.float32)


class CoarseDepth(NamedTuple):
    """Coarse depth as a refiner takes it."""

    values: Float[np.ndarray, "H W"]  # in the unit of the weights; no unknown pixels
    known: Bool[np.ndarray, "H W"] | None  # None where all pixels are known
    unit: DepthUnit  # METRES or DISPARITY, the unit of the refined depth


def known_depth(
    values: Shaped[np.ndarray, "H W"], unit: DepthUnit, mask: Bool[np.ndarray, "h w"] | None
) -> Bool[np.ndarray, "H W"]:
    """Pixels with a depth: finite, inside the mask, and above 0 unless the map is disparity."""
    known = np.isfinite(values)
    if unit.is_metric:
        known &= values > 0
    if mask is not None:
        known &= resize_map(mask, values.shape, interpolate=False)
    return known


def convert_depth(
    values: Shaped[np.ndarray, "H W"],
    unit: DepthUnit,
    wanted: str,
    mask: Bool[np.ndarray, "h w"] | None = None,
    sky: Bool[np.ndarray, "H W"] | None = None,
) -> CoarseDepth:
    """Depth in the unit that weights expect (`wanted`: disparity or depth), its holes filled.

    Unknown pixels are filled as in training: from the 1 / depth around them. The sky counts as
    known, and is filled in the same way.
    """
    if wanted == "depth":
        require(
            unit.is_metric,
            "these weights expect metres, and disparity has no scale. Pass a map in metres, or "
            "weights for disparity",
        )
    is_untouched = unit in (METRES, DISPARITY) and unit.kind == wanted
    if is_untouched and mask is None and sky is None and values.dtype == np.float32:
        if _is_complete(values, unit):
            return CoarseDepth(values, None, unit)  # stays mapped into memory
    known = known_depth(values, unit, mask)
    surface = known if sky is None else known & ~sky
    require(
        surface.any(), "coarse depth has no known pixel: all are 0, negative, NaN, masked or sky"
    )
    known = known if sky is None else known | sky
    amount = np.where(surface, values, 1).astype(np.float32)
    if unit.kind == "depth":
        depth = amount * np.float32(unit.metres)
        disparity = 1 / depth
    else:
        disparity = amount
        depth = 1 / amount if unit.is_metric else None
    if not surface.all():
        disparity = fill_holes(disparity, surface)
        if depth is not None:
            depth = np.where(surface, depth, 1 / disparity)
    return CoarseDepth(
        depth if wanted == "depth" else disparity,
        None if known.all() else known,
        METRES if unit.is_metric else DISPARITY,
    )


def _is_complete(values: np.ndarray, unit: DepthUnit) -> bool:
    """Whether every pixel has a value, looked at some rows at a time."""
    for rows in row_slices(len(values)):
        if not known_depth(np.asarray(values[rows]), unit, None).all():
            return False
    return True


def convert_normal(
    values: Shaped[np.ndarray, "H W 3"], axes: str
) -> tuple[Float[np.ndarray, "H W 3"], list[str]]:
    """Normals with our axes and without unknown pixels, and notes about what was changed.

    `axes` is empty where nobody has said what they are. Unknown pixels are NaN, infinite or
    (0, 0, 0); they are filled from those around them.
    """
    notes = []
    if values.dtype.kind == "u":
        notes.append(f"{values.dtype} normals read as (n + 1) / 2")
        largest = np.iinfo(values.dtype).max
        values = values.astype(np.float32) * np.float32(2 / largest) - 1
    require(
        values.dtype.kind == "f",
        f"coarse normal has dtype {values.dtype}. Save it as float32, or as a PNG of (n + 1) / 2",
    )
    summary = _summarize_normals(values)
    if summary.is_coded:
        notes.append("normals in 0..1 read as (n + 1) / 2")
        values = values.astype(np.float32) * 2 - 1
        summary = _summarize_normals(values)
    require(
        summary.some_known,
        "coarse normal is 0 everywhere: pass unit vectors (x right, y down, z forward)",
    )
    if axes:
        signs = axis_signs(axes)
    else:
        signs = np.ones(3, np.float32)
        require(
            summary.mean_z <= 0,
            f"coarse normals point away from the camera (mean z {summary.mean_z:.2f}, but z is "
            "forward here): they have other axes. Pass --normal-axes opengl for x right, y up, z "
            "backward, or three letters such as RDB",
        )
    if (signs < 0).any():
        values = values.astype(np.float32) * signs
    if not summary.all_known:
        known = _known_normals(values)
        values = fill_channels(values, known)
        notes.append(f"{percent(known)} of the normals are unknown and were filled")
    return values, notes


class _NormalSummary(NamedTuple):
    mean_z: float
    some_known: bool
    all_known: bool
    is_coded: bool  # in 0..1


def _summarize_normals(values: np.ndarray) -> _NormalSummary:
    """What the values of a normal map show, looked at some rows at a time."""
    total_z = 0.0
    count = 0
    low = np.inf
    high = -np.inf
    length_error = 0.0  # of the vectors 2 n - 1
    for rows in row_slices(len(values)):
        strip = np.asarray(values[rows], np.float32)
        known = _known_normals(strip)
        if not known.all():
            strip = strip[known]
        if not strip.size:
            continue
        count += strip.size // 3
        total_z += strip[..., 2].sum(dtype=np.float64)
        low = min(low, strip.min())
        high = max(high, strip.max())
        if low >= 0:  # almost never: normals face the camera
            lengths = np.linalg.norm(2 * strip - 1, axis=-1)
            length_error += np.abs(lengths - 1).sum(dtype=np.float64)
    if not count:
        return _NormalSummary(0.0, False, False, False)
    is_coded = low >= 0 and high <= 1 and length_error / count < MAX_LENGTH_ERROR
    all_known = count == values.shape[0] * values.shape[1]
    return _NormalSummary(total_z / count, True, all_known, is_coded)


def _known_normals(values: Float[np.ndarray, "H W 3"]) -> Bool[np.ndarray, "H W"]:
    """Pixels with a normal: all finite, and not (0, 0, 0)."""
    length = np.einsum("hwc,hwc->hw", values, values)
    return np.isfinite(length) & (length > 0)


def percent(known: np.ndarray) -> str:
    """The share of pixels that are not in a mask, in words."""
    return f"{100 * (1 - known.mean()):.2g} %"


def describe_holes(known: Bool[np.ndarray, "H W"] | None) -> str:
    """The share of unknown pixels in words; empty if there are none."""
    return "" if known is None else f"{percent(known)} unknown and filled"


def fit_to_image(
    values: Shaped[np.ndarray, "h w *C"], size: tuple[int, int], what: str, orientation: int = 1
) -> Shaped[np.ndarray, "H W *C"]:
    """A map resized to its image, bilinearly; a mask keeps the nearest pixel.

    A UserError unless both have about the same aspect. `orientation` is the EXIF orientation of the
    image, which explains a map that is on its side.
    """
    check_aspect(values.shape[:2], size, what, orientation)
    if values.shape[:2] == tuple(size):
        return values
    if values.dtype == np.bool_:
        return resize_map(values, size, interpolate=False)
    return resize_map(np.asarray(values, np.float32), size)


def check_aspect(
    map_size: tuple[int, int], size: tuple[int, int], what: str, orientation: int = 1
) -> None:
    """Fail unless a map has about the aspect of its image; see `fit_to_image`."""
    h, w = map_size
    height, width = size
    if abs(h * width / (w * height) - 1) <= MAX_ASPECT_ERROR:
        return
    is_on_its_side = abs(w * width / (h * height) - 1) <= MAX_ASPECT_ERROR
    if orientation > 1 and is_on_its_side:
        turn = {6: "np.rot90(map, -1)", 8: "np.rot90(map)"}.get(orientation, "np.transpose")
        raise UserError(
            f"{what} is {h} x {w}, as the sensor stores it, but the image is turned upright to "
            f"{height} x {width} (EXIF orientation {orientation}). Turn the map too: {turn}"
        )
    raise UserError(
        f"{what} is {h} x {w}, but its image is {height} x {width}: the aspect ratios differ. "
        "Crop the map to what the image shows"
    )


def normals_of_depth(
    disparity: Float[np.ndarray, "H W"], focal: float
) -> Float[np.ndarray, "H W 3"]:
    """Unit normals of a disparity map without holes; `focal` is the focal length in pixels.

    The camera looks at the centre of the map.
    """
    height, width = disparity.shape
    intrinsics = np.array([focal, focal, width / 2, height / 2], np.float32)
    valid = disparity > 0
    depth = 1 / np.where(valid, disparity, 1)
    return filled_normals(depth.astype(np.float32), intrinsics, valid)


def filled_normals(
    depth: Float[np.ndarray, "H W"],
    intrinsics: Float[np.ndarray, "4"],
    valid: Bool[np.ndarray, "H W"],
) -> Float[np.ndarray, "H W 3"]:
    """Unit normals of depth; where they are not defined, they come from around."""
    normal, known = normals_from_depth(depth, intrinsics, valid)
    return unit_normals(fill_channels(np.asarray(normal), np.asarray(known)))


class Agreement(NamedTuple):
    """How the slopes of a map agree with normals along x and y, each from -1 to 1.

    Where normals have our axes, it is positive for depth and negative for disparity.
    """

    x: float
    y: float

    @property
    def grows_with_distance(self) -> bool | None:
        """Whether the map is depth rather than disparity; None if that is not clear."""
        mean = (self.x + self.y) / 2
        if abs(mean) < CLEAR or self.contradicts_itself:
            return None
        return mean > 0

    @property
    def contradicts_itself(self) -> bool:
        """Whether x and y say opposite things: the y axis of the normals points up."""
        return self.x * self.y < 0 and min(abs(self.x), abs(self.y)) >= CLEAR


def compare_slopes(
    values: Shaped[np.ndarray, "h w"], normal: Shaped[np.ndarray, "H W 3"]
) -> Agreement:
    """Compare the slopes of a depth or disparity map with normals.

    A surface that faces right gets farther to the right. At jumps slopes mean nothing, so that the
    steepest tenth is left out, and so are pixels that are not finite.
    """
    small = _shrink(values)
    small_normal = resize_map(_thin(normal), small.shape)
    finite = np.isfinite(_thin(values)).astype(np.uint8) * 255
    whole = resize_map(finite, small.shape) == 255  # no unknown pixel in them
    means = []
    for axis, channel in ((1, 0), (0, 1)):
        slope = np.gradient(small, axis=axis)
        component = small_normal[..., channel]
        limit = np.quantile(np.abs(slope), 0.9)
        used = (np.abs(component) > 0.1) & (np.abs(slope) <= limit) & (slope != 0) & whole
        agreement = (np.sign(slope) * np.sign(component))[used]
        # Few pixels say little: the mean is pulled to 0.
        means.append(float(agreement.sum() / (len(agreement) + 50)))
    return Agreement(*means)


def _shrink(values: np.ndarray) -> Float[np.ndarray, "h w"]:
    """A small smooth copy of a map without its unknown pixels."""
    values = _thin(values)
    filled = fill_holes(values, np.isfinite(values))
    share = min(1.0, COMPARED / max(values.shape))
    height, width = values.shape
    size = (max(2, round(share * height)), max(2, round(share * width)))
    return gaussian_blur(resize_map(filled, size), 1.5)


def _thin(values: np.ndarray) -> np.ndarray:
    """Every n-th row and column of a large map, as float32."""
    step = max(1, max(values.shape[:2]) // (8 * COMPARED))
    return np.asarray(values[::step, ::step], np.float32)
