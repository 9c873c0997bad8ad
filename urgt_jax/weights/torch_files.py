"""Reads the zip archive that `torch.save` writes, without torch and without running its pickle."""

import io
import itertools
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from urgt_jax.errors import UserError
from urgt_jax.weights.tensors import (
    DTYPES,
    LARGEST_INDEX,
    Tensor,
    TensorFile,
    _are_sizes,
    _array,
    _damaged,
    _is_shape,
    _known,
    _mapped,
    _shown,
)

LARGEST_REPEAT = 1 << 26  # bytes that strides of 0 may make of a smaller storage
MOST_VALUES = 1 << 20  # in a checkpoint; containers that share others can pretend to any number
DEEPEST, LONGEST = 64, 1000  # containers in one another, and letters in a tensor's name
OLD_TORCH = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # after two other bytes
TORCH = {name: dtype for dtype, names in DTYPES.items() for name in (names[1], dtype.name)}
TORCH |= dict.fromkeys(("UntypedStorage", "_UntypedStorage"), np.dtype(np.uint8))


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
