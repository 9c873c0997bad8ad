"""Reads the zip archives that `torch.save` writes, without torch.

The archive holds a pickle, which describes nested containers of tensors, and the numbers of each
storage as one entry. The pickle is decoded but never executed: its instructions only build plain
containers and descriptions of tensors. Anything else is an error.
"""

import math
import pickletools
import re
import struct
import zipfile
import zlib
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from etils.epath import Path

from urgt_jax.errors import UserError
from urgt_jax.remote import local_copy
from urgt_jax.weights.tensors import (
    DTYPES,
    Tensor,
    TensorFile,
    are_sizes,
    damaged_file_error,
    find_dtype,
    is_shape,
    short_text,
)

CHUNK_BYTES = 1 << 24  # of an entry whose checksum is worked out
MAX_ENTRY_BYTES = 1 << 24  # of the pickle, far more than a description of tensors takes
MAX_EXPANSION = 50  # times that an archive may grow when it is unpacked; weights hardly shrink
MAX_EXPANDED_BYTES = (
    1 << 26
)  # a tensor with strides of 0 may be larger than its storage, up to this
MAX_VALUES = 1 << 20  # containers that share others can stand for any number of values
MAX_DEPTH = 64  # containers inside one another
MAX_NAME_LENGTH = 1000
# The start of a file from before torch 1.6, after the two bytes of the pickle protocol.
OLD_TORCH_MAGIC = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")

# The number types by the names of torch's storage classes and of its dtypes.
TORCH_DTYPES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": DTYPES["BF16"],
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "UntypedStorage": np.dtype(np.uint8),
    "_UntypedStorage": np.dtype(np.uint8),
}
TORCH_DTYPES |= {dtype.name: dtype for dtype in DTYPES.values()}

# Objects that a checkpoint may contain but that hold no tensors.
IGNORED_CALLS = (
    "torch.device",
    "collections.Counter",
    "_codecs.encode",
    "builtins.set",
    "builtins.complex",
)
ALLOWED_CALLS = (
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._tensor._rebuild_from_type_v2",
    "collections.OrderedDict",
    "torch.Size",
    *IGNORED_CALLS,
)
# Classes and dtypes that a pickle may name but not call.
ALLOWED_NAMES = re.compile(
    r"torch\.((\w+\.)?\w*Storage|Tensor|nn\.parameter\.Parameter|(b?float|q?u?int|bool|complex)\w*)"
)


class _Global(NamedTuple):
    """The name of a function or class in a pickle; the object itself is never imported."""

    name: str


class _Storage(NamedTuple):
    """The numbers that one or several tensors share."""

    type_name: str
    key: str  # the name of its entry in the archive
    length: int


class _View(NamedTuple):
    """A tensor as the pickle describes it: a part of a storage. Its sizes are not checked yet."""

    storage: _Storage
    type_name: str
    offset: Any
    shape: Any
    strides: Any
    metadata: Any  # operations that torch has postponed, such as {"neg": True}


def open_torch(path: Path) -> TensorFile:
    """Opens a zip archive of torch.save; raises UserError for anything else."""
    try:
        root, entries, content = _read_archive(path)
        tensors = {}
        verified: set[str] = set()  # storages whose checksum was right
        for name, view in _name_views(_decode_pickle(path, content)).items():
            tensors[name] = _tensor(path, name, view, root, entries, verified)
        return TensorFile(tensors, {})
    except (UserError, OSError):
        raise
    except Exception as error:  # zipfile and the decoder fail on wrong content in many ways
        reason = short_text(f"{type(error).__name__}: {error}")
        raise damaged_file_error(path, f"torch.save did not write this ({reason})") from error


