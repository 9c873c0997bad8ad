"""Refined maps in the files that other programs open."""

import json
import struct
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import cv2
import numpy as np
from etils.epath import Path
from jaxtyping import Float, Shaped

from urgt_jax.data.priors.given import axis_signs
from urgt_jax.errors import import_extra
from urgt_jax.files import atomic_write, write_text
from urgt_jax.images.colour import RGB, colour_normal, colour_range, colour_values
from urgt_jax.images.files import ScratchMap, map_writer, read_map, write_image
from urgt_jax.images.map_files import PNG_TEXT
from urgt_jax.images.rows import LazyMap, row_slices
from urgt_jax.images.surfaces import Surface, make_surface, write_glb, write_ply
from urgt_jax.inference.coarse_maps import CoarseMaps
from urgt_jax.inference.compare_page import write_compare_page
from urgt_jax.inference.refiner import Strips

MAPS = ("depth", "normal")
CONFIDENCES = ("depth_confidence", "normal_confidence")
DEFAULT_FORMATS = ("npy", "png")
SPATIAL = ("ply", "glb", "camera")  # formats that need the focal length
MESH_PIXELS = 2**20  # vertices of a mesh, at most
CLOUD_PIXELS = 2**22  # points of a cloud, at most
INFINITE = 65535  # in a 16-bit PNG, what stands for infinite depth; none of the finite numbers
MIN_DEPTH = 1e-3  # metres; nearer depth gets the colour of this depth
FARTHEST = 20.0  # in space, disparity of 0 is this many times farther than the nearest pixel


@dataclass
class Target:
    """What is saved about one image, and how."""

    prefix: Path  # the folder, and the start of the names
    formats: tuple[str, ...]
    image: RGB
    coarse: CoarseMaps
    weights_unit: str  # of the coarse depth: disparity or depth
    focal: float | None  # pixels
    axes: str = "opencv"  # of normals and points
    maps: dict[str, np.ndarray] = field(default_factory=dict)  # normals have `axes`

    def named(self, ending: str) -> Path:
        """The path of a file: the prefix and an ending such as depth.npy."""
        return self.prefix.with_name(f"{self.prefix.name}_{ending}")

    def whole(self, suffix: str) -> Path:
        """The path of the one file of a format that holds everything: the prefix and a suffix."""
        return self.prefix.with_name(f"{self.prefix.name}{suffix}")

    @property
    def unit_name(self) -> str:
        """What the numbers of the refined depth are."""
        return "metres" if self.is_metric else "disparity"

    @property
    def is_metric(self) -> bool:
        """Whether refined depth is in metres."""
        return self.coarse.unit.is_metric

    @property
    def axes_letters(self) -> str:
        """The axes as three letters, such as RDF."""
        pairs = zip(axis_signs(self.axes), "RDF", "LUB", strict=True)
        return "".join(ours if sign > 0 else other for sign, ours, other in pairs)


def save_result(strips: Strips, target: Target) -> None:
    """Write refined maps in all formats of a target; strips come from the top.

    The maps are written to disk first, so that they need not fit in memory.
    """
    names = list(MAPS)
    if {"confidence", "npz", "exr"} & set(target.formats):
        names += CONFIDENCES
    saved = []
    if "npy" in target.formats:
        saved += MAPS
    if "confidence" in target.formats:
        saved += CONFIDENCES
    with ExitStack() as scratch:
        target.maps |= _write_maps(strips, target, names, saved, scratch)
        for name in target.formats:
            if name in WRITERS:
                WRITERS[name](target)
        if target.coarse.known is not None and "mask" not in target.formats:
            _write_mask(target)
        if target.coarse.sky is not None:
            write_image(target.named("sky.png"), target.coarse.sky)
        target.maps.clear()


