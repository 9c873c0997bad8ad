"""The maps of an image as coloured layers on disk, and side by side on one sheet."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from etils.epath import Path
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from urgt_jax import files
from urgt_jax.errors import UserError
from urgt_jax.images.colour import RGB, colour_normal, colour_values
from urgt_jax.images.geometry import angles_between
from urgt_jax.remote import is_remote

HOME = "report"  # the folder beside report.html
INDEX = "index.html"
THUMBNAIL = "thumbnail.jpg"
CONTENTS = "layers.json"
# Files this module writes for an image, and what is left of one when the program is killed.
OWN_FILES = re.compile(
    r"\.?(index\.html|thumbnail\.jpg|layers\.json|(image|(depth|normal)\w*)\.png)(\.\w+\.tmp)?"
)
UNKNOWN = (128, 128, 128)  # the colour of pixels without a value
KNOWN_COLOURS = colour_values(np.linspace(0, 1, 255)[None], 0.0, 1.0)[0]
PALETTE = np.concatenate([[UNKNOWN], KNOWN_COLOURS]).astype(np.uint8)
DEPTH_LIMIT = 0.2  # relative error of 1/depth that has the last colour
ANGLE_LIMIT = 45.0  # angle in degrees that has the last colour
THUMBNAIL_WIDTH = 240
GAP = 4  # white pixels between the pictures of a sheet
ColourIndices = UInt8[np.ndarray, "H W"]  # into PALETTE


class Layers(NamedTuple):
    """The maps of one image, at its own size; the ground truth is the map called "truth"."""

    image: RGB
    depth: dict[str, Float[np.ndarray, "H W"]]  # name -> 1/metres
    normal: dict[str, Float[np.ndarray, "H W 3"]]  # name -> unit normals
    valid: Bool[np.ndarray, "H W"]
    normal_valid: Bool[np.ndarray, "H W"]


def image_folder(folder: Path, name: str) -> Path:
    """The folder for the files of an image: a safe name, different for different images."""
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:60]
    digest = hashlib.blake2s(name.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return folder / HOME / f"image_{safe}-{digest}"


def write_thumbnail(folder: Path, name: str, image: RGB) -> None:
    """Write the small image for the report's list."""
    small = Image.fromarray(image)
    small.thumbnail((THUMBNAIL_WIDTH, THUMBNAIL_WIDTH), Image.Resampling.BILINEAR, reducing_gap=2)
    home = files.make_folder(image_folder(folder, name))
    with files.atomic_write(home / THUMBNAIL) as file:
        small.save(file, "JPEG", quality=85)


def write_layers(folder: Path, name: str, layers: Layers) -> None:
    """Write the maps of an image as PNGs under report/, and what its page needs to show them."""
    write_thumbnail(folder, name, layers.image)
    home = image_folder(folder, name)
    _write_png(home / layer_file("image", "image"), layers.image)
    depth_range = _depth_range(layers)
    groups = _layer_groups(layers)
    for group, names in groups.items():
        for map_name in names:
            # Drawn one after the other: all layers of a large image would not fit in memory.
            layer = _draw(layers, group, map_name, depth_range)
            _write_png(home / layer_file(group, map_name), layer)
    far, near = depth_range
    contents = {
        "size": layers.valid.shape,
        "groups": groups,
        "near": _format_metres(near),
        "far": _format_metres(far),
    }
    files.write_text(home / CONTENTS, json.dumps(files.seal(contents)))


def layer_file(group: str, name: str) -> str:
    """The file of a layer in the folder of its image."""
    return "image.png" if name == "image" else f"{group}_{name}.png"


def has_layers(folder: Path, name: str) -> bool:
    """Whether the maps of an image are on disk."""
    return (image_folder(folder, name) / CONTENTS).is_file()


def read_contents(folder: Path, name: str) -> dict:
    """What is written about the layers of an image; a UserError if it is damaged."""
    path = image_folder(folder, name) / CONTENTS
    try:
        return files.unseal(files.read_json_object(path))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}). Remove {folder / HOME} and run urgt eval again"
        ) from error


def remove_layers(folder: Path, name: str) -> None:
    """Remove the maps of an image; its thumbnail stays."""
    _remove_files(image_folder(folder, name), keep=THUMBNAIL)


def is_written(folder: Path, name: str, with_page: bool) -> bool:
    """Whether an image has its thumbnail on disk and, if it is to have a page, its layers."""
    if with_page and not has_layers(folder, name):
        return False
    return (image_folder(folder, name) / THUMBNAIL).is_file()


def clear(folder: Path, listed: Iterable[str] = (), paged: Iterable[str] = ()) -> None:
    """Remove an earlier report; files of the user stay.

    The thumbnails of the images `listed` stay as well, and all files of those `paged`.
    """
    page = folder / "report.html"
    try:
        page.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {page}: {error.strerror}") from error
    listed_folders = {image_folder(folder, name) for name in listed}
    paged_folders = {image_folder(folder, name) for name in paged}
    for home in files.find_paths(folder / HOME, "image_*-????????"):
        if home not in paged_folders and not os.path.islink(home):
            _remove_files(home, keep=THUMBNAIL if home in listed_folders else "")


