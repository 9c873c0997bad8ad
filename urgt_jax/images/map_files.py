"""Depth and normal maps in the file formats that people have. Values stay as they are stored."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from etils.epath import Path
from jaxtyping import Bool, Shaped
from PIL import Image

from urgt_jax.errors import UserError, import_extra, require
from urgt_jax.files import check_downloaded, parse_json, reporting_read_errors
from urgt_jax.images.depth_formats import open_pfm
from urgt_jax.images.files import (
    check_unpacked_size,
    decode_any_numbers,
    is_tiff,
    open_image,
    read_map,
)
from urgt_jax.remote import local_copy, readable

MAP_SUFFIXES = (".npy", ".npz", ".exr", ".pfm", ".png", ".tif", ".tiff")
CHANNELS = {"depth": 1, "normal": 3, "mask": 1}
NAMES = {"depth": "coarse depth map", "normal": "coarse normal map", "mask": "mask"}
PNG_TEXT = "urgt_jax"  # the key of the text in a PNG map that says what its numbers mean
# How the last parts of the names of EXR channels are spelled.
EXR_DEPTH = ("z", "depth", "disparity", "d", "y", "v")
EXR_NORMAL = (("x", "y", "z"), ("nx", "ny", "nz"), ("r", "g", "b"))


class MapFile(NamedTuple):
    """The numbers of a map file, and what the file says about them."""

    values: Shaped[np.ndarray, "H W *C"]  # as stored; may be mapped into memory
    unit: str = ""  # of depth, as for --depth-unit; empty if the file does not say
    axes: str = ""  # of normals, as for --normal-axes; empty if the file does not say


def read_map_file(path: Path, kind: str) -> MapFile:
    """Read a depth map or a mask [H, W], or a normal map [H, W, 3]; `kind` is a key of NAMES.

    The content decides about the format, not the name. A single channel may have an axis of its
    own, and a grey image may have three equal channels. A UserError for any other shape.
    """
    name = NAMES[kind]
    require(path.is_file(), f"no {name} at {path}")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"\x93NUMPY"):
        values = read_map(path, name, mapped=True)
    elif head.startswith(b"PK\x03\x04"):
        return _read_npz(path, kind)
    elif head.startswith(b"\x76\x2f\x31\x01"):
        return _read_exr(path, kind)
    elif head.startswith((b"Pf", b"PF")):
        values = open_pfm(path, CHANNELS[kind])
    elif head.startswith((b"\x89PNG", b"II", b"MM")):
        return _read_image_map(path, kind)
    else:
        require(head != b"", f"{path} is empty. Save the {name} again")
        check_downloaded(path, head, name)
        formats = ", ".join(suffix[1:] for suffix in MAP_SUFFIXES)
        raise UserError(f"{path} is not a {name} that can be read. Save it as {formats}")
    return MapFile(_check_channels(values, kind, path))


def _check_channels(values: np.ndarray, kind: str, path: Path) -> np.ndarray:
    """The map as [H, W] or [H, W, 3]; a UserError unless it has that shape and holds numbers."""
    if values.dtype == np.bool_:
        require(kind == "mask", f"{path} holds only true and false. Pass a mask with --mask")
        values = values.astype(np.uint8)
    require(
        values.dtype.kind in "uif",
        f"{path} has dtype {values.dtype}. A map holds floats or integers",
    )
    shape = "[H, W, 3]" if kind == "normal" else "[H, W]"
    if kind != "normal" and values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if kind != "normal" and values.ndim == 3 and values.shape[-1] in (3, 4):
        grey = values[..., 0]
        is_grey = (values[..., 1] == grey).all() and (values[..., 2] == grey).all()
        what = "depth map. Save the depth itself" if kind == "depth" else "mask. Save it in grey"
        require(is_grey, f"{path} is a colour image, not a {what}")
        values = grey
    channels = values.shape[2:]
    wanted = (3,) if kind == "normal" else ()
    require(
        values.ndim == 2 + len(wanted) and channels == wanted,
        f"{path} has shape {values.shape}. A {NAMES[kind]} has shape {shape}",
    )
    require(
        min(values.shape[:2]) > 1,
        f"{path} has shape {values.shape}: it needs at least 2 pixels a side",
    )
    return values


def _read_npz(path: Path, kind: str) -> MapFile:
    """The array of an archive: the only one, or the one that is named after the kind of map."""
    with (
        reporting_read_errors(path, ".npz map"),
        np.load(readable(path), allow_pickle=False) as archive,
    ):
        names = list(archive)
        matches = [name for name in names if name == kind]
        if not matches:
            matches = [name for name in names if kind in name.lower()]
        if len(names) == 1:
            matches = names
        require(
            len(matches) == 1,
            f"{path} holds the arrays {', '.join(names)}. Name one of them {kind}",
        )
        for name in {matches[0], "unit", "axes"} & set(names):
            check_unpacked_size(path, archive.zip.getinfo(f"{name}.npy").file_size)
        values = _check_channels(archive[matches[0]], kind, path)
        unit = str(archive["unit"]) if "unit" in names and kind == "depth" else ""
        axes = str(archive["axes"]) if "axes" in names and kind == "normal" else ""
        return MapFile(values, unit, axes)


def _read_exr(path: Path, kind: str) -> MapFile:
    """The channels of an OpenEXR file that hold the map."""
    openexr = import_extra("OpenEXR", "exr")
    with reporting_read_errors(path, "EXR map"):
        name = str(local_copy(path))
        with openexr.File(name, header_only=True) as file:
            first, last = file.header()["dataWindow"]
            size = np.prod(np.asarray(last, np.int64) - first + 1)
            check_unpacked_size(path, 4 * int(size) * len(file.header()["channels"]))
        with openexr.File(name, separate_channels=True) as file:
            header = dict(file.header())  # the file clears its own when it is closed
            pixels = {name: channel.pixels for name, channel in file.channels().items()}
    names = _exr_channels(pixels, kind)
    require(
        names,
        f"{path} has the channels {', '.join(pixels)}. Its {kind} must be "
        + ("normal.X, normal.Y and normal.Z" if kind == "normal" else "Z, or the only channel"),
    )
    values = np.stack([pixels[name] for name in names], -1)
    return MapFile(
        _check_channels(values, kind, path),
        str(header.get("depthUnit", "")) if kind == "depth" else "",
        str(header.get("normalAxes", "")) if kind == "normal" else "",
    )


def _exr_channels(pixels: Mapping[str, np.ndarray], kind: str) -> list[str]:
    """The names of the channels that hold a map; empty if there are none."""
    layers: dict[str, dict[str, str]] = {}  # layer -> last part of the name -> name
    for name in pixels:
        layer, _, last = name.rpartition(".")
        layers.setdefault(layer, {})[last.lower()] = name
    if kind == "normal":
        for spelling in EXR_NORMAL:
            for channels in layers.values():
                if all(last in channels for last in spelling):
                    return [channels[last] for last in spelling]
        return []
    if len(pixels) == 1:
        return list(pixels)
    for last in EXR_DEPTH:
        for channels in layers.values():
            if last in channels and "x" not in channels:
                return [channels[last]]
    for channels in layers.values():
        if all(last in channels for last in "rgb"):
            return [channels[last] for last in "rgb"]  # grey, as some programs write it
    return []


def _read_image_map(path: Path, kind: str) -> MapFile:
    """A PNG or TIFF file, with what its text says about the numbers."""
    with reporting_read_errors(path, NAMES[kind]):
        meaning = Meaning()
        values = None
        image = _open_with_pillow(path)
        if image is not None:
            with image:
                bits = 8
                if image.mode in ("I", "F"):
                    bits = 32
                elif "16" in image.mode:
                    bits = 16
                pixels = image.width * image.height * len(image.getbands())
                check_unpacked_size(path, pixels * bits // 8)
                image.load()  # complete, or an error; OpenCV would return what it has
                meaning = _png_meaning(path, image.info.get(PNG_TEXT, "{}"))
                if image.mode not in ("RGB", "RGBA", "P", "LA"):
                    values = np.asarray(image)
        if values is None:
            # Pillow would cut 16-bit colour to 8 bits, and knows no colours that are floats.
            values = decode_any_numbers(path)
            require(values is not None, f"{path} cannot be read. Save it as .npy")
            if values.ndim == 3:
                values = values[..., 2::-1]  # OpenCV's order is blue, green, red, and opacity
    values = _check_channels(values, kind, path)
    if meaning.scale is not None:
        infinite = values == meaning.infinite
        values = values * np.float32(meaning.scale) + np.float32(meaning.offset)
        if meaning.infinite is not None:
            values[infinite] = np.inf
    return MapFile(values, meaning.unit, meaning.axes)


class Meaning(NamedTuple):
    """What the text in a PNG map says about its numbers: value * scale + offset, in a unit."""

    scale: float | None = None
    offset: float = 0.0
    infinite: int | None = None  # the number that stands for infinitely far
    unit: str = ""
    axes: str = ""


def _png_meaning(path: Path, text: str) -> Meaning:
    """The text of a PNG map; a UserError unless it has the form that `urgt refine` writes."""
    try:
        fields = parse_json(text)
        meaning = Meaning(**{name: fields[name] for name in Meaning._fields if name in fields})
        optional = (meaning.scale, meaning.infinite)
        numbers = [meaning.offset, *[number for number in optional if number is not None]]
        valid = bool(np.isfinite(np.array(numbers, np.float32)).all())
        valid = valid and isinstance(meaning.unit, str) and isinstance(meaning.axes, str)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: its text {PNG_TEXT!r} is damaged ({error})") from error
    require(valid, f"{path}: its text {PNG_TEXT!r} is damaged: {text[:80]}. Save the map again")
    return meaning


def _open_with_pillow(path: Path) -> Image.Image | None:
    """The image, not decoded; None for a TIFF with numbers of a type that Pillow does not know."""
    try:
        return open_image(path, ("PNG", "TIFF"))
    except OSError:
        if is_tiff(path):
            return None
        raise


def read_mask(path: Path) -> Bool[np.ndarray, "H W"]:
    """Read a mask in any format of a depth map: True where it is not 0."""
    return np.asarray(read_map_file(path, "mask").values != 0)