def _write_maps(
    strips: Strips, target: Target, names: list[str], saved: list[str], scratch: ExitStack
) -> dict[str, np.ndarray]:
    """Write the maps of these names row by row, and map them into memory.

    Those in `saved` become .npy files, the others files without a name, which `scratch` closes.
    Confidences that the model does not predict are left out.
    """
    signs = axis_signs(target.axes)
    writers = {}
    scratch_maps: dict[str, ScratchMap] = {}
    with ExitStack() as files:
        for _, result in strips:
            maps = result._asdict()
            maps["normal"] = result.normal * signs
            for name in names:
                values = maps[name]
                if values is None:
                    continue
                if name not in writers:
                    shape = (*target.image.shape[:2], *values.shape[2:])
                    if name in saved:
                        writer = map_writer(target.named(f"{name}.npy"), shape)
                        writers[name] = files.enter_context(writer)
                    else:
                        scratch_map = ScratchMap(target.prefix.parent, shape)
                        scratch_maps[name] = scratch.enter_context(scratch_map)
                        writers[name] = scratch_map.write
                writers[name](values)
    written = {}
    for name in writers:
        if name in scratch_maps:
            written[name] = scratch_maps[name].read()
        else:
            written[name] = read_map(target.named(f"{name}.npy"), name, mapped=True)
    return written


def save_coarse(
    depth: Float[np.ndarray, "h w"], normal: Float[np.ndarray, "k l 3"], prefix: Path, metric: bool
) -> None:
    """Write coarse maps, of which sizes may differ, as .npy files and as pictures."""
    depth_path = prefix.with_name(f"{prefix.name}_depth.npy")
    normal_path = prefix.with_name(f"{prefix.name}_normal.npy")
    for path, values in ((depth_path, depth), (normal_path, normal)):
        with map_writer(path, values.shape) as write:
            for rows in row_slices(len(values)):
                write(values[rows])
    write_image(depth_path.with_suffix(".png"), draw_depth(depth, metric))
    write_image(normal_path.with_suffix(".png"), draw_normal(normal))


def _our_normals(target: Target) -> LazyMap:
    """The refined normals with x right, y down, z forward."""
    signs = axis_signs(target.axes)

    def turn(normal: np.ndarray) -> np.ndarray:
        return normal * signs

    return LazyMap(target.maps["normal"], turn)


def draw_depth(depth: Float[np.ndarray, "H W"], metric: bool) -> RGB:
    """Depth as a picture: near is bright. With `metric` it is in metres, otherwise disparity."""
    disparity = LazyMap(depth, to_disparity) if metric else depth
    return draw_disparity(disparity, *colour_range(disparity))


def draw_disparity(disparity: Float[np.ndarray, "H W"] | LazyMap, low: float, high: float) -> RGB:
    """Disparity as a picture: `low` and below is dark, `high` and above is bright."""
    picture = np.empty((*disparity.shape, 3), np.uint8)
    for rows in row_slices(len(picture)):
        picture[rows] = colour_values(disparity[rows], low, high)
    return picture


def to_disparity(depth: np.ndarray) -> np.ndarray:
    """1 / depth of metres, at most that of MIN_DEPTH."""
    return 1 / np.maximum(depth, MIN_DEPTH)


def draw_normal(normal: np.ndarray | LazyMap) -> RGB:
    """Normals as a picture."""
    picture = np.empty(normal.shape, np.uint8)
    for rows in row_slices(len(picture)):
        picture[rows] = colour_normal(np.asarray(normal[rows]))
    return picture


def _write_png(target: Target) -> None:
    write_image(target.named("depth.png"), draw_depth(target.maps["depth"], target.is_metric))
    write_image(target.named("normal.png"), draw_normal(_our_normals(target)))


