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
from urgt_jax.files import atomic_write, check_downloaded, checksum, parse_json
from urgt_jax.progress import Progress
from urgt_jax.remote import local_copy
from urgt_jax.weights.tensors import (
    DTYPES,
    Tensor,
    TensorFile,
    damaged_file_error,
    find_dtype,
    is_shape,
    short_text,
)
from urgt_jax.weights.torch_files import OLD_TORCH_MAGIC, open_torch

ZIP_MAGIC = b"PK\x03\x04"
REWRITE = "Write it again, and use another disk if this happens twice."
# The metadata entry with the checksums of the tensors and of the other metadata, as JSON.
CHECKSUMS = "urgt_jax.checksums"
METADATA = "__metadata__"
MAX_HEADER_BYTES = 1 << 24  # far more than the names and shapes of all tensors take


def open_tensors(path: Path) -> TensorFile:
    """Opens a safetensors file or a PyTorch checkpoint; the content decides which, not the name."""
    try:
        require(not path.is_dir(), f"{path} is a folder. Pass a weight file in it.")
        require(path.is_file(), f"there is no weight file at {path}")
        with path.open("rb") as file:
            head = file.read(64)
        require(head != b"", f"{path} is empty. Download or write it again.")
        check_downloaded(path, head, "weights")
        require(
            head[2:14] != OLD_TORCH_MAGIC,
            f"{path} has the format of torch before version 1.6. Load it with a newer torch, "
            "torch.save it again, and pass that file.",
        )
        if head.startswith(ZIP_MAGIC):
            return open_torch(path)
        # A safetensors file begins with 8 bytes for the length of its JSON header.
        require(head[8:9] == b"{", f"{path} is neither a safetensors file nor a file of torch.save")
        (header_bytes,) = struct.unpack("<Q", head[:8])
        if header_bytes > MAX_HEADER_BYTES:
            raise damaged_file_error(path, f"its header has {header_bytes / 1e6:.0f} MB")
        return _open_safetensors(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _open_safetensors(path: Path) -> TensorFile:
    try:
        # "pread" reads only what is asked for. The default maps the whole file, which then counts
        # as memory of this process, and which crashes it if the file is cut meanwhile.
        file = safe_open(local_copy(path), framework="numpy", backend="pread")
    except SafetensorError as error:
        raise damaged_file_error(path, short_text(str(error))) from error
    metadata = file.metadata() or {}
    checksums = _stored_checksums(path, metadata)
    tensors = {}
    for name in file.keys():
        view = file.get_slice(name)
        shape = tuple(view.get_shape())
        if not is_shape(shape):
            raise damaged_file_error(path, f"{short_text(name)} has an impossible shape")
        dtype = find_dtype(path, name, view.get_dtype(), DTYPES)
        if checksums is not None and name not in checksums:
            raise damaged_file_error(path, f"{short_text(name)} has no checksum")
        expected = checksums[name] if checksums is not None else None
        tensors[name] = Tensor(
            shape,
            dtype,
            read=partial(_read, path, file, name, expected),
            read_entry=partial(_read_entry, path, file, name),
        )
    texts = {key: text for key, text in metadata.items() if key != CHECKSUMS}
    return TensorFile(tensors, texts)


def _stored_checksums(path: Path, metadata: Mapping[str, str]) -> dict[str, str] | None:
    """The checksums of the tensors by name, or None in a file that other programs wrote."""
    ours = [key for key in metadata if key.startswith("urgt_jax")]
    if not ours:
        return None
    try:
        checksums = parse_json(metadata[CHECKSUMS])
        intact = checksums.pop(METADATA) == _metadata_checksum(metadata)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged_file_error(path, "its checksums are missing") from error
    if not intact:
        raise damaged_file_error(path, "its configuration is not the one that was written")
    return checksums


def _metadata_checksum(metadata: Mapping[str, str]) -> str:
    """The checksum of all metadata but the checksums."""
    others = {key: text for key, text in metadata.items() if key != CHECKSUMS}
    return checksum(json.dumps(others, sort_keys=True).encode())


def _tensor_checksum(array: np.ndarray) -> str:
    """The checksum of a tensor's number type, shape and bytes."""
    description = zlib.crc32(f"{array.dtype} {array.shape}".encode())
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return checksum(data, description)


def _read(path: Path, file: safe_open, name: str, expected: str | None) -> np.ndarray:
    """Reads a tensor; fails if it is not the one that was written."""
    try:
        array = file.get_tensor(name)
    except SafetensorError as error:
        raise UserError(f"cannot read {name} from {path}. Has the file changed? {error}") from error
    if expected is not None and _tensor_checksum(array) != expected:
        raise damaged_file_error(path, f"{short_text(name)} is not what was written")
    return array


def _read_entry(path: Path, file: safe_open, name: str, entry: int) -> np.ndarray:
    """Reads one entry of a tensor's first axis, without a check."""
    try:
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

    If it has metadata, these hold a checksum of every tensor, which is verified when it is read.
    The file is read back and compared before it takes its name.
    """
    # The library can only write tensors that are all in memory. This writer holds one at a time.
    # Checksums are known at the end. Until then others of the same length hold their place.
    checksums = dict.fromkeys(sorted(tensors), "00000000")
    header = _encode_header(path, tensors, metadata, checksums)
    with atomic_write(path) as file:
        file.write(header)
        for count, name in enumerate(sorted(tensors), start=1):
            array = _read_array(name, tensors[name])
            file.write(array.reshape(-1).view(np.uint8))
            checksums[name] = _tensor_checksum(array)
            if progress is not None:
                progress.update(count)
        file.seek(0)
        file.write(_encode_header(path, tensors, metadata, checksums))
        file.flush()
        _verify(path, Path(file.name), tensors, checksums)


def _encode_header(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    checksums: Mapping[str, str],
) -> bytes:
    """The length of the header and the header, padded so that the data start at 8 bytes."""
    type_names = {dtype: type_name for type_name, dtype in DTYPES.items()}
    metadata = dict(metadata)
    if metadata:
        all_checksums = {**checksums, METADATA: _metadata_checksum(metadata)}
        metadata[CHECKSUMS] = json.dumps(all_checksums)
    entries: dict[str, object] = {METADATA: metadata}
    end = 0
    for name in sorted(tensors):
        shape, dtype = tensors[name].shape, tensors[name].dtype
        require(name != METADATA, f"cannot write {path}: {METADATA} is a reserved name")
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


def _read_array(name: str, tensor: Tensor) -> np.ndarray:
    """Reads a tensor; fails if it is not what its description promises."""
    array = np.asarray(tensor.read())
    require(
        (array.shape, array.dtype) == (tensor.shape, tensor.dtype),
        f"{name} should be {tensor.dtype} of shape {tensor.shape}, but is {array.dtype} of shape "
        f"{array.shape}",
    )
    # The library keeps no empty shape.
    return np.ascontiguousarray(array).reshape(array.shape)


def _verify(
    path: Path, written: Path, tensors: Mapping[str, Tensor], checksums: Mapping[str, str]
) -> None:
    """Reads back the file `written`, which is going to be `path`."""
    try:
        stored = open_tensors(written).tensors
        for name, expected in checksums.items():
            shape_and_dtype = tensors[name].shape, tensors[name].dtype
            same = name in stored and (stored[name].shape, stored[name].dtype) == shape_and_dtype
            if not same or _tensor_checksum(stored[name].read()) != expected:
                raise UserError(f"{name} in {path} is not what was written. {REWRITE}")
    except UserError as error:
        raise UserError(f"{path} cannot be read back: {error} {REWRITE}") from error
