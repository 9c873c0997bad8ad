"""Readers for the depth map formats of data sets. Values stay as they are in the file."""

import math
import re
import struct
import zlib
from typing import BinaryIO

import numpy as np
from etils.epath import Path
from jaxtyping import Float

from urgt_jax.errors import import_extra, require
from urgt_jax.files import load_npy, reporting_read_errors
from urgt_jax.images.files import check_unpacked_size, largest_unpacked_size, open_image
from urgt_jax.remote import is_remote, readable

SINTEL_TAG = np.float32(202021.25).tobytes()  # begins the depth and camera files of MPI Sintel
COMPRESSED = 15  # the type of compressed variables of a MATLAB file
MAT_PART = 2**24  # bytes of them that are unpacked at a time
# Some programs write comments between the parts of the header, as in other netpbm files.
PFM_HEADER = re.compile(
    rb"P[fF]\s+(?:#[^\n]*\n\s*)*(\d+)\s+(\d+)\s+(?:#[^\n]*\n\s*)*([-+.\deE]+)(?:\r\n|\s)"
)


def open_npy(path: Path, channels: int = 0) -> Float[np.ndarray, "H W *C"]:
    """A .npy file of floats, mapped into memory; an axis of `channels` is last if there are any."""
    with reporting_read_errors(path, ".npy map"), path.open("rb") as file:
        is_npy = file.read(6) == b"\x93NUMPY"
        require(is_npy, f"{path} is not a .npy file. Save one array with np.save")
        values = load_npy(path, mapped=True)
    require(values.dtype.kind == "f", f"{path} has dtype {values.dtype}. Save it as float32")
    if channels:
        require(
            values.ndim == 3 and values.shape[2] == channels,
            f"{path} has shape {values.shape}. Save an array of shape [height, width, {channels}]",
        )
        return values
    require(
        values.ndim == 2,
        f"{path} has shape {values.shape}. Save an array of shape [height, width]",
    )
    return values


def open_pfm(path: Path, channels: int = 1) -> Float[np.ndarray, "H W *C"]:
    """A PFM file of either byte order, top row first, mapped into memory.

    It is grey, [H, W], or with three channels a colour file, [H, W, 3].
    """
    with reporting_read_errors(path, "PFM map"), path.open("rb") as file:
        start = file.read(1024)
    if channels == 1:
        message = f"{path} is a colour PFM file. A depth map has one channel (Pf)"
        require(start[:2] != b"PF", message)
    else:
        message = f"{path} is a grey PFM file. A normal map has three channels (PF)"
        require(start[:2] != b"Pf", message)
    header = PFM_HEADER.match(start)
    require(
        header is not None,
        f"{path} is not a PFM file. It must begin with Pf, width, height and scale",
    )
    width, height = int(header[1]), int(header[2])
    scale_text = header[3].decode()
    scale = _parse_float(scale_text)
    require(
        scale is not None and scale != 0,
        f"{path} has the scale {scale_text}. The scale of a PFM file is a number other than 0",
    )
    dtype = "<f4" if scale < 0 else ">f4"
    shape = (height, width) if channels == 1 else (height, width, channels)
    values = _map_floats(path, dtype, header.end(), shape)
    return values[::-1]  # the file begins with the bottom row