def _read_archive(path: Path) -> tuple[str, dict[str, zipfile.ZipInfo], bytes]:
    """The folder inside the archive, its entries by name, and the pickle."""
    with zipfile.ZipFile(local_copy(path)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    unpacked = sum(entry.file_size for entry in entries.values())
    if unpacked > MAX_EXPANSION * path.stat().length:
        raise damaged_file_error(path, f"it would unpack to {unpacked / 1e9:.1f} GB")
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise UserError(f"{path} is a zip file, but torch.save did not write it")
    root = roots[0]
    byte_order = entries.get(f"{root}byteorder")
    if byte_order is not None and _read_entry(path, byte_order).tobytes() != b"little":
        raise UserError(
            f"{path} was written on a big-endian machine. Save it on a little-endian one."
        )
    pickle = entries[f"{root}data.pkl"]
    if pickle.file_size > MAX_ENTRY_BYTES:
        raise damaged_file_error(path, f"its pickle has {pickle.file_size / 1e6:.0f} MB")
    _verify_entry(path, pickle)
    return root, entries, _read_entry(path, pickle).tobytes()


def _decode_pickle(path: Path, content: bytes) -> Any:
    """Builds the containers and tensor descriptions of a pickle, without executing anything."""
    stack: list[Any] = []
    outer_stacks: list[list[Any]] = []  # set aside by MARK until its items are collected
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(content):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            # Values
            case "NONE":
                stack.append(None)
            case "NEWTRUE":
                stack.append(True)
            case "NEWFALSE":
                stack.append(False)
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "BINUNICODE8" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "BINSTRING" | "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES":
                stack.append(argument)
            # Values that occur again
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            # Containers
            case "MARK":
                outer_stacks.append(stack)
                stack = []
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name.removeprefix("TUPLE"))
                items = [stack.pop() for _ in range(count)]
                stack.append(tuple(reversed(items)))
            case "TUPLE":
                items = stack
                stack = outer_stacks.pop()
                stack.append(tuple(items))
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS" | "ADDITEMS":
                items = stack
                stack = outer_stacks.pop()
                stack[-1].extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                value = stack.pop()
                key = stack.pop()
                _set_item(stack[-1], key, value)
            case "SETITEMS":
                items = stack
                stack = outer_stacks.pop()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _set_item(stack[-1], key, value)
            # Objects
            case "GLOBAL":
                module, name = argument.split(" ")
                stack.append(_find_global(path, module, name))
            case "STACK_GLOBAL":
                name = stack.pop()
                module = stack.pop()
                stack.append(_find_global(path, module, name))
            case "REDUCE":
                arguments = stack.pop()
                function = stack.pop()
                stack.append(_call(function, arguments))
            case "BUILD":
                stack.pop()  # attributes of an object, such as the _metadata of a state_dict
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case _:
                raise ValueError(f"the pickle instruction {opcode.name}")
    raise ValueError("a pickle without an end")


def _set_item(container: Any, key: Any, value: Any) -> None:
    """Sets an entry of a dict. Hashing a key of deeply nested tuples could take forever."""
    parts = key if type(key) is tuple else (key,)
    for part in parts:
        if not isinstance(part, str | int | float | None):
            raise ValueError(f"a key with a {type(part).__name__}")
    if type(container) is not dict:
        raise ValueError(f"an item of a {type(container).__name__}")
    container[key] = value


def _find_global(path: Path, module: str, name: str) -> _Global:
    """The name of a function or class; raises UserError unless checkpoints need it."""
    module = module.replace("__builtin__", "builtins")  # its name in Python 2
    full_name = f"{module}.{name}"
    if full_name in ALLOWED_CALLS or ALLOWED_NAMES.fullmatch(full_name):
        return _Global(full_name)
    raise UserError(
        f"{path} asks to run {short_text(full_name)}; only tensors and plain containers are read. "
        "If you trust the file, load it with torch and save its state_dict alone."
    )


