"""The maps of a picture as coloured layers on disk, and side by side on one sheet."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from urgt_jax import files
from urgt_jax.errors import UserError
from urgt_jax.images.colour import RGB, colour_normal, colour_values

HOME = "report"  # the folder beside report.html
INDEX, THUMBNAIL, CONTENTS = "index.html", "thumbnail.jpg", "layers.json"
OURS = re.compile(  # also what a kill left of one
    r"\.?(index\.html|thumbnail\.jpg|layers\.json|(image|(depth|normal)\w*)\.png)(\.\w+\.tmp)?"
)
UNKNOWN = (128, 128, 128)
PALETTE = np.concatenate([[UNKNOWN], colour_values(np.linspace(0, 1, 255)[None], 0, 1)[0]]).astype(
    np.uint8
)
DEPTH_LIMIT, ANGLE_LIMIT = 0.2, 45.0  # errors from which the colour no longer changes
THUMBNAIL_WIDTH = 240
GAP = 4  # white pixels between pictures of a sheet
Shades = UInt8[np.ndarray, "H W"]  # numbers of colours in PALETTE


class Layers(NamedTuple):
    """The maps of one picture, at its own size; the truth is the side called "truth"."""

    image: RGB
    depth: dict[str, Float[np.ndarray, "H W"]]  # side -> 1/metres
    normal: dict[str, Float[np.ndarray, "H W 3"]]  # side -> unit normals
    valid: Bool[np.ndarray, "H W"]
    normal_valid: Bool[np.ndarray, "H W"]


def place(folder: Path, name: str) -> Path:
    """Where the files of a picture go: a safe folder name, different for different pictures."""
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:60]
    mark = hashlib.blake2s(name.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return folder / HOME / f"picture_{safe}-{mark}"


def write_thumbnail(folder: Path, name: str, image: RGB) -> None:
    """Saves the small picture that stands in the report's list."""
    small = Image.fromarray(image)
    small.thumbnail((THUMBNAIL_WIDTH, THUMBNAIL_WIDTH), Image.Resampling.BILINEAR, reducing_gap=2)
    with files.atomic_write(files.make_folder(place(folder, name)) / THUMBNAIL) as file:
        small.save(file, "JPEG", quality=85)


def write_layers(folder: Path, name: str, layers: Layers) -> None:
    """Saves the maps of a picture as PNGs under report/, and what a page needs to show them."""
    write_thumbnail(folder, name, layers.image)
    where = place(folder, name)
    _write_png(where / "image.png", layers.image)
    low, high = _range(layers)
    drawn = {}
    for group, sides in _drawings(layers, low, high).items():
        drawn[group] = list(sides)
        for side, draw in sides.items():
            _write_png(where / f"{group}_{side}.png", draw())
    contents = {"size": layers.valid.shape, "groups": drawn, "near": _metres(high),
                "far": _metres(low)}  # fmt: skip
    files.write_text(where / CONTENTS, json.dumps(contents))


def drop_layers(folder: Path, name: str) -> None:
    """Removes the maps of a picture; its thumbnail stays."""
    _remove(place(folder, name), keep=THUMBNAIL)


def kept(folder: Path, name: str, paged: bool) -> bool:
    """Whether a picture has its thumbnail on disk and, if it is to have a page, all its layers."""
    where = place(folder, name)
    return all((where / file).is_file() for file in (THUMBNAIL, CONTENTS)[: 1 + paged])


def clear(folder: Path, listed: Iterable[str] = (), paged: Iterable[str] = ()) -> None:
    """Removes an earlier report, before a new one is made; files that are not ours stay.

    So do the thumbnails of pictures that are `listed` already, and the layers of those `paged`.
    """
    try:
        (folder / "report.html").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {folder / 'report.html'}: {error.strerror}") from error
    small, whole = ({place(folder, name) for name in names} for names in (listed, paged))
    for where in (folder / HOME).glob("picture_*-????????"):
        if where not in whole:
            _remove(where, keep=THUMBNAIL if where in small else "")