def _write_png16(target: Target) -> None:
    """Whole numbers, with their scale and offset in the PNG's text and in a JSON file."""
    depth = target.maps["depth"]
    finite = np.isfinite(depth)
    low = float(depth.min(where=finite, initial=np.inf)) if finite.any() else 0.0
    scale = max((float(depth.max(where=finite, initial=low)) - low) / (INFINITE - 1), 1e-12)
    meaning = {"unit": target.unit_name, "scale": scale, "offset": low}
    numbers = np.round(np.where(finite, (depth - low) / scale, INFINITE)).astype(np.uint16)
    if not finite.all():
        meaning["infinite"] = INFINITE
    _write_deep_png(target.named("depth16.png"), numbers, meaning)
    meaning = {"axes": target.axes_letters, "scale": 2 / 65535, "offset": -1.0}
    normal = np.clip(target.maps["normal"], -1, 1)
    numbers = np.round((normal + 1) * (65535 / 2)).astype(np.uint16)
    _write_deep_png(target.named("normal16.png"), numbers[..., ::-1], meaning)


def _write_deep_png(path: Path, numbers: Shaped[np.ndarray, "H W *C"], meaning: dict) -> None:
    """A 16-bit PNG with a text. OpenCV writes 16-bit colours, which Pillow cannot, but no text."""
    text = json.dumps(meaning)
    content = cv2.imencode(".png", numbers)[1].tobytes()
    chunk = b"tEXt" + PNG_TEXT.encode() + b"\0" + text.encode()
    checksum = struct.pack(">I", zlib.crc32(chunk))
    after_header = 8 + 25  # the signature and the chunk IHDR
    with atomic_write(path) as file:
        file.write(content[:after_header])
        file.write(struct.pack(">I", len(chunk) - 4) + chunk + checksum)
        file.write(content[after_header:])
    explanation = {"meaning": "value * scale + offset", **meaning}
    write_text(path.with_suffix(".json"), json.dumps(explanation, indent=1) + "\n")


def _write_npz(target: Target) -> None:
    arrays = {name: np.asarray(values) for name, values in target.maps.items()}
    if target.coarse.known is not None:
        arrays["mask"] = target.coarse.known
    if target.coarse.sky is not None:
        arrays["sky"] = target.coarse.sky
    if target.focal is not None:
        arrays["intrinsics"] = _intrinsics(target)
    arrays["unit"] = np.array(target.unit_name)
    arrays["axes"] = np.array(target.axes_letters)
    with atomic_write(target.whole(".npz")) as file:
        np.savez_compressed(file, **arrays)


def _write_exr(target: Target) -> None:
    """Channels named as in other programs: Z for metres; disparity has a name of its own."""
    openexr = import_extra("OpenEXR", "exr")
    channels = {"Z" if target.is_metric else "disparity": target.maps["depth"]}
    for i in range(3):
        channels[f"normal.{'XYZ'[i]}"] = target.maps["normal"][..., i]
    for kind in ("depth", "normal"):
        if f"{kind}_confidence" in target.maps:
            channels[f"{kind}.confidence"] = target.maps[f"{kind}_confidence"]
    if target.coarse.known is not None:
        channels["mask"] = target.coarse.known.astype(np.float32)
    if target.coarse.sky is not None:
        channels["sky"] = target.coarse.sky.astype(np.float32)
    pixels = {name: np.ascontiguousarray(values, np.float32) for name, values in channels.items()}
    header = {
        "compression": openexr.ZIP_COMPRESSION,
        "type": openexr.scanlineimage,
        "depthUnit": target.unit_name,
        "normalAxes": target.axes_letters,
    }
    with atomic_write(target.whole(".exr")) as file:
        with openexr.File(header, pixels) as image:
            image.write(file.name)


def _distance(target: Target) -> Float[np.ndarray, "H W"]:
    """Depth for points in space: metres, or 1 / disparity with the nearest pixel at 1.

    It is infinite in the sky, which no surface shows.
    """
    depth = target.maps["depth"]
    if target.is_metric:
        return depth
    nearest = max(float(depth.max()), 1e-12)
    distance = 1 / np.maximum(depth / np.float32(nearest), np.float32(1 / FARTHEST))
    if target.coarse.sky is None:
        return distance
    return np.where(target.coarse.sky, np.float32(np.inf), distance)


def _surface(target: Target, most: int) -> Surface:
    """The refined maps in space, at most that many pixels of them."""
    return make_surface(_distance(target), _our_normals(target), target.image, target.focal, most)