def _remove_files(home: Path, keep: str = "") -> None:
    try:
        # The contents first: without them there is no page that would miss a layer.
        (home / CONTENTS).unlink(missing_ok=True)
        for path in list(home.iterdir()):
            if OWN_FILES.fullmatch(path.name) and path.name != keep:
                path.unlink()
        if not is_remote(home) and not any(home.iterdir()):
            home.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"cannot remove {home}: {error.strerror}") from error


def sheet(examples: list[Layers]) -> RGB:
    """Draw all examples on one sheet: for each a row of depth and a row of normals.

    A row is the image, the candidates, the ground truth, and the errors of the candidates.
    """
    rows = [row for layers in examples for row in _sheet_rows(layers)]
    width = max(row.shape[1] for row in rows)
    padded = []
    for row in rows:
        padding = ((0, 0), (0, width - row.shape[1]), (0, 0))
        padded.append(np.pad(row, padding, constant_values=255))
    return np.concatenate(padded)


def _sheet_rows(layers: Layers) -> list[RGB]:
    groups = _layer_groups(layers)
    depth_range = _depth_range(layers)
    rows = []
    for kind in ("depth", "normal"):
        pictures = [layers.image]
        for group in (kind, f"{kind}_error"):
            for name in groups.get(group, []):
                layer = _draw(layers, group, name, depth_range)
                pictures.append(PALETTE[layer] if layer.ndim == 2 else layer)
        if len(pictures) > 1:
            gap = ((0, GAP), (0, GAP), (0, 0))
            padded = [np.pad(picture, gap, constant_values=255) for picture in pictures]
            rows.append(np.concatenate(padded, 1))
    return rows


def _layer_groups(layers: Layers) -> dict[str, list[str]]:
    """The names of the layers in each group; there are no empty groups."""
    groups = {}
    for kind, maps in (("depth", layers.depth), ("normal", layers.normal)):
        groups[kind] = list(maps)
        groups[f"{kind}_error"] = []
        if "truth" in maps:
            groups[f"{kind}_error"] = [name for name in maps if name != "truth"]
    order = ("depth", "normal", "depth_error", "normal_error")
    return {group: groups[group] for group in order if groups[group]}


def _draw(
    layers: Layers, group: str, name: str, depth_range: tuple[float, float]
) -> RGB | ColourIndices:
    if group == "depth":
        disparity = layers.depth[name]
        return _colour_indices(disparity, *depth_range, disparity > 0)
    if group == "normal":
        return colour_normal(layers.normal[name])
    if group == "depth_error":
        error = relative_error(layers.depth[name], layers.depth["truth"])
        return _colour_indices(error, 0.0, DEPTH_LIMIT, layers.valid)
    angle = angles_between(layers.normal[name], layers.normal["truth"])
    return _colour_indices(angle, 0.0, ANGLE_LIMIT, layers.normal_valid)


def relative_error(
    x: Float[np.ndarray, "H W"], truth: Float[np.ndarray, "H W"]
) -> Float[np.ndarray, "H W"]:
    """The error of 1/depth as a share of the true 1/depth."""
    return np.abs(x - truth) / np.maximum(truth, 1e-6)


def _depth_range(layers: Layers) -> tuple[float, float]:
    """The 1st and 99th percentile of the true 1/depth, which have the first and the last colour."""
    truth = layers.depth.get("truth", np.zeros_like(layers.valid, np.float32))
    values = truth[layers.valid & np.isfinite(truth) & (truth > 0)]
    if not values.size:
        return 0.0, 1.0
    step = 1 + values.size // 1_000_000
    low, high = np.percentile(values[::step], (1, 99))
    return float(low), float(high)


def _colour_indices(x: np.ndarray, low: float, high: float, known: np.ndarray) -> ColourIndices:
    """Indices of the colours from `low` to `high`; 0, which is grey, where nothing is known."""
    indices = (np.clip(x, low, high) - low) * (254 / max(high - low, 1e-12)) + 1.5
    return np.where(known & ~np.isnan(x), indices, 0).astype(np.uint8)


def _write_png(path: Path, layer: RGB | ColourIndices) -> None:
    """Write a lossless PNG quickly: colour indices are a third of the bytes of the colours."""
    picture = Image.fromarray(layer)
    if layer.ndim == 2:
        picture.putpalette(PALETTE.tobytes())
    with files.atomic_write(path) as file:
        picture.save(file, "PNG", compress_level=1)


def _format_metres(disparity: float) -> str:
    return f"{1 / disparity:.3g} m" if disparity > 1e-6 else "∞"
