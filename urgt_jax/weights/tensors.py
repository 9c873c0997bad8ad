"""Tensors of a file that is not read yet, and the checks that all file formats share."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from urgt_jax.errors import UserError

LARGEST_INDEX = 100_000_000  # bytes of a header or a pickle, far above what weights need
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
