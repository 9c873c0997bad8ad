"""Opens weight files of any format, one tensor at a time, and writes safetensors files."""

import json
import math
import struct
import zlib
from collections.abc import Mapping
from functools import partial

import numpy as np
from etils.epath import Path
from safetensors import SafetensorError, safe_open

from urgt_jax.errors import UserError, require
from urgt_jax.files import atomic_write
from urgt_jax.progress import Progress
from urgt_jax.weights.tensors import (
    DTYPES,
    Tensor,
    TensorFile,
    damaged_file_error,
    find_dtype,
    is_shape,
    printable,
)
from urgt_jax.weights.torch_files import OLD_TORCH_MAGIC, open_torch

ZIP_MAGIC = b"PK\x03\x04"
REWRITE = "Write it again, and use another disk if this happens twice."


def open_tensors(path: Path) -> TensorFile:
    """Opens a safetensors file or a PyTorch checkpoint; the content decides which, not the name."""
    try:
        require(not path.is_dir(), f"{path} is a folder. Pass a weight file in it.")
        require(path.is_file(), f"there is no weight file at {path}")
        with path.open("rb") as file:
            head = file.read(16)
        require(head != b"", f"{path} is empty. Download or write it again.")
        require(
            head[2:14] != OLD_TORCH_MAGIC,
            f"{path} has the format of torch before version 1.6. Load it with a newer torch, "
            "torch.save it again, and pass that file.",
        )
        if head.startswith(ZIP_MAGIC):
            return open_torch(path)
        # A safetensors file begins with 8 bytes for the length of its JSON header.
        require(head[8:9] == b"{", f"{path} is neither a safetensors file nor a file of torch.save")
        return _open_safetensors(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _open_safetensors(path: Path) -> TensorFile:
    try:
        # "pread" reads only what is asked for. The default maps the whole file, which then counts
        # as memory of this process, and which crashes it if the file is cut meanwhile.
        file = safe_open(path, framework="numpy", backend="pread")
    except SafetensorError as error:
        raise damaged_file_error(path, printable(str(error))) from error
    tensors = {}
    for name in file.keys():
        view = file.get_slice(name)
        shape = tuple(view.get_shape())
        if not is_shape(shape):
            raise damaged_file_error(path, f"{printable(name)} has an impossible shape")
        dtype = find_dtype(path, name, view.get_dtype(), DTYPES)
        read = partial(_read, path, file, name)
        tensors[name] = Tensor(shape, dtype, read, read_entry=read)
    return TensorFile(tensors, file.metadata() or {})


def _read(path: Path, file: safe_open, name: str, entry: int | None = None) -> np.ndarray:
    """Reads a tensor, or one entry of its first axis."""
    try:
        if entry is None:
            return file.get_tensor(name)
        return file.get_slice(name)[entry]
    except SafetensorError as error:
        raise UserError(f"cannot read {name} from {path}. Has the file changed? {error}") from error


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    progress: Progress | None = None,
) -> None:
    """Writes a safetensors file, with the tensors in the order of their names.

    The file is read back and compared before it takes its name.
    """
    # The library can only write tensors that are all in memory. This writer holds one at a time.
    header = _encode_header(path, tensors, metadata)
    checksums = {}
    with atomic_write(path) as file:
        file.write(header)
        for count, name in enumerate(sorted(tensors), start=1):
            data = _read_bytes(name, tensors[name])
            file.write(data)
            checksums[name] = zlib.crc32(data)
            if progress is not None:
                progress.update(count)
        file.flush()
        _verify(path, Path(file.name), tensors, checksums)


def _encode_header(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The length of the header and the header, padded so that the data start at 8 bytes."""
    type_names = {dtype: type_name for type_name, dtype in DTYPES.items()}
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in sorted(tensors):
        shape, dtype = tensors[name].shape, tensors[name].dtype
        require(name != "__metadata__", f"cannot write {path}: __metadata__ is a reserved name")
        find_dtype(path, name, type_names.get(dtype, str(dtype)), DTYPES)
        begin = end
        end = begin + math.prod(shape) * dtype.itemsize
        entries[name] = {
            "dtype": type_names[dtype],
            "shape": [int(side) for side in shape],
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _read_bytes(name: str, tensor: Tensor) -> np.ndarray:
    """Reads a tensor as bytes; fails if it is not what its description promises."""
    array = np.asarray(tensor.read())
    require(
        (array.shape, array.dtype) == (tensor.shape, tensor.dtype),
        f"{name} should be {tensor.dtype} of shape {tensor.shape}, but is {array.dtype} of shape "
        f"{array.shape}",
    )
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _verify(
    path: Path, written: Path, tensors: Mapping[str, Tensor], checksums: Mapping[str, int]
) -> None:
    """Reads back the file `written`, which is going to be `path`."""
    try:
        stored = open_tensors(written).tensors
    except UserError as error:
        raise UserError(f"{path} cannot be read back: {error} {REWRITE}") from error
    for name, checksum in checksums.items():
        shape_and_dtype = tensors[name].shape, tensors[name].dtype
        same = name in stored and (stored[name].shape, stored[name].dtype) == shape_and_dtype
        if not same or zlib.crc32(_read_bytes(name, stored[name])) != checksum:
            raise UserError(f"{name} in {path} is not what was written. {REWRITE}")