def _call(function: Any, arguments: Any) -> Any:
    """What a call in the pickle stands for."""
    if not isinstance(function, _Global) or type(arguments) is not tuple:
        raise ValueError("a call of something that is no function")
    match function.name:
        case "torch._utils._rebuild_tensor_v2":
            # storage, offset, shape, strides, requires_grad, hooks, and perhaps metadata
            storage, offset, shape, strides = arguments[:4]
            metadata = arguments[6] if len(arguments) > 6 else None
            return _View(storage, _type_name(storage), offset, shape, strides, metadata)
        case "torch._utils._rebuild_tensor_v3":
            # the same with a dtype before the metadata
            storage, offset, shape, strides = arguments[:4]
            _type_name(storage)
            metadata = arguments[7] if len(arguments) > 7 else None
            return _View(storage, _last_part(arguments[6]), offset, shape, strides, metadata)
        case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state":
            return arguments[0]
        case "torch._tensor._rebuild_from_type_v2":
            # function, class, arguments, state
            return _call(arguments[0], arguments[2])
        case "collections.OrderedDict" if arguments == ():
            return {}
        case "torch.Size":
            return arguments[0] if arguments else ()
        case name if name in IGNORED_CALLS:
            return None
    raise ValueError(f"a call of {function.name}")


def _storage(reference: Any) -> _Storage:
    """The storage that a persistent id of the pickle names."""
    match reference:
        case ("storage", _Global() as storage_class, str(key), _, int(length)):
            if are_sizes([length]):
                return _Storage(_last_part(storage_class), key, length)
    raise ValueError("a reference to something that is no storage")


def _type_name(storage: Any) -> str:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    return storage.type_name


def _last_part(name: Any) -> str:
    """The name without its module, such as float32 for torch.float32."""
    if not isinstance(name, _Global):
        raise ValueError("a type that is no name")
    return name.name.rpartition(".")[2]


def _name_views(root: Any) -> dict[str, _View]:
    """The tensors in nested containers, named by their keys joined with points."""
    views: dict[str, _View] = {}
    visits = 0

    def visit(value: Any, name: str, depth: int) -> None:
        nonlocal visits
        visits += 1
        if visits > MAX_VALUES or depth > MAX_DEPTH or len(name) > MAX_NAME_LENGTH:
            raise ValueError("containers that hold themselves, or too many values")
        if isinstance(value, _View):
            if name in views:
                raise ValueError(f"two tensors of the name {name}")
            views[name] = value
        elif type(value) is dict:
            for key, inner in value.items():
                visit(inner, f"{name}.{key}" if name else str(key), depth + 1)
        elif type(value) in (list, tuple):
            for index, inner in enumerate(value):
                visit(inner, f"{name}.{index}" if name else str(index), depth + 1)

    visit(root, "", 0)
    return views


def _tensor(
    path: Path,
    name: str,
    view: _View,
    root: str,
    entries: dict[str, zipfile.ZipInfo],
    verified: set[str],
) -> Tensor:
    """The tensor that a view describes; everything that the pickle says of it is checked."""
    dtype = find_dtype(path, name, view.type_name, TORCH_DTYPES)
    storage_dtype = find_dtype(path, name, view.storage.type_name, TORCH_DTYPES)
    storage_bytes = view.storage.length * storage_dtype.itemsize
    entry = entries.get(f"{root}data/{view.storage.key}")
    entry_bytes = entry.file_size if entry is not None else 0
    if entry is None or storage_bytes > entry_bytes:
        reason = f"{short_text(name)} has {entry_bytes} bytes of data instead of {storage_bytes}"
        raise damaged_file_error(path, reason)
    problem = _find_problem(view, dtype.itemsize, storage_bytes)
    if problem:
        raise UserError(
            f"{short_text(name)} in {path} cannot be read: {problem}. Save a clone() of it."
        )
    read = partial(_read_tensor, path, view, dtype, entry, verified)
    return Tensor(tuple(view.shape), dtype, read)


def _find_problem(view: _View, item_bytes: int, storage_bytes: int) -> str:
    """Why a tensor does not fit its storage; empty if it does."""
    if not (is_shape(view.shape) and are_sizes([view.offset]) and are_sizes(view.strides)):
        return "its shape, strides or offset are no sizes"
    if len(view.shape) != len(view.strides):
        return "its strides do not fit its shape"
    end = _end(view) * item_bytes
    if 0 not in view.shape and end > storage_bytes:
        return f"it needs {end} bytes of a storage of {storage_bytes}"
    tensor_bytes = math.prod(view.shape) * item_bytes
    if tensor_bytes > max(storage_bytes, MAX_EXPANDED_BYTES):
        return f"it expands {storage_bytes} bytes to {tensor_bytes}"
    if view.metadata and any(view.metadata.values()):
        return "its negation or conjugation is postponed"
    return ""


