"""Weight files without torch: safetensors and torch's zip, read lazily and written in a stream.

Nothing in a file is ever run. A torch file holds a pickle, which is a program: `_Unpickler`
follows the few instructions that tensors and plain containers need, and refuses all others.
"""

import io
import itertools
import json
import math
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from urgt_jax.errors import UserError
from urgt_jax.files import replacing

LARGEST_INDEX = 100_000_000  # bytes of a header or a pickle, far above what weights need
LARGEST_REPEAT = 1 << 26  # bytes that strides of 0 may make of a smaller storage
MOST_VALUES = 1 << 20  # in a checkpoint; containers that share others can pretend to any number
DEEPEST, LONGEST = 64, 1000  # containers in one another, and letters in a tensor's name
OLD_TORCH = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # after two other bytes
DTYPES = {  # with their names in safetensors and in torch
    np.dtype(np.float64): ("F64", "DoubleStorage"),
    np.dtype(np.float32): ("F32", "FloatStorage"),
    np.dtype(np.float16): ("F16", "HalfStorage"),
    np.dtype(ml_dtypes.bfloat16): ("BF16", "BFloat16Storage"),
    np.dtype(np.int64): ("I64", "LongStorage"),
    np.dtype(np.int32): ("I32", "IntStorage"),
    np.dtype(np.int16): ("I16", "ShortStorage"),
    np.dtype(np.int8): ("I8", "CharStorage"),
    np.dtype(np.uint8): ("U8", "ByteStorage"),
    np.dtype(np.bool_): ("BOOL", "BoolStorage"),
}
SAFETENSORS = {names[0]: dtype for dtype, names in DTYPES.items()}
TORCH = {name: dtype for dtype, names in DTYPES.items() for name in (names[1], dtype.name)}
TORCH |= dict.fromkeys(("UntypedStorage", "_UntypedStorage"), np.dtype(np.uint8))

Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]
Read = Callable[[str], np.ndarray]


class Tensor(NamedTuple):
    """One tensor of a file; `read` copies it, and only it, into memory."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    part: Callable[[int], np.ndarray] | None = None  # one entry of the first axis, of safetensors


class TensorFile(NamedTuple):
    """The tensors of a file by their flat names, and the texts that came with them."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


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


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged or cut short: {why}; fetch or write it again")