def _remove(where: Path, keep: str = "") -> None:
    try:
        (where / CONTENTS).unlink(missing_ok=True)  # first: without it there is no page
        for path in where.glob("*"):
            if OURS.fullmatch(path.name) and path.name != keep:
                path.unlink()
        if not any(where.glob("*")):
            where.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"cannot remove {where}: {error.strerror}") from error


def sheet(examples: list[Layers]) -> RGB:
    """All pictures as one with white between: a row of depth and one of normals for each.

    A row is the image, the sides, the truth, and the errors of the sides.
    """
    rows = [row for layers in examples for row in _rows(layers)]
    width = max(row.shape[1] for row in rows)
    wide = [((0, 0), (0, width - row.shape[1]), (0, 0)) for row in rows]
    return np.concatenate(
        [np.pad(row, pad, constant_values=255) for row, pad in zip(rows, wide, strict=True)]
    )


def _rows(layers: Layers) -> list[RGB]:
    groups = _drawings(layers, *_range(layers))
    rows = []
    for kind in ("depth", "normal"):
        draws = [*groups.get(kind, {}).values(), *groups.get(f"{kind}_error", {}).values()]
        if draws:
            shown = [layers.image, *(_coloured(draw()) for draw in draws)]
            gaps = ((0, GAP), (0, GAP), (0, 0))
            rows.append(np.concatenate([np.pad(x, gaps, constant_values=255) for x in shown], 1))
    return rows


def _drawings(layers: Layers, low: float, high: float) -> dict[str, dict]:
    """Group -> side -> what draws the layer, so that only one is in memory at a time."""
    depth, normal = layers.depth, layers.normal
    shade = lambda x: lambda: _shades(x, low, high, x > 0)  # noqa: E731
    groups = {
        "depth": {side: shade(x) for side, x in depth.items()},
        "normal": {side: (lambda x=x: colour_normal(x)) for side, x in normal.items()},
        "depth_error": _errors(depth, relative_error, layers.valid, DEPTH_LIMIT),
        "normal_error": _errors(normal, _angle, layers.normal_valid, ANGLE_LIMIT),
    }
    return {group: sides for group, sides in groups.items() if sides}


def _errors(maps: dict[str, np.ndarray], error, valid: np.ndarray, limit: float) -> dict:
    return {
        side: (lambda x=x: _shades(error(x, maps["truth"]), 0, limit, valid))
        for side, x in maps.items()
        if side != "truth" and "truth" in maps
    }


def relative_error(x: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of 1/metres, in proportion to the true ones."""
    return np.abs(x - truth) / np.maximum(truth, 1e-6)


def _angle(x: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Degrees between unit vectors, from the chord: exact for small angles, as arccos is not."""
    chord = np.sqrt(np.square(x - truth).sum(-1))
    return np.degrees(2 * np.arcsin(np.minimum(chord / 2, 1)))


def _range(layers: Layers) -> tuple[float, float]:
    """The extremes of 1/metres that get colours: of the truth, without a percent at either end."""
    truth = layers.depth.get("truth", np.zeros_like(layers.valid, np.float32))
    values = truth[layers.valid & np.isfinite(truth) & (truth > 0)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values[:: 1 + values.size // 1_000_000], (1, 99))
    return float(low), float(high)


def _shades(x: np.ndarray, low: float, high: float, known: np.ndarray) -> Shades:
    """Numbers of colours from `low` to `high`; 0, grey, where nothing is known."""
    steps = (np.clip(x, low, high) - low) * (254 / max(high - low, 1e-12)) + 1.5
    return np.where(known & ~np.isnan(x), steps, 0).astype(np.uint8)


def _coloured(layer: RGB | Shades) -> RGB:
    return PALETTE[layer] if layer.ndim == 2 else layer


def _write_png(path: Path, layer: RGB | Shades) -> None:
    """Saves losslessly, and fast: numbers of colours are a third of the bytes of the colours."""
    picture = Image.fromarray(layer)
    if layer.ndim == 2:
        picture.putpalette(PALETTE.tobytes())
    with files.atomic_write(path) as file:
        picture.save(file, "PNG", compress_level=1)


def _metres(disparity: float) -> str:
    return f"{1 / disparity:.3g} m" if disparity > 1e-6 else "∞"