def _end(view: _View) -> int:
    """The position after the last number of its storage that a tensor uses."""
    last = view.offset
    for side, stride in zip(view.shape, view.strides, strict=True):
        last += (side - 1) * stride
    return last + 1


def _read_tensor(
    path: Path, view: _View, dtype: np.dtype, entry: zipfile.ZipInfo, verified: set[str]
) -> np.ndarray:
    """Reads the part of a storage that a tensor spans."""
    if 0 in view.shape:
        return np.empty(view.shape, dtype)
    if entry.filename not in verified:
        _verify_entry(path, entry)
        verified.add(entry.filename)
    begin = view.offset * dtype.itemsize
    size = _end(view) * dtype.itemsize - begin
    data = _read_entry(path, entry, begin, size)
    strides = [stride * dtype.itemsize for stride in view.strides]
    array = np.ndarray(view.shape, dtype, data, strides=strides)
    return np.asarray(array, order="C")


def _read_entry(
    path: Path, entry: zipfile.ZipInfo, begin: int = 0, size: int | None = None
) -> np.ndarray:
    """Bytes of an entry of the archive; without a size all of them, up to MAX_ENTRY_BYTES."""
    if size is None:
        size = min(entry.file_size, MAX_ENTRY_BYTES)
    is_encrypted = entry.flag_bits & 1
    try:
        if entry.compress_type == zipfile.ZIP_STORED and not is_encrypted:
            # zipfile would insist on the checksums, which torch.save can be told to leave out, and
            # would read a whole entry for a part of it. `_verify_entry` checks them.
            begin += _find_data(path, entry)
            data = np.fromfile(local_copy(path), np.uint8, size, offset=begin)
        else:
            with zipfile.ZipFile(local_copy(path)) as archive, archive.open(entry) as file:
                data = np.frombuffer(bytearray(file.read(begin + size)[begin:]), np.uint8)
    except Exception as error:  # zipfile fails in many ways: damaged, encrypted, deleted
        raise damaged_file_error(path, short_text(f"{entry.filename}: {error}")) from error
    if len(data) != size:
        raise damaged_file_error(path, f"{short_text(entry.filename)} is too short")
    return data


def _verify_entry(path: Path, entry: zipfile.ZipInfo) -> None:
    """Fails unless an entry has the checksum in the archive; 0 says that torch left it out."""
    if entry.CRC == 0:
        return
    if entry.compress_type != zipfile.ZIP_STORED:
        _verify_compressed_entry(path, entry)
        return
    checksum = 0
    for begin in range(0, entry.file_size, CHUNK_BYTES):
        size = min(CHUNK_BYTES, entry.file_size - begin)
        checksum = zlib.crc32(_read_entry(path, entry, begin, size), checksum)
    if checksum != entry.CRC:
        raise damaged_file_error(path, f"{short_text(entry.filename)} is not what was written")


def _verify_compressed_entry(path: Path, entry: zipfile.ZipInfo) -> None:
    """Reads an entry to its end, where zipfile compares the checksum."""
    try:
        with zipfile.ZipFile(local_copy(path)) as archive, archive.open(entry) as file:
            while file.read(CHUNK_BYTES):
                pass
    except Exception as error:  # zipfile fails in many ways: damaged, encrypted, deleted
        raise damaged_file_error(path, short_text(f"{entry.filename}: {error}")) from error


def _find_data(path: Path, entry: zipfile.ZipInfo) -> int:
    """The position in the file of the data of an uncompressed entry."""
    with local_copy(path).open("rb") as file:
        file.seek(entry.header_offset)
        header = file.read(30)
    if header[:4] != b"PK\x03\x04" or len(header) != 30:
        raise ValueError("no such entry")
    # The header ends with the lengths of the name and of another field, which come before the data.
    name_length, extra_length = struct.unpack("<HH", header[26:])
    return entry.header_offset + 30 + name_length + extra_length