def open_raw32(path: Path, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """A file of little-endian float32 without a header, row by row, mapped into memory."""
    with reporting_read_errors(path, "raw float32 map"):
        return _map_floats(path, "<f4", 0, size)


def open_dpt(path: Path) -> Float[np.ndarray, "H W"]:
    """A depth file of MPI Sintel (.dpt), mapped into memory."""
    with reporting_read_errors(path, ".dpt map"), path.open("rb") as file:
        header = file.read(12)
    require(
        len(header) == 12 and header[:4] == SINTEL_TAG,
        f"{path} is not a .dpt file. It must begin with the number 202021.25",
    )
    width, height = np.frombuffer(header, "<i4", 2, 4).tolist()
    require(
        min(width, height) > 0,
        f"{path} gives a size of {height} x {width} pixels. Download it again",
    )
    return _map_floats(path, "<f4", 12, (height, width))


def read_hdf5(path: Path, name: str, part: int | None = None) -> np.ndarray:
    """The array of that name in an HDF5 file, or one part of it along its first axis.

    The array must be stored in the file itself: HDF5 can name any other file in its place.
    """
    h5py = import_extra("h5py", "data")
    with reporting_read_errors(path, "HDF5 file"), h5py.File(readable(path), "r") as file:
        require(name in file.keys(), f"{path} has no array {name!r}. Download it again")
        is_own = isinstance(file.get(name, getlink=True), h5py.HardLink)
        values = file[name] if is_own else None
        require(
            isinstance(values, h5py.Dataset) and not values.is_virtual and values.external is None,
            f"{path}: {name!r} is no array of this file but a link or a group. Download it again",
        )
        shape = values.shape if part is None else values.shape[1:]
        check_unpacked_size(path, values.dtype.itemsize * math.prod(shape))
        if part is None:
            return np.asarray(values[()])
        length = values.shape[0] if values.shape else 0
        require(
            part < length,
            f"{path} has {length} parts of {name}, but part {part + 1} is needed. Download it "
            "again",
        )
        return np.asarray(values[part])


def read_hdf5_map(path: Path, name: str) -> Float[np.ndarray, "H W"]:
    """The map of floats of that name in an HDF5 file."""
    values = read_hdf5(path, name)
    require(
        values.ndim == 2 and values.dtype.kind == "f",
        f"{path} has shape {values.shape} and dtype {values.dtype}. Its {name} must be floats "
        "[height, width]",
    )
    return values


def read_mat(path: Path) -> dict:
    """The variables of a MATLAB file of version 5; structures have their fields as names."""
    scipy_io = import_extra("scipy.io", "data")
    with reporting_read_errors(path, "MATLAB file"), path.open("rb") as file:
        check_unpacked_size(path, _unpacked_mat_size(file, largest_unpacked_size(path)))
        file.seek(0)
        return scipy_io.loadmat(file, simplify_cells=True)


def _unpacked_mat_size(file: BinaryIO, limit: float) -> int:
    """Bytes of the variables in a MATLAB file of version 5, counted until they exceed a limit.

    After a header of 128 bytes, each variable is a type, a number of bytes and these bytes, which
    are compressed in variables of type 15.
    """
    order = "<" if file.read(128)[126:] == b"IM" else ">"
    total = 0
    while len(tag := file.read(8)) == 8:
        kind, length = struct.unpack(f"{order}II", tag)
        content = file.read(length)
        total += len(content)
        if kind != COMPRESSED:
            continue
        decompressor = zlib.decompressobj()
        while content and total <= limit:
            total += len(decompressor.decompress(content, MAT_PART))
            content = decompressor.unconsumed_tail
    return total


def read_png16(path: Path) -> Float[np.ndarray, "H W"]:
    """The values 0 to 65535 of a 16-bit grey PNG, as float32."""
    with reporting_read_errors(path, "16-bit PNG"), open_image(path, formats=("PNG",)) as file:
        require(
            file.mode in ("I;16", "I;16B", "I"),
            f"{path} has pixels of mode {file.mode}. A depth map must be a 16-bit grey PNG",
        )
        return np.asarray(file).astype(np.float32)


def _map_floats(path: Path, dtype: str, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    """Maps the floats after `offset` bytes of a file into memory; their number must fit `shape`."""
    height, width = shape[:2]
    stored = path.stat().length - offset
    expected = 4 * math.prod(shape)
    require(
        stored == expected > 0,
        f"{path} holds {stored} bytes of pixels, but {height} x {width} float32 pixels need "
        f"{expected}. Download it again",
    )
    with reporting_read_errors(path, "map"):
        if is_remote(path):
            return np.frombuffer(path.read_bytes(), dtype, offset=offset).reshape(shape)
        return np.memmap(path, dtype, "r", offset, shape)


def _parse_float(text: str) -> float | None:
    """The number that a text says, or None."""
    try:
        return float(text)
    except ValueError:
        return None