def _shown(text: str) -> str:
    """A text out of a file, fit for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:100]) or "(no name)"


def _known(path: Path, name: str, kind: Any, table: dict) -> Any:
    """What the table says about a kind of number."""
    if kind in table:
        return table[kind]
    known = ", ".join(str(dtype) for dtype in DTYPES)
    kind, name = _shown(str(kind)), _shown(name)
    raise UserError(f"{name} in {path} is of the type {kind}: only {known} can be used")


def _are_sizes(numbers: Any) -> bool:
    if not isinstance(numbers, list | tuple):
        return False
    return all(type(n) is int and 0 <= n < 1 << 58 for n in numbers)


def _is_shape(shape: Any) -> bool:
    """Whether numpy can make an array of this shape, with sides of 0 as well."""
    return _are_sizes(shape) and len(shape) <= 32 and math.prod(n or 1 for n in shape) < 1 << 58


def _mapped(path: Path, start: int, size: int) -> np.ndarray:
    try:
        return np.memmap(path, np.uint8, "r", start, (size,))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read again, did it change? ({error})") from error


def _array(data: Callable[[], Any], shape, dtype, offset=0, strides=None) -> np.ndarray:
    """A copy of what offset and strides, both in bytes, pick out of the data."""
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.array(np.ndarray(shape, dtype, data(), offset, strides), order="C")


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


# torch: a zip with a pickle of the containers, and an entry for each storage


class _Storage(NamedTuple):
    kind: str
    key: str
    length: int


class _View(NamedTuple):
    """A tensor as a pickle tells it, part of a storage; its numbers are not checked yet."""

    storage: _Storage
    kind: str
    offset: Any
    shape: Any
    strides: Any
    lazy: Any  # what is still to be done to the numbers, such as {"neg": True}


def _view(storage, offset, shape, strides, grad, hooks, kind=None, lazy=None) -> _View:
    if not isinstance(storage, _Storage) or not isinstance(kind, str | None):
        raise ValueError("a tensor without a storage")
    return _View(storage, kind or storage.kind, offset, shape, strides, lazy)


CALLS = {  # what a pickle may call, and what is done instead
    "torch._utils._rebuild_tensor_v2": lambda *args: _view(*args[:6], None, *args[6:]),
    "torch._utils._rebuild_tensor_v3": _view,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": lambda call, kind, args, state: call(*args),
    "collections.OrderedDict": lambda: {},
    "torch.Size": lambda sizes=(): sizes,
}
NO_TENSORS = "torch.device collections.Counter _codecs.encode builtins.set builtins.complex"
CALLS |= dict.fromkeys(NO_TENSORS.split(), lambda *_: None)
NAMES = re.compile(  # what it may name without a call
    r"torch\.((\w+\.)?\w*Storage|Tensor|nn\.parameter\.Parameter|(b?float|q?u?int|bool|complex)\w*)"
)
STEPS = (  # the instructions it may have; none of them makes an object of a class
    "PROTO FRAME STOP MARK BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET NONE NEWTRUE NEWFALSE "
    "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE BINUNICODE8 SHORT_BINUNICODE "
    "BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_LIST APPEND APPENDS EMPTY_DICT GLOBAL STACK_GLOBAL REDUCE BINPERSID"
)
CODES = {getattr(pickle, step)[0] for step in STEPS.split()}
_Base = pickle._Unpickler  # the one in Python: its instructions are a table


class _Unpickler(_Base):
    """Reads a pickle that describes tensors and plain containers."""

    def __init__(self, path: Path, data: bytes):
        super().__init__(io.BytesIO(data))
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name here; the real thing is never imported."""
        name = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if name in CALLS:
            return CALLS[name]
        if NAMES.fullmatch(name):
            return name.rpartition(".")[2]
        raise UserError(
            f"{self.path} asks to run {_shown(name)}; only tensors and plain containers are read: "
            "where you trust the file, load it with torch and save its state_dict alone"
        )

    def persistent_load(self, pid: Any) -> Any:
        """What a pickle says about a storage; its data are elsewhere in the zip."""
        match pid:
            case ("storage", str(kind), str(key), _, int(length)) if _are_sizes([length]):
                return _Storage(kind, key, length)
        raise ValueError("a reference to something that is no storage")

    def set_items(self, keys: list, step: Callable) -> None:
        """Fills a dict; to hash a key of tuples in tuples could take for ever."""
        for key in keys:
            parts = key if type(key) is tuple else (key,)
            if not all(isinstance(part, str | int | float | None) for part in parts):
                raise ValueError(f"a key of the type {type(key).__name__}")
        step(self)

    dispatch = {code: step for code, step in _Base.dispatch.items() if code in CODES} | {
        pickle.SETITEM[0]: lambda self: self.set_items(self.stack[-2:-1], _Base.load_setitem),
        pickle.SETITEMS[0]: lambda self: self.set_items(self.stack[::2], _Base.load_setitems),
        pickle.EMPTY_SET[0]: _Base.load_empty_list,
        pickle.ADDITEMS[0]: _Base.load_appends,
        pickle.BUILD[0]: lambda self: self.stack.pop(),  # attributes, like a state_dict's _metadata
    }


def _walk(value: Any, steps: Iterator[int], name="", depth=0) -> Iterator[tuple[str, _View]]:
    """The tensors in nested containers, with their keys joined; all else is skipped."""
    if next(steps) > MOST_VALUES or depth > DEEPEST or len(name) > LONGEST:
        raise ValueError("containers that hold themselves, or too much")
    if isinstance(value, _View):
        yield name, value
        return
    if type(value) not in (dict, list, tuple):
        return
    for key, inner in value.items() if type(value) is dict else enumerate(value):
        yield from _walk(inner, steps, f"{name}.{key}" if name else str(key), depth + 1)