def _write_ply(target: Target) -> None:
    write_ply(target.whole(".ply"), _surface(target, CLOUD_PIXELS), axis_signs(target.axes))


def _write_glb(target: Target) -> None:
    write_glb(target.whole(".glb"), _surface(target, MESH_PIXELS), target.image)


def _intrinsics(target: Target) -> Float[np.ndarray, "3 3"]:
    height, width = target.image.shape[:2]
    focal = target.focal
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def _write_camera(target: Target) -> None:
    height, width = target.image.shape[:2]
    camera = {
        "width": width,
        "height": height,
        "fx": target.focal,
        "fy": target.focal,
        "cx": width / 2,
        "cy": height / 2,
        "pixel_centre": 0.5,
        "depth": target.unit_name,
        "axes": target.axes_letters,
    }
    write_text(target.named("camera.json"), json.dumps(camera, indent=1) + "\n")


def _write_mask(target: Target) -> None:
    """White where the coarse depth was known."""
    known = target.coarse.known
    if known is None:
        known = np.ones(target.image.shape[:2], bool)
    write_image(target.named("mask.png"), known)


def _write_compare(target: Target) -> None:
    coarse, refined = _comparable_disparities(target)
    # One range of colours for both, so that a colour means the same on both sides of the slider.
    ranges = [colour_range(coarse), colour_range(refined)]
    low = min(low for low, _ in ranges)
    high = max(high for _, high in ranges)
    pictures = {
        "image": target.image,
        "coarse_depth": draw_disparity(coarse, low, high),
        "depth": draw_disparity(refined, low, high),
        "coarse_normal": draw_normal(target.coarse.normal),
        "normal": draw_normal(_our_normals(target)),
    }
    write_compare_page(target.named("compare.html"), target.prefix.name, pictures)


def _comparable_disparities(target: Target) -> tuple[LazyMap, LazyMap]:
    """The coarse and the refined depth as disparity in the same unit."""

    def to_unit_of_refined(depth: np.ndarray) -> np.ndarray:
        if target.weights_unit == "depth":
            return to_disparity(depth)
        if target.is_metric:
            return depth  # 1/metres
        return depth / np.float32(target.coarse.scale)

    def from_refined(depth: np.ndarray) -> np.ndarray:
        return to_disparity(depth) if target.is_metric else depth

    return (
        LazyMap(target.coarse.depth, to_unit_of_refined),
        LazyMap(target.maps["depth"], from_refined),
    )


WRITERS: dict[str, Callable[[Target], None]] = {
    "png": _write_png,
    "png16": _write_png16,
    "npz": _write_npz,
    "exr": _write_exr,
    "ply": _write_ply,
    "glb": _write_glb,
    "mask": _write_mask,
    "camera": _write_camera,
    "compare": _write_compare,
}
FORMATS = ("npy", *WRITERS, "confidence")
# How the files of each format end, after the name of the image. The mask is among MASKS.
ENDINGS = {
    "npy": ("_depth.npy", "_normal.npy"),
    "png": ("_depth.png", "_normal.png"),
    "png16": ("_depth16.png", "_depth16.json", "_normal16.png", "_normal16.json"),
    "npz": (".npz",),
    "exr": (".exr",),
    "ply": (".ply",),
    "glb": (".glb",),
    "mask": (),
    "camera": ("_camera.json",),
    "compare": ("_compare.html",),
    "confidence": ("_depth_confidence.npy", "_normal_confidence.npy"),
}
MASKS = ("_mask.png", "_sky.png")  # written where there is something to say, whatever the formats
COARSE = ("_coarse_depth.npy", "_coarse_normal.npy", "_coarse_depth.png", "_coarse_normal.png")


def result_names(stem: str, formats: tuple[str, ...], with_coarse: bool) -> set[str]:
    """The names of all files that may be written about an image."""
    endings = [*MASKS, *(COARSE if with_coarse else ())]
    for name in formats:
        endings += ENDINGS[name]
    return {f"{stem}{ending}" for ending in endings}
