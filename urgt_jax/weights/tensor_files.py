"""Files of tensors, read lazily: safetensors and PyTorch checkpoints."""

import itertools
import json
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from urgt_jax.errors import UserError
from urgt_jax.files import atomic_write
from urgt_jax.weights.tensors import (
    DTYPES,
    LARGEST_INDEX,
    Tensor,
    TensorFile,
    _array,
    _damaged,
    _is_shape,
    _known,
    _mapped,
    _shown,
)
from urgt_jax.weights.torch_files import OLD_TORCH, _open_torch

SAFETENSORS = {names[0]: dtype for dtype, names in DTYPES.items()}
Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]
Read = Callable[[str], np.ndarray]


def open_tensors(path: Path) -> TensorFile:
    """What a weight file holds; its content tells its kind, not its name."""
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder: name a weight file in it")
        if not path.is_file():
            raise UserError(f"no weight file at {path}")
        with path.open("rb") as file:
            head = file.read(16)
        if head[2:14] == OLD_TORCH:
            raise UserError(
                f"{path} is in torch's format from before version 1.6: "
                "load it with torch, torch.save it again, and give that file"
            )
        return (_open_torch if head.startswith(b"PK\x03\x04") else _open_safetensors)(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


# safetensors: the length of a header, the header in JSON, the data without gaps


def _open_safetensors(path: Path) -> TensorFile:
    header, start, size = _json_header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged(path, "its __metadata__ is not texts by name")
    tensors, spans = {}, []
    for name, entry in header.items():
        tensors[name], span = _safetensor(path, name, entry, start)
        spans.append(span)
    spans = [(0, 0), *sorted(spans), (size - start, size - start)]
    for (_, end), (begin, _) in itertools.pairwise(spans):
        if begin != end:  # else each byte belongs to one tensor
            raise _damaged(path, f"data end at byte {start + end} and go on at {start + begin}")
    return TensorFile(tensors, metadata)


def _json_header(path: Path) -> tuple[dict, int, int]:
    """The header, where the data begin, and the size of the file."""
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path} is empty: fetch or write it again")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= LARGEST_INDEX or file.read(1) != b"{":
            raise UserError(f"{path} is neither a safetensors file nor one that torch.save wrote")
        if length > size - 8:
            raise _damaged(path, f"its header should have {length} bytes, the file has {size}")
        text = b"{" + file.read(length - 1)
    try:
        return json.loads(text), 8 + length, size
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON ({error})") from error


def _safetensor(path: Path, name: str, entry: Any, start: int) -> tuple[Tensor, tuple[int, int]]:
    """One tensor, and the range it takes of the data, which begin at `start`."""
    match entry:
        case {"dtype": str(kind), "shape": [*sides], "data_offsets": [int(begin), int(end)]}:
            dtype, shape = _known(path, name, kind, SAFETENSORS), tuple(sides)
        case _:
            raise _damaged(path, f"{_shown(name)} in its header is no tensor")
    if not _is_shape(shape) or end - begin != math.prod(shape) * dtype.itemsize:
        raise _damaged(path, f"{_shown(name)} has data of another size than its shape")
    read = partial(_array, partial(_mapped, path, start + begin, end - begin), shape, dtype)

    def part(i: int) -> np.ndarray:
        size = (end - begin) // shape[0]
        return _array(partial(_mapped, path, start + begin + i * size, size), shape[1:], dtype)

    return Tensor(shape, dtype, read, part), (begin, end)


# Writing: each tensor is asked for, checked, written, and read back at the end


def write_safetensors(path: Path, shapes: Shapes, read: Read, metadata: dict[str, str]) -> None:
    """Writes a safetensors file, in the order of the names."""
    header = _safetensors_header(path, shapes, metadata)
    with atomic_write(path) as file:
        file.write(header)
        sums = {name: _write(file, name, shapes[name], read) for name in sorted(shapes)}
        _verify(path, file, shapes, sums, "")


def _safetensors_header(path: Path, shapes: Shapes, metadata: dict[str, str]) -> bytes:
    if "__metadata__" in shapes:
        raise UserError(f"cannot write {path}: no tensor can have the name __metadata__")
    header, end = {"__metadata__": metadata}, 0
    for name in sorted(shapes):
        sides, dtype = [int(n) for n in shapes[name][0]], np.dtype(shapes[name][1])
        begin, end = end, end + math.prod(sides) * dtype.itemsize
        kind = _known(path, name, dtype, DTYPES)[0]
        header[name] = {"dtype": kind, "shape": sides, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_torch(
    path: Path, shapes: Shapes, read: Read, level: str | None = "model_state_dict"
) -> None:
    """Writes a file for torch.load, in the order of `shapes`, under the key `level` if any."""
    texts = {"data.pkl": _pickled(path, shapes, level), "byteorder": b"little", "version": b"3\n"}
    sums = {}
    with atomic_write(path) as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, text in texts.items():
                with _entry(archive, name, file.tell()) as out:
                    out.write(text)
            for key, name in enumerate(shapes):
                with _entry(archive, f"data/{key}", file.tell()) as out:
                    sums[name] = _write(out, name, shapes[name], read)
        _verify(path, file, shapes, sums, f"{level}." if level else "")


def _entry(archive: zipfile.ZipFile, name: str, at: int):
    """Opens an entry whose data begin at a multiple of 64 bytes, as torch likes to map them."""
    entry = zipfile.ZipInfo(f"archive/{name}")
    # Before the data come 30 bytes, the name, 4 + fill bytes for this, and 20 for long sizes.
    fill = -(at + 30 + len(entry.filename) + 4 + 20) % 64
    entry.extra = struct.pack("<2sH", b"FB", fill) + b"Z" * fill
    return archive.open(entry, "w", force_zip64=True)


def _pickled(path: Path, shapes: Shapes, level: str | None) -> bytes:
    """{level: OrderedDict of tensors}, or the OrderedDict alone, as torch pickles it."""
    new_dict = b"ccollections\nOrderedDict\n)R"
    parts = [b"\x80\x02", b"" if level is None else b"}" + _plain(level), new_dict, b"("]
    for key, (name, (shape, dtype)) in enumerate(shapes.items()):
        shape = tuple(int(n) for n in shape)
        strides = tuple(math.prod(n or 1 for n in shape[i + 1 :]) for i in range(len(shape)))
        kind = _known(path, name, np.dtype(dtype), DTYPES)[1]
        parts += [_plain(name), b"ctorch._utils\n_rebuild_tensor_v2\n(("]
        parts += [_plain("storage"), f"ctorch\n{kind}\n".encode(), _plain(str(key))]
        parts += [_plain("cpu"), _plain(math.prod(shape)), b"tQ", _plain(0)]
        parts += [_plain(shape), _plain(strides), b"\x89", new_dict, b"tR"]  # no gradient, hooks
    return b"".join([*parts, b"u" if level is None else b"us", b"."])


def _plain(value: str | int | tuple[int, ...]) -> bytes:
    return pickle.dumps(value, 2)[2:-1]  # without the protocol before it and the stop behind it


def _write(out: BinaryIO, name: str, promised: tuple, read: Read) -> int:
    """Writes one tensor and returns the checksum of its bytes."""
    array = np.asarray(read(name))
    shape, dtype = tuple(promised[0]), np.dtype(promised[1])
    if (array.shape, array.dtype) != (shape, dtype):
        raise UserError(
            f"{name} should be {dtype} of shape {shape}, but is {array.dtype} of {array.shape}: "
            "give what it is made from in the right shape"
        )
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    out.write(data.data)
    return zlib.crc32(data)


def _verify(path: Path, file: BinaryIO, shapes: Shapes, sums: dict[str, int], level: str) -> None:
    """Reads back what was written, before it takes its name."""
    file.flush()
    advice = "write it again, to another disk if that happens twice"
    try:
        tensors = open_tensors(Path(file.name)).tensors
    except UserError as error:
        raise UserError(f"{path} cannot be read back ({error}): {advice}") from error
    for name, checksum in sums.items():
        found, promised = tensors.get(level + name), shapes[name]
        same = found and (found.shape, found.dtype) == (tuple(promised[0]), promised[1])
        if not same or zlib.crc32(found.read().reshape(-1).view(np.uint8)) != checksum:
            raise UserError(f"{name} in {path} is not what was written: {advice}")