def _open_torch(path: Path) -> TensorFile:
    try:
        root, entries, index = _unzip(path)
        tensors = {}
        for name, view in _walk(_Unpickler(path, index).load(), itertools.count()):
            if name in tensors:
                raise ValueError(f"two tensors of the name {name}")
            tensors[name] = _torch_tensor(path, name, view, entries, root)
        return TensorFile(tensors, {})
    except (UserError, OSError):
        raise
    except Exception as error:  # zipfile and pickle meet wrong content in many ways
        why = _shown(f"{type(error).__name__}: {error}")
        raise _damaged(path, f"it is not what torch.save writes ({why})") from error


def _unzip(path: Path) -> tuple[str, dict[str, zipfile.ZipInfo], bytes]:
    """The folder in a zip file that torch.save wrote, all entries, and the pickle."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise UserError(f"{path} is a zip file, but not one that torch.save wrote")
        order = entries.get(f"{roots[0]}byteorder")
        if order and archive.open(order).read(9) != b"little":
            raise UserError(f"{path} is from a big-endian machine: save it again on another")
        return roots[0], entries, archive.open(f"{roots[0]}data.pkl").read(LARGEST_INDEX)


def _torch_tensor(path: Path, name: str, view: _View, entries: dict, root: str) -> Tensor:
    """The tensor that a view stands for, after a check of all that the pickle says."""
    dtype, stored = (_known(path, name, k, TORCH) for k in (view.kind, view.storage.kind))
    entry = entries.get(f"{root}data/{view.storage.key}")
    size, there = view.storage.length * stored.itemsize, entry.file_size if entry else 0
    if entry is None or size > there:
        raise _damaged(path, f"{_shown(name)} has {there} bytes of data, not {size}")
    wrong = _misfit(view, dtype.itemsize, size)
    if wrong:
        raise UserError(f"{_shown(name)} in {path} cannot be read: {wrong}; save it as a clone()")
    strides = [n * dtype.itemsize for n in view.strides]
    data, shape = _data(path, entry), tuple(view.shape)
    read = partial(_array, data, shape, dtype, view.offset * dtype.itemsize, strides)
    return Tensor(shape, dtype, read)


def _misfit(view: _View, item: int, size: int) -> str:
    """Why a tensor of items of so many bytes does not fit its storage; "" if it does."""
    shape, strides = view.shape, view.strides
    if not (_is_shape(shape) and _are_sizes([view.offset]) and _are_sizes(strides)):
        return "its shape, strides or offset are no sizes"
    if len(shape) != len(strides):
        return "its strides do not fit its shape"
    end = 1 + view.offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if 0 not in shape and end * item > size:
        return f"it reaches to byte {end * item} of {size}"
    if math.prod(shape) * item > max(size, LARGEST_REPEAT):
        return f"it makes {math.prod(shape) * item} bytes of {size}"
    return "it is a lazy negative or conjugate" if view.lazy and any(view.lazy.values()) else ""


def _data(path: Path, entry: zipfile.ZipInfo) -> Callable[[], Any]:
    """How to come by the data of an entry: mapped from the file, unless they are compressed."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        return partial(_unpacked, path, entry)
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        head = file.read(30)  # ends with the lengths of the two fields between it and the data
    start = entry.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))
    if head[:4] != b"PK\x03\x04" or start + entry.file_size > path.stat().st_size:
        raise ValueError(f"no data at {entry.filename}")
    return partial(_mapped, path, start, entry.file_size)


def _unpacked(path: Path, entry: zipfile.ZipInfo) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(entry)
    except Exception as error:  # damaged, encrypted, gone
        raise _damaged(path, _shown(f"{entry.filename}: {error}")) from error


# Writing: each tensor is asked for, checked, written, and read back at the end


def write_safetensors(path: Path, shapes: Shapes, read: Read, metadata: dict[str, str]) -> None:
    """Writes a safetensors file, in the order of the names."""
    header = _safetensors_header(path, shapes, metadata)
    with replacing(path) as file:
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
    with replacing(path) as file:
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
